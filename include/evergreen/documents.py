"""YAML files that people write: read, checked against a class, and every mistake in them said in words."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from evergreen.contract import ConfigurationError

_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's loader is ten times as fast
_LONGEST_VALUE = 80
_Kind = TypeVar("_Kind", bound=BaseModel)


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
    content = _parse(path, read_text(path))
    if content is None:
        raise _empty(path, "docs/models.md shows what belongs there.")
    return content


def read_text(path: Path) -> str:
    """Read a text file.

    Raises
    ------
    ConfigurationError
        If the file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: there is no such file.", "Create it, or correct its name.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8: byte {error.start} is wrong.", "Save it as UTF-8.") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}.", "Check its rights.") from error


def checked(path: Path, text: str, kind: type[_Kind], hint: str, secret: Collection[str] = ()) -> _Kind:
    """Return what a YAML file says, as a class; an empty file gives the class's defaults.

    Parameters
    ----------
    path, text
        The file, and its content.
    kind
        What it must be.
    hint
        What to do about a mistake, e.g. where the fields are listed.
    secret
        Names of fields whose values are in no message; with any, nor are whole sections.

    Raises
    ------
    ConfigurationError
        With a line for every problem: file, field, what is wrong, value.
    """
    content = _parse(path, text)
    if content is None:
        if any(field.is_required() for field in kind.model_fields.values()):
            raise _empty(path, hint)
        content = {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected a mapping of fields, found {type(content).__name__}.", hint)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        found = error.errors()
    lines = [line for item in found if not _follows(item, found) for line in _problem_lines(item, secret)]
    raise ConfigurationError("\n".join(f"{path}: {line}." for line in lines), hint)


def _empty(path: Path, hint: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: the file is empty.", hint)


def _parse(path: Path, text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe loader
    except yaml.YAMLError as error:  # what it says may hold the line, and that a password
        raise ConfigurationError(f"{path}{_yaml_problem(error)}.", "Correct that line.") from None
    except ValueError as error:  # a date such as 2013-02-30
        raise ConfigurationError(f"{path}: not valid YAML: {error}.", "Correct that value.") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark: yaml.Mark | None = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    where = f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    if "cannot start any token" in problem:
        problem = "a character that cannot start anything here; indent with spaces, not tabs, and quote @ ` and %"
    return f"{where}: not valid YAML: {problem}"


def _follows(item: ErrorDetails, found: list[ErrorDetails]) -> bool:
    """Tell whether a list is called too short only because items of it are wrong: Pydantic counts the right ones."""
    place = item["loc"]
    return item["type"] == "too_short" and any(
        other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in found
    )


def _problem_lines(item: ErrorDetails, secret: Collection[str]) -> list[str]:
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
    if secret and (isinstance(value, dict | list) or not set(secret).isdisjoint(item["loc"])):
        return [f"{field}: {text}"]
    shown = repr(value)
    return [f"{field}: {text} (value: {shown if len(shown) <= _LONGEST_VALUE else shown[:_LONGEST_VALUE] + '…'})"]
