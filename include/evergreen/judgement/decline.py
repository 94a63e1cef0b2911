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
_FEWEST_DEGREES = 5
"""Of freedom of Student's t: a break among the days makes them so alike that they seem to be worth one or two."""


class MeasuredMetric(NamedTuple):
    """The deciding metric on some days, with its standard error.

    ``independent`` is how many independent days they are worth.
    """

    value: float | None
    days: int
    error: float | None = None
    independent: float | None = None

    @property
    def degrees(self) -> float:
        """Degrees of freedom of Student's t for what so few days say of their own spread."""
        return max((self.independent or 0) - 1, _FEWEST_DEGREES)

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """The value with the lower and the upper bound of its 95 % interval; None where the days tell none."""
        if self.value is None or self.error is None:
            return None
        from scipy import stats

        reach = float(stats.t.ppf(0.975, self.degrees)) * self.error
        return self.value, self.value - reach, self.value + reach


def measured_metric(
    spec: ModelSpec, frame: pd.DataFrame, scores: Scored, metrics: Mapping[str, float]
) -> MeasuredMetric:
    """Return how good a model is on the rows of a frame, of which it has the scores and these metrics."""
    days = frame[PARTITION].to_numpy()
    known = performance(scores, spec.gate.metric, days)
    return MeasuredMetric(metrics.get(spec.gate.metric), len(set(days)), *(known.error() if known else ()))


def drop_limit(spec: ModelSpec, then: float | None, now: MeasuredMetric) -> float | None:
    """Return the drop beyond which a champion is worse; None where none is asked for, or none is known.

    By ``noise`` it is measured in the standard errors of both windows. That of the days now is no larger than as many
    days like those of the promotion would have had: a champion that has broken among them scatters because of it, and
    would excuse itself.

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
    if then is None or now.error is None:
        return None
    from scipy import stats

    as_then = then * math.sqrt(spec.windows.evaluation_days / now.days)
    error = min(now.error, as_then) if then else now.error
    return float(stats.t.ppf(1 - _RISK, now.degrees)) * math.hypot(then, error)
