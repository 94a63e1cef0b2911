"""The built-in types of sources: a source of ``type: parquet`` is read by the module ``parquet`` in here.

Such a module has a class ``Options``, what model.yaml says under ``options``, and a function ``read(day, options)``
that returns the rows of a day as a pandas frame, or None where there is nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import ValidationError

from evergreen.catalog import SPEC_FILE, load_function
from evergreen.contract import ConfigurationError
from evergreen.field_types import matching
from evergreen.mistakes import Mistakes, errors_in, mistakes_in
from evergreen.spec import ModelSpec, Source
from evergreen.store import get_store

if TYPE_CHECKING:
    import pandas as pd

Reader = Callable[[date], "pd.DataFrame | None"]
DailyPath = Annotated[
    str,
    matching(
        r"(s3://[^/{}]+)?(/[^/{}]+)*/[^/{}]*\{partition\}[^/{}]*",
        "the file of a day, an absolute path or s3://bucket/key, with {partition} in its name",
    ),
]
"""An option of a type that reads a file a day."""


def content_of(path: str, day: date) -> bytes | None:
    """Return the content of a day's file, on a disk or in S3; None if there is no such file."""
    folder, _, name = path.replace("{partition}", str(day)).rpartition("/")
    if folder.startswith("s3://"):
        return get_store(folder).read(name)
    try:
        return Path(f"{folder}/{name}").read_bytes()
    except FileNotFoundError:
        return None


def source_types() -> list[str]:
    """Return the names of the built-in types."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def reader_of(spec: ModelSpec, source: Source) -> Reader:
    """Return the function that reads a day of a source: the model's own, or that of a built-in type.

    Raises
    ------
    ConfigurationError
        If there is no such function or type, or the type does not take these options.
    """
    if source.reader:
        return load_function(spec, source.reader)
    path, types = spec.folder / SPEC_FILE, source_types()
    if source.type not in types:
        raise ConfigurationError(
            f"{path}: sources.{source.name}.type: there is no type {source.type!r}.",
            f"Use one of {', '.join(types)}, or write a reader.",
        )
    module = importlib.import_module(f"{__name__}.{source.type}")
    try:
        options = module.Options.model_validate(source.options)
    except ValidationError as error:
        mistakes = errors_in(error, module.Options, source.options)
    else:
        return partial(module.read, options=options)
    for mistake in mistakes:
        mistake["loc"] = ("sources", source.name, "options", *mistake["loc"])
    raise Mistakes(mistakes_in(path, mistakes), "docs/models.md lists the options of every type of source.")
