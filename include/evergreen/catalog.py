"""The models of the project: finds, loads and checks ``include/models/<name>/model.yaml``."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from evergreen.contract import ConfigurationError
from evergreen.settings import get_settings
from evergreen.spec import ModelSpec

SPEC_FILE = "model.yaml"
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's loader is ten times as fast


def model_names(models_dir: Path | None = None) -> list[str]:
    """Return the names of all models, sorted: one folder with a model.yaml each."""
    root = models_dir or get_settings().models_dir
    return sorted(path.parent.name for path in root.glob(f"*/{SPEC_FILE}"))


def load_models(models_dir: Path | None = None) -> list[ModelSpec]:
    """Load every model, sorted by name; the first wrong one raises ConfigurationError."""
    return [load_model(name, models_dir) for name in model_names(models_dir)]


def load_model(name: str, models_dir: Path | None = None) -> ModelSpec:
    """Load one model by name.

    Raises
    ------
    ConfigurationError
        If there is no such model, or its model.yaml is wrong; the message names file, field and value.
    """
    root = models_dir or get_settings().models_dir
    path = root / name / SPEC_FILE
    if not path.is_file():
        have = ", ".join(model_names(root)) or "none"
        raise ConfigurationError(
            f"There is no model {name!r} in {root} (models: {have}).", f"evergreen models new {name} creates it."
        )
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  # a safe loader
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not valid YAML: {error}", "Correct the line named above.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected a mapping of fields, found {type(content).__name__}.")
    try:
        spec = ModelSpec.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(_explain(path, error), "Correct the fields; docs/models.md lists them all.") from error
    if spec.name != name:
        raise ConfigurationError(f"{path}: name: {spec.name!r} differs from its folder {name!r}.", "Make them equal.")
    spec._folder = path.parent
    return spec


def _explain(path: Path, error: ValidationError) -> str:
    lines = []
    for item in error.errors():
        field = ".".join(str(part) for part in item["loc"]) or "model"
        value = "" if item["type"] == "missing" or not item["loc"] else f" (value: {item['input']!r})"
        lines.append(f"{path}: {field}: {item['msg']}{value}.")
    return "\n".join(lines)


def config_digest(spec: ModelSpec) -> str:
    """Return the digest (16 hex characters) over every file of the model's folder.

    It versions the model's configuration: SQL, expectations and network count as much as model.yaml.
    """
    digest = hashlib.sha256()
    for path in sorted(spec.folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(spec.folder).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def load_function(spec: ModelSpec, reference: str) -> Callable[..., Any]:
    """Import ``file.py:function`` from the model's folder.

    Raises
    ------
    ConfigurationError
        If the file, or the function in it, does not exist.
    """
    file, _, name = reference.partition(":")
    path = spec.folder / file
    if not path.is_file():
        raise ConfigurationError(f"{spec.folder / SPEC_FILE}: {reference!r}: there is no file {path}.")
    # registered nowhere in sys.modules: two models may both have a network.py
    module_spec = importlib.util.spec_from_file_location(f"evergreen_models.{spec.name}.{path.stem}", path)
    assert module_spec is not None  # noqa: S101  # a .py path always has a loader
    assert module_spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigurationError(f"{path}: there is no function {name!r}, named by {spec.folder / SPEC_FILE}.")
    return function  # type: ignore[no-any-return]
