"""Counts the rows of every bin on every day, batch by batch: memory does not grow with the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evergreen.data.arrow import PARTITION
from evergreen.monitoring.baseline import ColumnBaseline
from evergreen.training.encoder import category_names

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

Batches = Callable[[], Iterator["pa.RecordBatch"]]
"""Gives the rows of a window from the first on, as often as it is called; their column ``ds`` is the day."""

MOST_LEVELS = 20_000
"""Categories that are remembered by name."""
UNNAMED = "..."
"""What all new categories after so many are called together."""
_BATCH = 131_072


def frame_batches(frame: pd.DataFrame, columns: Sequence[str]) -> Batches:
    """Return some columns of a frame, and the day."""
    import pyarrow as pa

    table = pa.Table.from_pandas(frame[[PARTITION, *columns]], preserve_index=False)
    return lambda: iter(table.to_batches(max_chunksize=_BATCH))


def parquet_batches(path: Path, columns: Sequence[str]) -> Batches:
    """Return some columns of a Parquet file, and the day."""
    import pyarrow.parquet as pq

    def read() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):  # asked for all of them, Arrow reads ahead without a bound
                yield from file.iter_batches(_BATCH, row_groups=[group], columns=[PARTITION, *columns])

    return read


@dataclass
class Counted:
    """The rows of a window in the bins of a baseline.

    Parameters
    ----------
    rows, days
        How many there are, and the days that have any, in order.
    bins
        For each column a row a day, laid out like ``ColumnBaseline.counts``; new categories are in no bin.
    new
        For each category the rows of every level that the baseline does not know.
    ends
        For each number its lowest and its highest value.
    """

    rows: int = 0
    days: list[str] = field(default_factory=list)
    bins: dict[str, np.ndarray] = field(default_factory=dict)
    new: dict[str, Counter[str]] = field(default_factory=dict)
    ends: dict[str, tuple[float, float]] = field(default_factory=dict)


def count(columns: Mapping[str, ColumnBaseline], batches: Batches) -> Counted:
    """Return the rows of a window in the bins of some columns, without those that cannot be judged."""
    import numpy as np

    found, position = Counted(), dict[str, int]()
    counters = {name: counter_of(column) for name, column in columns.items() if not column.unjudged}
    sums = {name: np.zeros(0, dtype=np.int64) for name in counters}
    for batch in batches():
        day = days_of(batch, position)
        found.rows += batch.num_rows
        for name, counter in counters.items():
            size = len(position) * counter.width
            sums[name] = added(sums[name], day * counter.width + counter.codes(batch[name]), size)
    found.days = sorted(position)
    order = [position[day] for day in found.days]
    for name, counter in counters.items():
        found.bins[name] = counter.kept(sums[name].reshape(-1, counter.width)[order])
        if isinstance(counter, _Categories):
            found.new[name] = counter.new
        elif counter.lowest <= counter.highest:
            found.ends[name] = (counter.lowest, counter.highest)
    return found


def added(sums: np.ndarray, places: np.ndarray, size: int) -> np.ndarray:
    """Return sums with the rows that lie in these places; there may be more places than before."""
    import numpy as np

    rows = np.bincount(places, minlength=size)
    rows[: sums.size] += sums
    return rows


def counter_of(column: ColumnBaseline) -> _Numbers | _Categories:
    """Return what finds the bins of a column's rows; a category has a last one more for those that are new."""
    return (_Numbers if column.kind == "number" else _Categories)(column)


def days_of(batch: pa.RecordBatch, position: dict[str, int]) -> np.ndarray:
    """Return the position of each row's day; a day that was not met before gets the next one."""
    import numpy as np

    encoded = batch[PARTITION].dictionary_encode()
    places = [position.setdefault(day, len(position)) for day in encoded.dictionary.to_pylist()]
    days: np.ndarray = np.array(places, dtype=np.int64)[encoded.indices.to_numpy(zero_copy_only=False)]
    return days


def numbers_of(column: pa.Array) -> np.ndarray:
    """Return a column as float64; missing and infinite values, which the encoder takes for missing, are NaN."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    values: np.ndarray = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if not np.isfinite(values.sum()):  # looked at one by one only where there is any
        values = np.where(np.isfinite(values), values, np.nan)
    return values


def levels_of(column: pa.Array) -> tuple[list[str | None], np.ndarray]:
    """Return the names of the categories in a column, None for a missing one, and which of them each row has."""
    import numpy as np
    import pyarrow as pa

    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64(), safe=False)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    names = [*category_names(column.dictionary.to_pandas()), None]
    codes = column.indices.fill_null(len(names) - 1).to_numpy(zero_copy_only=False).astype(np.int64)
    return names, codes


class _Numbers:
    """Counts the bins of a number."""

    def __init__(self, column: ColumnBaseline) -> None:
        self.edges = column.edges
        self.width = len(column.edges) + 2
        self.lowest, self.highest = float("inf"), float("-inf")

    def codes(self, column: pa.Array) -> np.ndarray:
        """Return the bin of each row."""
        import numpy as np

        values = numbers_of(column)
        codes = np.zeros(values.size, dtype=np.int8)
        for edge in self.edges:  # ten times as fast as np.searchsorted: these few comparisons are vectorised
            codes += values > edge
        missing = np.isnan(values)
        if missing.any():
            codes[missing] = self.width - 1
            values = values[~missing]
        if values.size:
            self.lowest = min(self.lowest, float(values.min()))
            self.highest = max(self.highest, float(values.max()))
        return codes

    def kept(self, bins: np.ndarray) -> np.ndarray:
        """Return the bins as a baseline has them."""
        return bins


class _Categories:
    """Counts the bins of a category, and the rows of each new level by name."""

    def __init__(self, column: ColumnBaseline) -> None:
        self.other = len(column.levels)
        self.place = dict.fromkeys(column.known, self.other) | {name: at for at, name in enumerate(column.levels)}
        self.width = self.other + 3
        self.new: Counter[str] = Counter()

    def codes(self, column: pa.Array) -> np.ndarray:
        """Return the bin of each row; the one after the missing ones is that of the new."""
        import numpy as np

        names, codes = levels_of(column)
        new, missing = self.other + 2, self.other + 1
        places = np.array([missing if name is None else self.place.get(name, new) for name in names])
        if (places == new).any():
            rows = np.bincount(codes, minlength=len(names))
            for at in np.flatnonzero(places == new):
                name = names[at] if names[at] in self.new or len(self.new) < MOST_LEVELS else UNNAMED
                self.new[str(name)] += int(rows[at])
        bins: np.ndarray = places[codes]
        return bins

    def kept(self, bins: np.ndarray) -> np.ndarray:
        """Return the bins as a baseline has them, without the new levels."""
        return bins[:, :-1]
