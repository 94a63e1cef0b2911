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

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from evergreen.contract import NAME_PATTERN, ConfigurationError, StepError
from evergreen.settings import get_settings
from evergreen.spec import ModelSpec

SPEC_FILE = "model.yaml"
_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's loader is ten times as fast
_LONGEST_VALUE = 80


class _Loader(_BASE):  # type: ignore[misc]
    """YAML's safe loader, but a key given twice is an error: YAML itself silently keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping after checking its keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path) -> Any:
    """Read a YAML file of a model.

    Raises
    ------
    ConfigurationError
        If the file is missing, unreadable, empty, not UTF-8, not YAML, or gives a key twice; the message names the
        file and, where there is one, the line.
    """
    return _parse(path, _read_text(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: there is no such file.", "Create it, or correct its name.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8: byte {error.start} is wrong.", "Save it as UTF-8.") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}.", "Check its rights.") from error


def _parse(path: Path, text: str) -> Any:
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe loader
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}{_yaml_problem(error)}.", "Correct that line.") from error
    except ValueError as error:  # a date such as 2013-02-30
        raise ConfigurationError(f"{path}: not valid YAML: {error}.", "Correct that value.") from error
    if content is None:
        raise ConfigurationError(f"{path}: the file is empty.", "docs/models.md shows what belongs there.")
    return content


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark: yaml.Mark | None = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    where = f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    if "cannot start any token" in problem:
        problem = "a character that cannot start anything here; indent with spaces, not tabs, and quote @ ` and %"
    return f"{where}: not valid YAML: {problem}"


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
    for name in model_folders(models_dir):
        try:
            spec = load_model(name, models_dir)
            check_schedule(spec)
        except ConfigurationError as error:
            problems[name] = error
        else:
            models.append(spec)
    return Survey(models, problems)


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
    found = survey(models_dir)
    if found.problems:
        raise ConfigurationError("\n".join(str(problem) for problem in found.problems.values()))
    return found.models


def load_model(name: str, models_dir: Path | None = None) -> ModelSpec:
    """Load one model by name.

    Raises
    ------
    ConfigurationError
        If there is no such model, or its model.yaml is wrong; the message names file, field and value.
    """
    root = models_dir or get_settings().models_dir
    path = root / name / SPEC_FILE
    if not re.fullmatch(NAME_PATTERN, name) or not path.is_file():
        raise _no_model(root, name)
    spec = _validated(path, _read_text(path))
    if spec.name != name:
        raise ConfigurationError(f"{path}: name: {spec.name!r} differs from its folder {name!r}.", "Make them equal.")
    return spec


def _no_model(root: Path, name: str) -> ConfigurationError:
    have = ", ".join(model_names(root)) or "none"
    if name not in model_folders(root):
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
def _validated(path: Path, text: str) -> ModelSpec:
    """Check a model.yaml once for each content of it: reading it costs 1 % of what parsing it does."""
    content = _parse(path, text)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected a mapping of fields, found {type(content).__name__}.")
    try:
        spec = ModelSpec.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(_explain(path, error), "Correct the fields; docs/models.md lists them all.") from error
    spec._folder = path.parent
    return spec


def check_schedule(spec: ModelSpec) -> None:
    """Check what only a cron library can say of a schedule; where there is none (a step image), nothing is said.

    Raises
    ------
    ConfigurationError
        If the schedule is no cron expression.
    """
    try:
        from croniter import croniter  # type: ignore[import-untyped]
    except ImportError:  # it comes with Airflow
        return
    if not croniter.is_valid(spec.schedule.cron):
        raise ConfigurationError(
            f"{spec.folder / SPEC_FILE}: schedule.cron: {spec.schedule.cron!r} is not a cron expression.",
            "Five fields: minute, hour, day of month, month, day of week; every day at six is 0 6 * * *",
        )


def _explain(path: Path, error: ValidationError) -> str:
    """Return a line for every problem: file, field, what is wrong, value."""
    found = error.errors()
    return "\n".join(f"{path}: {line}." for item in found if not _follows(item, found) for line in _problem_lines(item))


def _follows(item: ErrorDetails, found: list[ErrorDetails]) -> bool:
    """Tell whether a list is called too short only because items of it are wrong: Pydantic counts the right ones."""
    place = item["loc"]
    return item["type"] == "too_short" and any(
        other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in found
    )


def _problem_lines(item: ErrorDetails) -> list[str]:
    field = ".".join(str(part) for part in item["loc"])
    value = item["input"]
    if item["type"] == "value_error" and isinstance(value, dict):
        # a check over several fields of a section: it names the field itself, a line for each problem
        return [f"{field}.{line}" if field else line for line in str(item["ctx"]["error"]).splitlines()]
    text = str(item["ctx"]["error"]) if item["type"] == "value_error" else item["msg"]
    if item["type"] == "missing":
        return [f"{field}: the field is missing"]
    if item["type"] == "extra_forbidden":
        text = "there is no such field"
    shown = repr(value)
    return [f"{field}: {text} (value: {shown if len(shown) <= _LONGEST_VALUE else shown[:_LONGEST_VALUE] + '…'})"]


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
    except Exception as error:
        line = error.lineno if isinstance(error, SyntaxError) else _line_in(path, error)
        raise ConfigurationError(
            f"{path}: line {line}: {type(error).__name__}: {error}.", "The file must import without an error."
        ) from error
    return module


def _line_in(path: Path, error: Exception) -> int | None:
    """Return the last line of ``path`` that an error passed through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None
