"""The models of the project: finds, loads and checks ``include/models/<name>/model.yaml``."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import traceback
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from evergreen.contract import NAME_PATTERN, ConfigurationError, StepError, described, is_stop
from evergreen.mistakes import Mistake, Mistakes
from evergreen.settings import get_settings
from evergreen.spec import Behaviours, ModelSpec
from evergreen.yaml_files import checked, read_text

SPEC_FILE = "model.yaml"
BEHAVIOURS_FILE = "behaviours.yaml"
_HINT = "Correct the fields; docs/models.md lists them all."
_BEHAVIOURS_HINT = "Correct the fields; docs/models.md lists them all under 'Every field of behaviours.yaml'."


def model_names(models_dir: Path | None = None) -> list[str]:
    """Return the names of all models, sorted: one folder with a model.yaml each."""
    root = models_dir or get_settings().models_dir
    return sorted(path.parent.name for path in root.glob(f"[!.]*/{SPEC_FILE}"))  # hidden: being created


class Survey(NamedTuple):
    """What is in the models folder."""

    models: list[ModelSpec]
    """The models that are right, sorted by name."""
    problems: dict[str, ConfigurationError]
    """What is wrong with the others, by folder."""


def survey(models_dir: Path | None = None) -> Survey:
    """Load the models that are right, and say what is wrong with the others.

    Raises
    ------
    ConfigurationError
        If there is no models folder.
    """
    models, problems = [], {}
    owners: dict[str, tuple[str, str]] = {}
    for name in model_folders(models_dir):
        try:
            spec = load_model(name, models_dir)
            _claim_views(spec, owners)
        except ConfigurationError as error:
            problems[name] = error
        except Exception as error:  # a folder without rights, no memory: whatever it is, the others have their DAGs
            path = (models_dir or get_settings().models_dir) / name
            problems[name] = ConfigurationError(f"{path}: {type(error).__name__}: {error}.", "Correct that folder.")
        else:
            models.append(spec)
    return Survey(models, problems)


def _claim_views(spec: ModelSpec, owners: dict[str, tuple[str, str]]) -> None:
    """Note a model's views in Feast, where all models meet: ``a`` with ``b_c``, and ``a_b`` with ``c``.

    Their tables in the online store have names that are cut, so two long ones may meet as well.
    """
    for view in spec.features.views:
        name, table = spec.feast_name(view), spec.online_table(view)
        model, other = owners.setdefault(table, (spec.name, view.name))
        if (model, other) != (spec.name, view.name):
            clash = f"is {name} in Feast, and so is a view of {model}"
            if f"{model}_{other}" != name:
                clash = (
                    f"has the table {table} in the online store, cut to 63 characters, and so has {other} of {model}"
                )
            raise ConfigurationError(
                f"{spec.folder / SPEC_FILE}: features.views: {view.name!r} {clash}.", "Give the view another name."
            )


def model_folders(models_dir: Path | None = None) -> list[str]:
    """Return the models, and the folders that should be one, sorted: one without a model.yaml is a mistake.

    Raises
    ------
    ConfigurationError
        If there is no models folder.
    """
    root = models_dir or get_settings().models_dir
    if not root.is_dir():
        raise ConfigurationError(f"{root}: there is no such folder.", "EVERGREEN_MODELS_DIR says where the models are.")
    return sorted(path.name for path in root.iterdir() if path.name[0] not in "._" and path.is_dir())


def load_models(models_dir: Path | None = None) -> list[ModelSpec]:
    """Load every model, sorted by name.

    Raises
    ------
    ConfigurationError
        If any is wrong; the message says everything that is wrong with each.
    """
    models, problems = survey(models_dir)
    if problems:
        raise ConfigurationError("\n".join(map(str, problems.values())))
    return models


def load_model(name: str, models_dir: Path | None = None) -> ModelSpec:
    """Load one model by name.

    Raises
    ------
    ConfigurationError
        If there is no such model, or its model.yaml or behaviours.yaml is wrong; the message names file, field and
        value.
    """
    root = models_dir or get_settings().models_dir
    path = root / name / SPEC_FILE
    if not re.fullmatch(NAME_PATTERN, name) or not path.is_file():
        raise _no_model(root, name)
    spec = _validated(path, read_text(path), behaviours_text(path.parent))
    if spec.name != name:
        raise ConfigurationError(f"{path}: name: {spec.name!r} differs from its folder {name!r}.", "Make them equal.")
    return spec


def _no_model(root: Path, name: str) -> ConfigurationError:
    if name not in model_folders(root):
        have = ", ".join(model_names(root)) or "none"
        hint = f"evergreen models new {name} creates it."
        return ConfigurationError(f"There is no model {name!r} in {root} (models: {have}).", hint)
    if re.fullmatch(NAME_PATTERN, name):
        return ConfigurationError(
            f"{root / name / SPEC_FILE}: there is no such file.", "Create it, or move its folder."
        )
    return ConfigurationError(
        f"{root / name}: {name!r} is no name for a model.",
        "Rename the folder: lower-case letters, digits and underscores, a letter first.",
    )


@lru_cache(maxsize=4096)
def _validated(path: Path, text: str, behaviours: str) -> ModelSpec:
    """Check a model.yaml once for each content of it: reading it costs 1 % of what parsing it does."""
    spec = checked(path, text, ModelSpec, _HINT)
    spec._folder = path.parent
    spec._behaviours = behaviours_in(behaviours, spec)
    return spec


def behaviours_text(folder: Path) -> str:
    """Return the text of a model's behaviours.yaml; empty where there is none."""
    path = folder / BEHAVIOURS_FILE
    return read_text(path) if path.exists() else ""


def behaviours_in(text: str, spec: ModelSpec) -> Behaviours:
    """Return the tests that a behaviours.yaml holds.

    Raises
    ------
    ConfigurationError
        If the file is wrong or does not fit the model; with a line for every problem.
    """
    path = spec.folder / BEHAVIOURS_FILE
    behaviours = checked(path, text, Behaviours, _BEHAVIOURS_HINT)
    if problems := list(behaviours.problems(spec.task, spec.features)):
        raise Mistakes([Mistake(f"{path}: {problem}.") for problem in problems], _BEHAVIOURS_HINT)
    return behaviours


def config_digest(spec: ModelSpec) -> str:
    """Return the digest (16 hex characters) over every file of the model's folder.

    It versions the model's configuration: SQL, expectations and network count as much as model.yaml. Hidden files
    and byte code do not count.
    """
    digest = hashlib.sha256()
    for path in sorted(spec.folder.rglob("*")):
        name = path.relative_to(spec.folder)
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in name.parts):
            digest.update(name.as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
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
        raise ConfigurationError(
            f"{spec.folder / SPEC_FILE}: {reference!r}: there is no file {path}.",
            "Create it, or correct the reference.",
        )
    function = getattr(_load_module(path, hashlib.sha256(path.read_bytes()).hexdigest(), spec.name), name, None)
    if not callable(function):
        raise ConfigurationError(
            f"{path}: there is no function {name!r}, named by {spec.folder / SPEC_FILE}.",
            "Write it, or correct that line.",
        )
    return function  # type: ignore[no-any-return]


@lru_cache(maxsize=64)
def _load_module(path: Path, digest: str, model: str) -> ModuleType:
    """Import a file of a model once for each content of it (``digest``)."""
    # registered nowhere in sys.modules: two models may both have a network.py
    module_spec = importlib.util.spec_from_file_location(f"evergreen_models.{model}.{path.stem}", path)
    assert module_spec is not None  # noqa: S101  # a .py path always has a loader
    assert module_spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except StepError:
        raise
    except BaseException as error:  # a script ends with sys.exit
        if is_stop(error):
            raise
        line = error.lineno if isinstance(error, SyntaxError) else line_in(path, error)
        raise ConfigurationError(
            f"{path}: line {line}: {described(error)}.", "The file must import without an error."
        ) from error
    return module


def line_in(path: Path, error: BaseException) -> int | None:
    """Return the last line of ``path`` that an error passed through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None
