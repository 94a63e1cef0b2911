"""Learns the bins of a reference from its rows, and counts them: one pass for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evergreen.monitoring.baseline import ColumnBaseline, DriftBaseline, Level
from evergreen.monitoring.binning import edges_of
from evergreen.monitoring.counting import (
    MOST_LEVELS,
    Batches,
    Counted,
    count,
    days_of,
    frame_batches,
    levels_of,
    numbers_of,
)
from evergreen.monitoring.predictions import monitored, numeric
from evergreen.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

TOP_LEVELS = 50
"""Categories with a bin of their own; of more than so many only those that are not rare."""
_RARE = 50
"""Rows. The most frequent of many rare levels are so by luck and would seem to have moved the next time."""
_ID_LIKE = 0.5
"""A category with so many different values for each row names rows, and has no distribution to compare."""
_SAMPLE = 200_000
"""Rows from which edges are learned, drawn from all: the quantiles of so many are right to 0.1 %."""


def learn_reference(spec: ModelSpec, frame: pd.DataFrame) -> DriftBaseline:
    """Return the baseline of the rows of a reference, of those monitored columns that they have."""
    columns = [name for name in monitored(spec) if name in frame.columns]
    return learn(columns, numeric(spec), frame_batches(frame, columns))


def learn(columns: Sequence[str], numbers: set[str], batches: Batches) -> DriftBaseline:
    """Return the baseline of the rows of a reference."""
    sample = _Sample([name for name in columns if name in numbers])
    levels = {name: _Levels() for name in columns if name not in numbers}
    days: dict[str, int] = {}
    for batch in batches():
        day = days_of(batch, days)
        sample.add(batch)
        for name, seen in levels.items():
            seen.add(batch[name], day, list(days))
    order = sorted(days)
    position = {day: at for at, day in enumerate(order)}
    bins: dict[str, ColumnBaseline] = {
        name: levels[name].column(position) if name in levels else sample.column(name) for name in columns
    }
    counted = count(bins, batches)
    return DriftBaseline(
        days=tuple(order), rows=counted.rows, columns={name: _counted(bins[name], name, counted) for name in columns}
    )


def _counted(column: ColumnBaseline, name: str, counted: Counted) -> ColumnBaseline:
    if column.unjudged:
        return column
    low, high = counted.ends.get(name, (None, None))
    counts = tuple(tuple(row) for row in counted.bins[name].tolist())
    return column.model_copy(update={"counts": counts, "lowest": low, "highest": high})


class _Sample:
    """Up to 200,000 rows of some columns, drawn from all; always alike."""

    def __init__(self, names: Sequence[str]) -> None:
        import numpy as np

        self._kept: dict[str, list[np.ndarray]] = {name: [] for name in names}
        self._rows, self._share, self._generator = 0, 1.0, np.random.default_rng(0)

    def add(self, batch: pa.RecordBatch) -> None:
        """Draw from the next rows."""
        drawn = self._draw(batch.num_rows, self._share)
        self._rows += int(drawn.sum())
        for name, kept in self._kept.items():
            kept.append(numbers_of(batch[name])[drawn])
        while self._rows > _SAMPLE:
            self._halve()

    def column(self, name: str) -> ColumnBaseline:
        """Return the bins of a column."""
        import numpy as np

        values = np.concatenate([np.zeros(0), *self._kept[name]])
        return ColumnBaseline(kind="number", edges=tuple(edges_of(values[~np.isnan(values)])))

    def _halve(self) -> None:
        import numpy as np

        half = self._draw(self._rows, 0.5)
        self._kept = {name: [np.concatenate(kept)[half]] for name, kept in self._kept.items()}
        self._rows, self._share = int(half.sum()), self._share / 2

    def _draw(self, rows: int, share: float) -> np.ndarray:
        drawn: np.ndarray = self._generator.random(rows) < share
        return drawn


class _Levels:
    """The categories of a column, with their rows and the days they were first and last seen on."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, str, str]] = {}
        self._rows = 0
        self._too_many = False

    def add(self, column: pa.Array, day: np.ndarray, days: Sequence[str]) -> None:
        """Take the next rows."""
        import numpy as np

        if self._too_many:
            return
        self._rows += len(column)
        names, codes = levels_of(column)
        ranks = np.argsort(np.argsort(np.array(days)))[day]  # days in order of time, not of appearance
        first, last = np.full(len(names), len(days)), np.full(len(names), -1)
        np.minimum.at(first, codes, ranks)
        np.maximum.at(last, codes, ranks)
        in_order, rows = sorted(days), np.bincount(codes, minlength=len(names))
        for at in np.flatnonzero(rows):
            if (name := names[at]) is not None:
                before, *ends = self._seen.get(name, (0, in_order[first[at]], in_order[last[at]]))
                self._seen[name] = (
                    before + int(rows[at]), min(ends[0], in_order[first[at]]), max(ends[1], in_order[last[at]])
                )  # fmt: skip
        self._too_many = len(self._seen) > MOST_LEVELS

    def column(self, position: Mapping[str, int]) -> ColumnBaseline:
        """Return the bins of the column, or why it has none."""
        if len(self._seen) > _ID_LIKE * max(self._rows, 1) and len(self._seen) > TOP_LEVELS:
            return ColumnBaseline(kind="category", unjudged="almost every row has its own value, like an id")
        if self._too_many:
            return ColumnBaseline(kind="category", unjudged=f"more than {MOST_LEVELS:,} different values")
        often = sorted(self._seen, key=lambda name: (-self._seen[name][0], name))
        known = {
            name: Level(rows=rows, first=position[first], last=position[last])
            for name in often
            for rows, first, last in [self._seen[name]]
        }
        own = often if len(often) <= TOP_LEVELS else [name for name in often[:TOP_LEVELS] if known[name].rows >= _RARE]
        return ColumnBaseline(kind="category", levels=tuple(own), known=known)
