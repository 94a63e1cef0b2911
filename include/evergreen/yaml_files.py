"""YAML files that people write: read, checked against a class, and every mistake in them said in words."""

from __future__ import annotations

import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from evergreen.contract import UNWRITABLE, ConfigurationError

_BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's loader is ten times as fast
_LONGEST_VALUE = 80
_MOST_LINES = 20
"""How many different problems a message says in full; of the others it says how many there are."""
_EQUAL = 4
"""From how many on equal problems of one section become one line."""

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


class Mistake(ConfigurationError):
    """One thing that is wrong in a file; ``times`` says how often, where equal problems are said in one line."""

    def __init__(self, line: str, times: int = 1) -> None:
        super().__init__(line)
        self.times = times


class Mistakes(ConfigurationError):
    """Everything that is wrong in a file, a line each; of very many the first ones, and how many more there are."""

    def __init__(self, mistakes: Sequence[Mistake], hint: str) -> None:
        self.mistakes = list(mistakes[:_MOST_LINES])
        if rest := sum(mistake.times for mistake in mistakes[_MOST_LINES:]):
            self.mistakes.append(Mistake(f"… and {rest:,} more.", rest))
        super().__init__("\n".join(mistake.message for mistake in self.mistakes), hint)


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
        errors = error.errors(include_url=False)
    raise Mistakes(mistakes_in(path, errors, secret), hint)


def mistakes_in(path: Path, errors: list[ErrorDetails], secret: Collection[str] = ()) -> list[Mistake]:
    """Return what Pydantic found in a file, in words."""
    return [Mistake(f"{path}: {line}.", times) for line, times in _problems(errors, secret)]


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


def _follows(item: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """Tell whether a list is called too short only because items of it are wrong: Pydantic counts the right ones."""
    place = item["loc"]
    return item["type"] == "too_short" and any(
        other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in errors
    )


def _problems(errors: list[ErrorDetails], secret: Collection[str]) -> Iterator[tuple[str, int]]:
    """Yield what is wrong in words, and how often; equal problems of one section are one line."""
    alike: dict[tuple[object, ...], list[ErrorDetails]] = {}
    for item in errors:
        if not _follows(item, errors):
            alike.setdefault(_likeness(item), []).append(item)
    for items in alike.values():
        if len(items) < _EQUAL or secret:
            yield from ((line, 1) for item in items for line in _problem_lines(item, secret))
            continue
        section, _ = _place(items[0])
        last = [(_place(item)[1], item["input"]) for item in items[:_EQUAL]]
        names = ", ".join(_shown(value if isinstance(part, int) else part) for part, value in last)
        more = ", …" if len(items) > _EQUAL else ""
        where = f"{section}: " if section else ""
        yield f"{where}{_problem(items[0])} ({len(items):,} times: {names}{more})", len(items)


def _likeness(item: ErrorDetails) -> tuple[object, ...]:
    """Return what two problems have in common that one line can say; a problem of a section itself is like no other."""
    if item["type"] == "missing" or (item["type"] == "value_error" and isinstance(item["input"], dict)):
        return item["loc"]
    return _place(item)[0], _problem(item)


def _place(item: ErrorDetails) -> tuple[str, str | int]:
    """Return the section that a problem is in, and the field, key or position in it."""
    place = [part for part in item["loc"] if part != "[key]"] or [""]
    return ".".join(map(str, place[:-1])), place[-1]


def _problem(item: ErrorDetails) -> str:
    if item["type"] == "extra_forbidden":
        return "there is no such field"
    return str(item["ctx"]["error"]) if item["type"] == "value_error" else item["msg"]


def _problem_lines(item: ErrorDetails, secret: Collection[str]) -> list[str]:
    field = ".".join(str(part) for part in item["loc"])
    value = item["input"]
    if item["type"] == "value_error" and isinstance(value, dict):
        # a check over several fields of a section: it names the field itself, a line for each problem
        return [f"{field}.{line}" if field else line for line in str(item["ctx"]["error"]).splitlines()]
    if item["type"] == "missing":
        return [f"{field}: the field is missing"]
    if secret and (isinstance(value, dict | list) or not set(secret).isdisjoint(item["loc"])):
        return [f"{field}: {_problem(item)}"]
    return [f"{field}: {_problem(item)} (value: {_shown(value)})"]


def _shown(value: object) -> str:
    try:
        shown = repr(value)
    except ValueError:  # a whole number of more digits than Python writes out
        return "a number of thousands of digits"
    return shown if len(shown) <= _LONGEST_VALUE else shown[:_LONGEST_VALUE] + "…"
