"""How a champion does since its promotion: the deciding metric on days it has not learned from, and what a drop is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from evergreen.data.lake import PARTITION
from evergreen.judgement.interval import performance
from evergreen.judgement.metrics import Scored
from evergreen.spec import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

_RISK = 0.01
"""The chance that a champion as good as at its promotion is called worse by ``noise``."""


class MeasuredMetric(NamedTuple):
    """The deciding metric on some days, with its standard error; ``days`` is how many independent ones they are."""

    value: float | None
    error: float | None
    days: float | None

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """The value with the lower and the upper bound of its 95 % interval; None where the days tell none."""
        if self.value is None or self.error is None or not self.days:
            return None
        from scipy import stats

        reach = float(stats.t.ppf(0.975, max(self.days - 1, 1))) * self.error
        return self.value, self.value - reach, self.value + reach


def measured_metric(
    spec: ModelSpec, frame: pd.DataFrame, scores: Scored, metrics: Mapping[str, float]
) -> MeasuredMetric:
    """Return how good a model is on the rows of a frame, of which it has the scores and these metrics."""
    value = metrics.get(spec.gate.metric)
    known = performance(scores, spec.gate.metric, frame[PARTITION].to_numpy())
    return MeasuredMetric(value, *known.error()) if known else MeasuredMetric(value, None, None)


def drop_limit(spec: ModelSpec, then: float | None, now: MeasuredMetric) -> float | None:
    """Return the drop beyond which a champion is worse; None where none is asked for, or none is known.

    Parameters
    ----------
    spec
        ``retraining.performance_drop`` says which.
    then
        Standard error of the deciding metric at the promotion.
    now
        The metric now.
    """
    limit = spec.retraining.performance_drop
    if limit != "noise":
        return limit
    if then is None or now.error is None or not now.days:
        return None
    from scipy import stats

    return float(stats.t.ppf(1 - _RISK, max(now.days - 1, 1))) * math.hypot(then, now.error)
