"""The types of model.yaml's fields: what YAML makes of a typing slip is refused, not guessed at."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

_MOST = 1_000_000_000
_NAMED = 12
"""How many names a message lists."""
_FIRST, _LAST = date(1900, 1, 1), date(2199, 12, 31)
"""Beyond them nanoseconds (pandas) and time zones end, and a day is a slip of the keyboard."""


def matching(pattern: str, words: str) -> AfterValidator:
    """Return a check that text matches a pattern; who wrote something else is told in words what is allowed."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


def said_as(words: str) -> WrapValidator:
    """Return the words for whatever is wrong with a value that may be one thing or another."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(words) from None

    return WrapValidator(check)


def use_one_of(names: Iterable[str]) -> str:
    """Return what may be written, in words; of very many names the first ones."""
    first = list(dict.fromkeys(names))
    more = f" and {len(first) - _NAMED} more" if len(first) > _NAMED else ""
    return f"use one of {', '.join(first[:_NAMED])}{more}"


def _no_switch(value: Any) -> Any:
    """Refuse what YAML reads as true or false (``yes``, ``no``, ``on``, ``off``) where a number belongs."""
    if isinstance(value, bool):
        raise ValueError("expected a number; YAML reads yes, no, on and off as true and false")
    return value


def _no_number(value: Any) -> Any:
    """Refuse ``20130101``, which would be read as seconds since 1970."""
    if isinstance(value, int | float):
        raise ValueError("expected a day, written as 2013-01-01")
    return value


def _imaginable(value: int) -> int:
    if value > _MOST:  # no Field(le=…): it would stand above the field's own
        raise ValueError(f"expected at most {_MOST:,}")
    return value


def _in_reach(day: date) -> date:
    if not _FIRST <= day <= _LAST:
        raise ValueError(f"expected a day from {_FIRST} to {_LAST}")
    return day


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (LookupError, OSError, ValueError) as error:  # unknown; a folder of zones; no name at all
        raise ValueError("not a time zone; write it as Europe/Berlin, or UTC") from error
    return name


def _no_repeats(values: tuple[str, ...]) -> tuple[str, ...]:
    repeated = sorted(value for value, times in Counter(values).items() if times > 1)
    if repeated:
        raise ValueError(f"named twice: {', '.join(repeated)}")
    return values


Count = Annotated[int, BeforeValidator(_no_switch), AfterValidator(_imaginable)]
Number = Annotated[float, AllowInfNan(False), BeforeValidator(_no_switch)]
Day = Annotated[date, BeforeValidator(_no_number), AfterValidator(_in_reach)]
Days = Annotated[Count, Field(le=3660)]
"""A number of daily partitions; ten years at most."""
TimeZone = Annotated[str, AfterValidator(_known_zone)]
DailyCron = Annotated[
    str,
    matching(
        r"[0-5]?\d +([01]?\d|2[0-3]) +\* +\* +\*",
        "a minute and an hour of every day, because a partition is a day; six in the morning is 0 6 * * *",
    ),
]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
COLUMN_PATTERN = "[a-z][a-z0-9_]*"
COLUMN_WORDS = "lower-case letters, digits and underscores, a letter first"
ColumnName = Annotated[str, matching(COLUMN_PATTERN, COLUMN_WORDS)]
Columns = Annotated[tuple[ColumnName, ...], AfterValidator(_no_repeats)]
RelativePath = Annotated[
    str,
    matching(
        r"[\w-][\w.-]*(/[\w-][\w.-]*)*",
        "a file of the model's folder, written as features/examples.sql: letters, digits, _, - and dots",
    ),
]
FunctionPath = Annotated[
    str,
    matching(
        r"\w+(/\w+)*\.py:[A-Za-z_]\w*", "a function in a file of the model's folder, written as source.py:read_events"
    ),
]
