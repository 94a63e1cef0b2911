"""What is wrong in a file that a person wrote: everything at once, in words, each thing where it stands.

Places are written as people count: the second rule of a gate is ``gate.rules, entry 2``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from evergreen.contract import ConfigurationError

_LONGEST_VALUE = 80
_MOST_LINES = 20
"""How many different problems a message says in full; of the others it says how many there are."""
_EQUAL = 4
"""From how many on equal problems of one section become one line."""
_ENTRY = re.compile(r", entry \d+$")
_NAMES_FIELD = re.compile(r"[a-z_.]+(, [a-z_.]+| entry \d+)*: ")


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


def errors_in(error: ValidationError, kind: type[BaseModel], content: object) -> list[ErrorDetails]:
    """Return what Pydantic has found wrong, each thing at the place in the file where it stands.

    Of a value that may be one thing or another Pydantic has a problem for each, at a place that it has made a name
    for; here they are one. A field that does not exist has what it may be meant to be as ``ctx["close"]``.

    Parameters
    ----------
    error
        What Pydantic has found.
    kind, content
        The class, and what was to become one.
    """
    found: dict[tuple[object, ...], list[ErrorDetails]] = {}
    for number, item in enumerate(error.errors(include_url=False)):
        place = tuple(_written(item, content))
        own = number if place == item["loc"] else None
        found.setdefault((place, own), []).append({**item, "loc": place})
    return [_hinted(_together(items), kind) for items in found.values()]


def _written(item: ErrorDetails, content: object) -> Iterator[int | str]:
    """Yield the parts of a place that are in the file, without the names that Pydantic makes for alternatives."""
    last = len(item["loc"]) - 1
    for number, part in enumerate(item["loc"]):
        if isinstance(content, dict) and part in content:
            content = content[part]
        elif isinstance(content, list | tuple) and isinstance(part, int):
            content = content[part] if part < len(content) else None
        elif part != "[key]" and not (item["type"] == "missing" and number == last):
            continue
        yield part


def _together(items: list[ErrorDetails]) -> ErrorDetails:
    """Return the problems that one value has with each of the things it may be as one problem."""
    if len(items) == 1:
        return items[0]
    wanted = [_problem(item).removeprefix("Input should be ").partition(", unable")[0] for item in items]
    return {**items[0], "type": "alternatives", "msg": f"must be {' or '.join(dict.fromkeys(wanted))}"}


def _hinted(item: ErrorDetails, kind: type[BaseModel]) -> ErrorDetails:
    *sections, last = item["loc"] or ("",)
    if item["type"] != "extra_forbidden":
        return item
    kinds = [kind]
    for part in map(str, sections):
        inner = [one.model_fields[part].annotation for one in kinds if part in one.model_fields]
        if inner:  # else a position, or a key of one's own
            kinds = [one for annotation in inner for one in _models_in(annotation)]
    fields = [field for one in kinds for field in one.model_fields]
    return {**item, "ctx": {"close": difflib.get_close_matches(str(last), fields, n=1)}}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def place_in_words(parts: Sequence[int | str]) -> str:
    """Return where something stands in a file: ``gate.rules, entry 2, metric``."""
    words = ""
    for part, after in pairwise([*parts, ""]):
        if isinstance(part, int) and after != "[key]":
            words += f", entry {part + 1}"
        elif part != "[key]":
            words = _inside(words, str(part))
    return words


def _inside(place: str, field: str) -> str:
    if not place:
        return field
    return f"{place}, {field}" if _ENTRY.search(place) else f"{place}.{field}"


def mistakes_in(path: Path, errors: list[ErrorDetails], secret: Collection[str] = ()) -> list[Mistake]:
    """Return what Pydantic found in a file, in words."""
    return [Mistake(f"{path}: {line}.", times) for line, times in _problems(errors, secret)]


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
    return place_in_words(place[:-1]), place[-1]


def _problem(item: ErrorDetails) -> str:
    if item["type"] == "extra_forbidden":
        close = item.get("ctx", {}).get("close")
        return "there is no such field" + (f"; did you mean {close[0]!r}?" if close else "")
    return str(item["ctx"]["error"]) if item["type"] == "value_error" else item["msg"]


def _problem_lines(item: ErrorDetails, secret: Collection[str]) -> list[str]:
    field = place_in_words(item["loc"])
    value = item["input"]
    if item["type"] == "value_error" and isinstance(value, dict):
        # a check over several fields of a section: it names the field itself if there is one, a line for each problem
        lines = str(item["ctx"]["error"]).splitlines()
        return [_inside(field, line) if not field or _NAMES_FIELD.match(line) else f"{field}: {line}" for line in lines]
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
