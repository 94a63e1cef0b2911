"""What is expected of every source, beside its suite: keys, times in their day, columns that hold something."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from evergreen.data.expectations import ExpectationResult
from evergreen.data.lake import PARTITION
from evergreen.data.tables import shown
from evergreen.spec import Source

if TYPE_CHECKING:
    import pandas as pd


class Kind(Enum):
    """What may be wrong with a row by itself: how a day is described that has no other rows, and what to do then."""

    UNREADABLE = ("is unreadable", "The source has probably changed its format")
    KEY = ("has a key that is null, repeated or padded", "Is sources[].key what tells rows apart")
    DAY = (
        "lies in another day or has no time",
        "Is it the file of that day? schedule.timezone says where days begin, sources[].event_time_days how far from "
        "theirs events may lie, sources[].event_time which column is meant",
    )


class Problem(NamedTuple):
    """Why a row may not be published."""

    kind: Kind
    reason: str


def nothing_left(days: list[str], problems: Iterable[Problem]) -> tuple[str, str]:
    """Say that days have no row that may be published, and what to do; ``problems`` are those of the first day."""
    first, *others = problems
    alike = all(problem.kind is first.kind for problem in others)
    what, hint = first.kind.value if alike else ("has something wrong", "Correct the source")
    names = ", ".join(days[:3]) + (", …" if len(days) > 3 else "")
    return f"every row of {names} {what}, e.g. {first.reason}.", f"{hint}; nothing was published."


def row_problems(frame: pd.DataFrame, source: Source, timezone: str) -> dict[int, Problem]:
    """Return why rows may not be published, by position: their key, or the day of their event."""
    problems = {row: Problem(Kind.KEY, reason) for row, reason in _unclear_keys(frame, source).items()}
    rest = frame.drop(index=list(problems))
    problems |= {row: Problem(Kind.KEY, reason) for row, reason in _key_problems(rest, source).items()}
    rest = frame.drop(index=list(problems))
    return problems | {row: Problem(Kind.DAY, why) for row, why in _other_days(rest, source, timezone).items()}


def completeness(frame: pd.DataFrame, source: Source) -> list[ExpectationResult]:
    """Return a critical verdict for each column that is null in every row of a day and may not be.

    Most expectations pass over nulls: a column without any value would meet them all.
    """
    wanted = [column for column in source.columns if column not in source.allow_null]
    present = frame[wanted].notna().groupby(frame[PARTITION]).any()
    counts = frame[PARTITION].value_counts()
    verdicts = []
    for column in wanted:
        if days := sorted(str(day) for day in present.index[~present[column]]):
            what = {"expectation": "completeness", "target": column, "severity": "critical"}
            rows = int(counts[days].sum())
            verdicts.append(ExpectationResult(**what, failed_days=tuple(days), unexpected=rows, rows=rows))
    return verdicts


_UNSEEN = r"\x00-\x1f\x7f-\x9f\u200b\u2060\ufeff"
"""Of no meaning in any text: controls, and characters without width."""
_AT_THE_ENDS = rf"[\s{_UNSEEN}\u00ad\u200c-\u200f\u202a-\u202e\u2061-\u2064\u2066-\u206f]"
"""Blanks, and what joins or turns the letters beside it: it has a meaning between letters only."""
_UNCLEAR = re.compile(rf"^{_AT_THE_ENDS}|{_AT_THE_ENDS}\Z|[{_UNSEEN}]")


def _unclear_keys(frame: pd.DataFrame, source: Source) -> dict[int, str]:
    """Name keys with blanks around them: ``' UA'`` would join nothing, and ``'UA'`` may be what is meant."""
    problems: dict[int, str] = {}
    for column in source.key:
        if source.columns[column] == "string":
            values = frame[column].dropna()
            for row, key in values[values.map(lambda key: bool(_UNCLEAR.search(key)))].items():
                what = "blanks around a key" if key != key.strip() else "characters in a key that nobody sees"
                problems[int(row)] = f"{what} ({column}: {shown(key)})"
    return problems


def _key_problems(frame: pd.DataFrame, source: Source) -> dict[int, str]:
    """Return what is wrong with the keys: null, repeated by an exact copy, or claimed by different rows."""
    key = [PARTITION, *source.key]
    names = ", ".join(source.key)
    problems = {int(row): f"a key column is null ({names})" for row in frame.index[frame[key].isna().any(axis=1)]}
    keyed = frame.drop(index=list(problems))
    copies = keyed.duplicated([PARTITION, *source.columns])
    problems |= {int(row): f"an exact copy of another row ({names})" for row in keyed.index[copies]}
    distinct = keyed[~copies]
    # rows that disagree all go: nobody knows which one is right
    disagree = distinct.index[distinct.duplicated(key, keep=False)]
    problems |= {int(row): f"different rows claim the same key ({names})" for row in disagree}
    return problems


def _other_days(frame: pd.DataFrame, source: Source, timezone: str) -> dict[int, str]:
    """Name rows whose event lies too far from their partition: a wrong file, a swapped day and month, year 0001."""
    import numpy as np

    column = source.event_time_column
    if column is None or frame.empty:
        return {}
    problems: dict[int, str] = {}
    for day, rows in frame.groupby(PARTITION):
        first = _midnight(date.fromisoformat(str(day)) - timedelta(days=source.event_time_days), timezone)
        after = _midnight(date.fromisoformat(str(day)) + timedelta(days=source.event_time_days + 1), timezone)
        times = rows[column].dropna()
        if column not in source.allow_null:
            problems |= {int(row): f"the event has no time ({column})" for row in rows.index.difference(times.index)}
        # as numbers: pandas has no words for the year 1
        moments = times.to_numpy("datetime64[us]").astype(np.int64)
        outside = times[(moments < first) | (moments >= after)]
        problems |= {int(row): f"the event lies in another day ({column}: {moment})" for row, moment in outside.items()}
    return problems


def _midnight(day: date, timezone: str) -> int:
    """Return the first moment of a day in microseconds since 1970."""
    return int(datetime.combine(day, time(), ZoneInfo(timezone)).timestamp() * 1_000_000)
