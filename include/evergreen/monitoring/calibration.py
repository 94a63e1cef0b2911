"""How large an index is by chance, as the reference's own days tell: docs/decisions/drift.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from evergreen.monitoring.baseline import ColumnBaseline, DriftBaseline
from evergreen.monitoring.binning import psi, share_psi

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

Kind = Literal["values", "missing", "new"]
Test = tuple[str, Kind]
"""An index: of which column, and of its values, its share of missing rows or that of new categories."""


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
    """

    shape: Mapping[Test, float]
    scale: Mapping[Test, float]
    level: float
    season: Mapping[Test, float]

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
        return max(LEAST_INDEX, float(chance))


def calibrate(baseline: DriftBaseline, days: int, rows: int) -> Calibration:
    """Return what chance does to the indices of a window of so many days and rows.

    A window and a reference are drawn from the reference's days, blocks of a week that are the same for all columns,
    so that what belongs to a day stays together. The window is thinned where it has more rows than the one to be
    judged. The smallest p-value of each draw says which level keeps the chance of *any* false alarm (Westfall & Young
    1993). A slow change that blocks cannot show is seen where windows that are whole differ more from the rest of the
    reference than as many days drawn from all of it: by that factor each limit is raised.
    """
    import numpy as np
    from scipy import special

    draws = _Draws(baseline, days, rows)
    tests, found, season = list[Test](), list[np.ndarray](), list[float]()
    for name, column in baseline.columns.items():
        if column.unjudged:
            continue
        for kind, null in draws.indices(column).items():
            tests.append((name, kind))
            found.append(null)
        season += draws.season(column)
    matrix, factors = np.array(found).reshape(len(tests), DRAWS), np.array(season)
    mean, variance = matrix.mean(axis=1), matrix.var(axis=1)
    moved = variance > 0
    shape = np.divide(mean**2, variance, out=np.ones(len(tests)), where=moved)
    scale = np.divide(variance, mean, out=np.zeros(len(tests)), where=moved)
    p_values = special.gammaincc(shape[moved, None], matrix[moved] / scale[moved, None])
    level = max(float(np.quantile(p_values.min(axis=0), FALSE_ALARMS)), _LEAST_LEVEL) if moved.any() else FALSE_ALARMS
    by_test = [dict(zip(tests, map(float, values), strict=True)) for values in (shape, scale, factors)]
    return Calibration(by_test[0], by_test[1], level, by_test[2])


class _Draws:
    """Windows and references made of a reference's days: as rows of weights, a weight a day."""

    def __init__(self, baseline: DriftBaseline, days: int, rows: int) -> None:
        import numpy as np

        self.count, self.days, self.rows = len(baseline.days), min(days, len(baseline.days)), rows
        self.generator = np.random.default_rng(0)
        self.block = max(1, min(_BLOCK_DAYS, self.days, self.count // 4))
        self.references = self._drawn(self.count)
        self.windows = self._drawn(self.days)
        self.whole = self._whole(min(self.days, self.count // 2))
        self.short = self._whole(max(1, min(self.days, self.count // 4)))
        self.split = self._split(min(self.days, self.count // 2))

    def indices(self, column: ColumnBaseline) -> dict[Kind, np.ndarray]:
        """Return the indices of a column in every draw."""
        import numpy as np

        counts = np.array(column.counts, dtype=np.float64)
        reference, window = self.references @ counts, self._thinned(self.windows @ counts)
        found: dict[Kind, np.ndarray] = {
            "values": psi(reference[:, :-1], window[:, :-1]),
            "missing": share_psi(missing_share(reference), missing_share(window)),
        }
        if column.kind == "category":
            found["new"] = self._new(column, counts)
        return found

    def season(self, column: ColumnBaseline) -> list[float]:
        """Return by what factor whole windows differ more from the rest than drawn ones do, for each index."""
        import numpy as np

        counts = np.array(column.counts, dtype=np.float64)

        def mean(windows: np.ndarray) -> tuple[float, float]:
            inside, rest = windows @ counts, (1 - windows) @ counts
            values = psi(rest[:, :-1], inside[:, :-1])
            return float(values.mean()), float(share_psi(missing_share(rest), missing_share(inside)).mean())

        factors = [max(1.0, whole / drawn) if drawn else 1.0 for whole, drawn in zip(
            mean(self.whole), mean(self.split), strict=True
        )]  # fmt: skip
        return [*factors, 1.0] if column.kind == "category" else factors

    def _new(self, column: ColumnBaseline, counts: np.ndarray) -> np.ndarray:
        """Return the index of new levels: those of whole windows are new that the rest of the reference has not.

        The windows are a quarter of the reference at most, since what is left must know about as much as all of it.
        """
        import numpy as np

        levels = column.known.values()
        first, last, rows = (np.array([getattr(level, end) for level in levels]) for end in ("first", "last", "rows"))
        length, known = int(self.short[0].sum()), self.short @ counts[:, :-1].sum(axis=1)
        only = [
            rows[(first >= start) & (last < start + length)].sum() / max(values, 1)
            for start, values in enumerate(known)
        ]
        count = max(1, round(self.rows * counts[:, :-1].sum() / max(counts.sum(), 1)))
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


def missing_share(counts: np.ndarray) -> np.ndarray:
    """Return the share of missing rows, from counts whose last bin they are."""
    import numpy as np

    share: np.ndarray = counts[..., -1] / np.maximum(counts.sum(axis=-1), 1)
    return share
