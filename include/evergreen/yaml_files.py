"""YAML files that people write: read, and checked against a class."""

from __future__ import annotations

import stat
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from evergreen.contract import UNWRITABLE, ConfigurationError
from evergreen.mistakes import Mistakes, errors_in, mistakes_in

_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's loader is ten times as fast

# What a file may ask of the machine. libyaml dies on 100,000 brackets, PyYAML expands aliases without an end, and a
# colon makes a number of any length: all are counted on the stream of events, before anything is made of it.
MOST_BYTES = 1_000_000
_MOST_VALUES = 20_000
"""Keys and values, those behind an alias counted each time; a model of 3,000 columns has 15,000."""
_DEEPEST = 50
_LONGEST_TEXT = 10_000
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
        if stat.S_ISFIFO(mode := path.stat().st_mode) or stat.S_ISCHR(mode):  # it may never begin, or never end
            raise ConfigurationError(f"{path}: a pipe or device, not a file.", "Put a file there.")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigurationError(f"{path}: longer than {MOST_BYTES:,} bytes.", "Is it the right file?")
        return content.decode("utf-8-sig").replace("\r\n", "\n")
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
        errors = errors_in(error, kind, content)
    raise Mistakes(mistakes_in(path, errors, secret), hint)


def _empty(path: Path, hint: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: the file is empty.", hint)


def _parse(path: Path, text: str) -> Any:
    try:
        _refuse_excess(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a safe loader
    except yaml.YAMLError as error:  # what it says may hold the line, and that a password
        raise ConfigurationError(f"{path}{_yaml_problem(error)}.", "Correct that line.") from None
    except ValueError as error:  # a date such as 2013-02-30
        raise ConfigurationError(f"{path}: not valid YAML: {error}.", "Correct that value.") from None


def _refuse_excess(text: str) -> None:
    """Refuse what would take more time, memory or stack than a file of this kind ever needs."""
    values = 0
    sizes: dict[str | None, int] = {}
    open_collections: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.NodeEvent):
            values += sizes.get(event.anchor, 1) if isinstance(event, yaml.AliasEvent) else 1
        if isinstance(event, yaml.ScalarEvent):
            sizes[event.anchor] = 1
            if len(event.value) > _LONGEST_TEXT:
                raise _excess(event, f"a text of more than {_LONGEST_TEXT:,} characters")
            if UNWRITABLE.search(event.value):  # Airflow's DAG processor dies of a NUL on its way to PostgreSQL
                raise _excess(event, "a control character, such as \\0, in a text")
        elif isinstance(event, yaml.CollectionStartEvent):
            open_collections.append((event.anchor, values - 1))
            sizes[event.anchor] = _MOST_VALUES + 1  # until it ends: an alias in it would have no end
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_collections.pop()
            sizes[anchor] = values - before
        if len(open_collections) > _DEEPEST:
            raise _excess(event, f"more than {_DEEPEST} brackets or indents deep")
        if values > _MOST_VALUES:
            raise _excess(event, f"more than {_MOST_VALUES:,} keys and values, those behind an alias counted each time")


def _excess(event: Any, problem: str) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, problem, event.start_mark)


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark: yaml.Mark | None = getattr(error, "problem_mark", None)
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    where = f": line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    if "cannot start any token" in problem:
        problem = "a character that cannot start anything here; indent with spaces, not tabs, and quote @ ` and %"
    return f"{where}: not valid YAML: {problem}"
