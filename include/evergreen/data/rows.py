"""What is expected of every source, beside its suite: keys, times in their day, columns that hold something."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from evergreen.data.expectations import Verdict
from evergreen.data.lake import PARTITION
from evergreen.data.tables import shown
from evergreen.spec import Source

if TYPE_CHECKING:
    import pandas as pd


def row_problems(frame: pd.DataFrame, source: Source, timezone: str) -> dict[int, str]:
    """Return why rows may not be published, by position: their key, or the day of their event."""
    problems = _blank_keys(frame, source)
    problems |= _key_problems(frame.drop(index=list(problems)), source)
    problems |= _other_days(frame.drop(index=list(problems)), source, timezone)
    return problems


def completeness(frame: pd.DataFrame, source: Source) -> list[Verdict]:
    """Return a critical verdict for each column that is null in every row of a day and may not be.

    Most expectations pass over nulls: a column without any value would meet them all.
    """
    wanted = [column for column in source.columns if column not in source.allow_null]
    present = frame[wanted].notna().groupby(frame[PARTITION]).any()
    counts = frame[PARTITION].value_counts()
    verdicts = []
    for column in wanted:
        days = sorted(str(day) for day in present.index[~present[column]])
        if days:
            rows = int(counts[days].sum())
            verdicts.append(
                Verdict(
                    expectation="completeness",
                    target=column,
                    severity="critical",
                    failed_days=tuple(days),
                    unexpected=rows,
                    rows=rows,
                )
            )
    return verdicts


def _blank_keys(frame: pd.DataFrame, source: Source) -> dict[int, str]:
    """Name keys with blanks around them: ``' UA'`` would join nothing, and ``'UA'`` may be what is meant."""
    problems: dict[int, str] = {}
    for column in source.key:
        if source.columns[column] == "string":
            values = frame[column].dropna()
            padded = values[values != values.str.strip()]
            problems |= {int(row): f"blanks around a key ({column}: {shown(key)})" for row, key in padded.items()}
    return problems


def _key_problems(frame: pd.DataFrame, source: Source) -> dict[int, str]:
    """Return what is wrong with the keys: null, repeated by an exact copy, or claimed by different rows."""
    key = [PARTITION, *source.key]
    named = ", ".join(source.key)
    problems = {int(row): f"a key column is null ({named})" for row in frame.index[frame[key].isna().any(axis=1)]}
    keyed = frame.drop(index=list(problems))
    copies = keyed.duplicated([PARTITION, *source.columns])
    problems |= {int(row): f"an exact copy of another row ({named})" for row in keyed.index[copies]}
    distinct = keyed[~copies]
    # rows that disagree all go: nobody knows which one is right
    disagree = distinct.index[distinct.duplicated(key, keep=False)]
    problems |= {int(row): f"different rows claim the same key ({named})" for row in disagree}
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
        # as numbers: pandas has no words for the year 1
        moments = times.to_numpy("datetime64[us]").astype(np.int64)
        outside = times[(moments < first) | (moments >= after)]
        problems |= {int(row): f"the event lies in another day ({column}: {moment})" for row, moment in outside.items()}
    return problems


def _midnight(day: date, timezone: str) -> int:
    """Return the first moment of a day in microseconds since 1970."""
    return int(datetime.combine(day, time(), ZoneInfo(timezone)).timestamp() * 1_000_000)
