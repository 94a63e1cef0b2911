"""From a request's body to rows: everything that is wrong with it at once, each thing where it stands."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from evergreen.contract import utc_now
from evergreen.serving.requests import Column, InvalidRequestError, Problem, RefusedError, Rows, Value

_MOST_PROBLEMS = 20
_LARGEST = 2**63 - 1
_AHEAD = timedelta(minutes=1)
"""So far a client's clock may be ahead of the server's."""


@dataclass(frozen=True)
class Checker:
    """Checks the rows of one model's requests.

    Parameters
    ----------
    columns
        What every row has.
    most_rows
        Of one request.
    """

    columns: Sequence[Column]
    most_rows: int

    def rows(self, listed: object, at: object = None) -> Rows:
        """Return the rows of a list of objects, ``[{"column": value}, ...]``.

        Raises
        ------
        InvalidRequestError
            If anything about them is wrong; it has every problem, up to 20.
        RefusedError
            If there are more than the model takes.
        """
        if not isinstance(listed, list) or not listed:
            raise InvalidRequestError([Problem(None, "rows", shown(listed), "a list of one or more objects")])
        self.check_count(len(listed))
        names = {column.name for column in self.columns}
        problems: list[Problem] = []
        for number, row in enumerate(listed):
            if not isinstance(row, Mapping):
                problems.append(Problem(number, None, shown(row), f"an object with {', '.join(sorted(names))}"))
            elif row.keys() != names:
                problems += self._misnamed(number, row, names)
            if len(problems) >= _MOST_PROBLEMS:
                break
        if problems:
            raise InvalidRequestError(problems[:_MOST_PROBLEMS])
        return self.by_column({name: [row[name] for row in listed] for name in names}, at)

    def by_column(self, values: Mapping[str, Sequence[object]], at: object = None) -> Rows:
        """Return the rows of columns that are all there and equally long.

        Raises
        ------
        InvalidRequestError
            If a value is not what its column holds.
        """
        problems: list[Problem] = []
        checked: dict[str, Sequence[Value]] = {}
        for column in self.columns:
            check, expected = _CHECKS[column.kind]
            taken: list[Value] = []
            for number, value in enumerate(values[column.name]):
                try:
                    taken.append(check(value))
                except ValueError:
                    problems.append(Problem(number, column.name, shown(value), expected))
            checked[column.name] = taken
        moment = _moment(at, problems)
        if problems:
            problems.sort(key=lambda problem: -1 if problem.row is None else problem.row)
            raise InvalidRequestError(problems[:_MOST_PROBLEMS])
        return Rows(checked, moment)

    def check_count(self, count: int) -> None:
        """Refuse more rows than the model takes at once."""
        if count > self.most_rows:
            why = f"{count} rows; this model takes {self.most_rows} at once: send several requests"
            raise RefusedError(413, "too_large", why)

    def misnamed(self, names: Iterable[str]) -> list[Problem]:
        """Return what is wrong with the names of a request's columns."""
        return self._misnamed(None, dict.fromkeys(names), {column.name for column in self.columns})

    def _misnamed(self, number: int | None, row: Mapping[str, object], names: set[str]) -> list[Problem]:
        problems = [Problem(number, name, None, "a value: it is missing") for name in sorted(names - row.keys())]
        unknown = (name for name in row if name not in names)
        # no more than an answer shows: the comparison of names is slow, and a body has room for many
        for name in sorted(itertools.islice(unknown, _MOST_PROBLEMS)):
            close = difflib.get_close_matches(name[:80], names, n=1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            valid = ", ".join(sorted(names))
            problems.append(Problem(number, name[:80], shown(row.get(name)), f"one of {valid}{meant}"))
        return problems


def _number(value: object) -> Value:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    try:
        number = float(value)
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError
    return number


def _category(value: object) -> Value:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError


def _text(value: object) -> Value:
    if not isinstance(value, str):
        raise ValueError
    return value


def _integer(value: object) -> Value:
    if isinstance(value, bool) or not isinstance(value, int) or not -_LARGEST - 1 <= value <= _LARGEST:
        raise ValueError
    return value


_CHECKS: Mapping[str, tuple[Callable[[object], Value], str]] = {
    "number": (_number, "a finite number, or null where it is not known"),
    "category": (_category, "text, a number or a boolean, or null where it is not known"),
    "string": (_text, "text: features are looked up by it"),
    "integer": (_integer, "a whole number of 64 bits: features are looked up by it"),
}
"""Kind of a column -> what makes a value of it, and what should stand there in words."""


def _moment(value: object, problems: list[Problem]) -> datetime | None:
    """Return when the rows' events are; a time without its offset could be anywhere."""
    if value is None:
        return None
    expected = "a time with its offset, as 2013-07-01T06:30:00Z, that has been"
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        problems.append(Problem(None, "event_timestamp", shown(value), expected))
        return None
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        problems.append(Problem(None, "event_timestamp", shown(value), expected))
        return None
    if moment > utc_now() + _AHEAD:
        problems.append(Problem(None, "event_timestamp", shown(value), expected))
    return moment


def shown(value: object) -> object:
    """Return a value as an error may show it: what is long, is cut."""
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, str) and len(value) > 80:
        return f"{value[:80]}…"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST:
        return "a number of more than 64 bits"
    return value
