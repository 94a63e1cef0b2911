"""How large an index is by chance, as the reference's own days tell: docs/decisions/drift.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evergreen.monitoring.baseline import Level
from evergreen.monitoring.binning import share_psi

if TYPE_CHECKING:
    import numpy as np

FALSE_ALARMS = 0.005
"""The chance that any index of a check passes its limit though the population is the reference's."""
FEWEST_DAYS = 10
"""A reference of fewer days cannot tell how days differ."""
LEAST_INDEX = 0.02
"""A smaller index is no drift, however many rows make it certain: two percent of missing values where there were none
stay below, three do not, and so does a mean that moves by a seventh of a standard deviation."""
DRAWS = 2000
_SPLITS = 400
_BLOCK_DAYS = 7
_LEAST_LEVEL = 1e-12
"""No limit is infinite."""

Kind = Literal["values", "missing", "new", "relation"]
Test = tuple[str, Kind]
"""An index: of which column, and of its values, its share of missing rows or that of new categories, or of its
relation to the label."""
IndexFunction = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]
"""Compares the counts of a reference with those of a window; bins are the last axis, leading axes are draws."""


@dataclass(frozen=True)
class DailyCounts:
    """The rows of a reference in the bins of a column, and the indices that are computed from such counts.

    Parameters
    ----------
    column
        The column's name.
    counts
        (days, bins).
    indices
        How each kind of index is computed.
    levels
        Of a category: every level, for the index of new ones.
    least
        The least limit of all its indices.
    """

    column: str
    counts: np.ndarray
    indices: Mapping[Kind, IndexFunction]
    levels: Sequence[Level] = ()
    least: float = LEAST_INDEX

    @property
    def tests(self) -> list[Test]:
        """What is tested, in the order of the indices."""
        kinds: list[Kind] = [*self.indices]
        if self.levels:
            kinds.append("new")
        return [(self.column, kind) for kind in kinds]


@dataclass(frozen=True)
class Calibration:
    """What the indices of an unchanged population are like at the size of one window.

    Parameters
    ----------
    shape, scale
        Of the gamma distribution of each index.
    level
        The chance of one index that keeps the chance of any at `FALSE_ALARMS`.
    season
        By what factor windows of the reference differ more than days drawn from all of it, for each index.
    least
        The least limit of each index.
    """

    shape: Mapping[Test, float]
    scale: Mapping[Test, float]
    level: float
    season: Mapping[Test, float]
    least: Mapping[Test, float]

    def p_value(self, test: Test, index: float) -> float:
        """Return the chance that an index is so large in an unchanged population."""
        from scipy import special

        if not self.scale[test]:  # it was the same in every draw
            return 0.0 if index > 0 else 1.0
        return float(special.gammaincc(self.shape[test], index / (self.scale[test] * self.season[test])))

    def limit(self, test: Test) -> float:
        """Return the index from which a column has drifted."""
        from scipy import special

        chance = special.gammainccinv(self.shape[test], self.level) * self.scale[test] * self.season[test]
        return max(self.least[test], float(chance))


def calibrate(columns: Sequence[DailyCounts], reference_days: int, days: int, rows: int) -> Calibration:
    """Return what chance does to the indices of a window of so many days and rows.

    A window and a reference are drawn from the reference's days, blocks of a week that are the same for all columns,
    so that what belongs to a day stays together. The window is thinned where it has more rows than the one to be
    judged. The smallest p-value of each draw says which level keeps the chance of *any* false alarm (Westfall & Young
    1993). A slow change that blocks cannot show is seen where windows that are whole differ more from the rest of the
    reference than as many days drawn from all of it: by that factor each limit is raised.
    """
    import numpy as np
    from scipy import special

    tests, found, season = list[Test](), list[np.ndarray](), list[float]()
    draws = _Draws(reference_days, days, rows)
    for column in columns:
        tests += column.tests
        found += draws.indices(column)
        season += draws.season(column)
    matrix, factors = np.array(found).reshape(len(tests), DRAWS), np.array(season)
    mean, variance = matrix.mean(axis=1), matrix.var(axis=1)
    moved = variance > 0
    shape = np.divide(mean**2, variance, out=np.ones(len(tests)), where=moved)
    scale = np.divide(variance, mean, out=np.zeros(len(tests)), where=moved)
    p_values = special.gammaincc(shape[moved, None], matrix[moved] / scale[moved, None])
    level = max(float(np.quantile(p_values.min(axis=0), FALSE_ALARMS)), _LEAST_LEVEL) if moved.any() else FALSE_ALARMS
    by_test = [dict(zip(tests, map(float, values), strict=True)) for values in (shape, scale, factors)]
    least = {test: column.least for column in columns for test in column.tests}
    return Calibration(by_test[0], by_test[1], level, by_test[2], least)


class _Draws:
    """Windows and references made of a reference's days: as rows of weights, a weight a day."""

    def __init__(self, count: int, days: int, rows: int) -> None:
        import numpy as np

        self.count, self.days, self.rows = count, min(days, count), rows
        self.generator = np.random.default_rng(0)
        self.block = max(1, min(_BLOCK_DAYS, self.days, self.count // 4))
        self.references = self._drawn(self.count)
        self.windows = self._drawn(self.days)
        self.whole = self._whole(min(self.days, self.count // 2))
        self.short = self._whole(max(1, min(self.days, self.count // 4)))
        self.split = self._split(min(self.days, self.count // 2))

    def indices(self, column: DailyCounts) -> list[np.ndarray]:
        """Return the indices of a column in every draw."""
        counts = column.counts
        reference, window = self.references @ counts, self._thinned(self.windows @ counts)
        found = [index(reference, window) for index in column.indices.values()]
        return [*found, self._new(column)] if column.levels else found

    def season(self, column: DailyCounts) -> list[float]:
        """Return by what factor whole windows differ more from the rest than drawn ones do, for each index."""
        counts, factors = column.counts, list[float]()
        pairs = [((1 - windows) @ counts, windows @ counts) for windows in (self.whole, self.split)]
        for index in column.indices.values():
            whole, drawn = (float(index(rest, inside).mean()) for rest, inside in pairs)
            factors.append(max(1.0, whole / drawn) if drawn else 1.0)
        return [*factors, 1.0] if column.levels else factors

    def _new(self, column: DailyCounts) -> np.ndarray:
        """Return the index of new levels: those of whole windows are new that the rest of the reference has not.

        The windows are a quarter of the reference at most, since what is left must know about as much as all of it.
        """
        import numpy as np

        first, last, rows = (
            np.array([getattr(level, end) for level in column.levels]) for end in ("first", "last", "rows")
        )
        values = column.counts[:, :-1].sum(axis=1)
        length, known = int(self.short[0].sum()), self.short @ values
        only = [
            rows[(first >= start) & (last < start + length)].sum() / max(rows_known, 1)
            for start, rows_known in enumerate(known)
        ]
        count = max(1, round(self.rows * values.sum() / max(column.counts.sum(), 1)))
        drawn = self.generator.binomial(count, self.generator.choice(only, DRAWS)) / count
        return share_psi(np.zeros(DRAWS), drawn)

    def _thinned(self, counts: np.ndarray) -> np.ndarray:
        import numpy as np

        share = np.minimum(1.0, self.rows / np.maximum(counts.sum(axis=1, keepdims=True), 1))
        thinned: np.ndarray = self.generator.binomial(counts.astype(np.int64), share)
        return thinned

    def _drawn(self, days: int) -> np.ndarray:
        """Return weights of so many days: blocks that begin anywhere, the last one cut."""
        import numpy as np

        starts = self.generator.integers(0, self.count, (DRAWS, -(-days // self.block)))
        drawn = (starts[:, :, None] + np.arange(self.block)).reshape(DRAWS, -1)[:, :days] % self.count
        weights = np.zeros((DRAWS, self.count))
        np.add.at(weights, (np.arange(DRAWS)[:, None], drawn), 1)
        return weights

    def _whole(self, length: int) -> np.ndarray:
        """Return every window of days that follow each other."""
        import numpy as np

        start, day = np.arange(self.count - length + 1)[:, None], np.arange(self.count)
        return ((day >= start) & (day < start + length)).astype(np.float64)

    def _split(self, length: int) -> np.ndarray:
        """Return windows of as many days, blocks from anywhere, each day once."""
        import numpy as np

        blocks = np.array_split(np.arange(self.count), -(-self.count // self.block))
        windows = np.zeros((_SPLITS, self.count))
        for window in windows:
            order = self.generator.permutation(len(blocks))
            window[np.concatenate([blocks[at] for at in order])[:length]] = 1
        return windows
