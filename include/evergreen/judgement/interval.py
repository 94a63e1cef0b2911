"""How sure an improvement is: a confidence interval from a few days that are not independent of each other.

The days are what was observed, not their rows: flights of one day are late together. And the days are few, and one is
like the next: a storm stays. So a day's share in the improvement is found by leaving the day out (the jackknife), the
lag-1 autocorrelation of these shares says how many independent days the window is worth, and Student's t with as many
allows for what so few can say of their own spread. docs/decisions/interval.md has the reasons and the measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evergreen.judgement.metrics import Scored
from evergreen.spec import METRICS

if TYPE_CHECKING:
    import numpy as np

FEWEST_DAYS = 5
"""With fewer there is no interval. A gate asks for more: windows.minimum_evaluation_partitions."""
_SURE = 1.28
"""Standard errors above its estimate at which the autocorrelation is taken: 90 % sure that it is no higher."""
_FEWEST_DEGREES = 1.5
"""Degrees of freedom of Student's t below which its mean would not be known."""
_HIGHEST = 0.95
"""The autocorrelation is taken for no more than this: above, no number of days would be worth anything."""
_WEIGHTS = 2_000_000
"""How many weights are worked on at a time: 16 MB of float64."""


@dataclass(frozen=True)
class Interval:
    """How much better the challenger is: positive is better, whatever the metric's direction."""

    improvement: float
    low: float
    high: float
    effective: float
    """How many independent days they are worth."""


@dataclass(frozen=True)
class Outlook:
    """What a promotion may bring, weighed by how likely it is, in units of the deciding metric."""

    gain: float
    """Expected: each improvement times its likelihood, summed over those above 0."""
    harm: float
    """The same over those below 0, as a positive number."""
    chance_of_harm: float


@dataclass(frozen=True)
class Jackknife:
    """An improvement, or another figure of rows that are spread over days, and what each day contributes to it.

    Parameters
    ----------
    point
        The figure, positive when better.
    shares
        (days,) how far each day moves it, centred: of a mean, the day's own less the mean.
    """

    point: float
    shares: np.ndarray

    def less(self, other: Jackknife) -> Jackknife:
        """Return how much better this is than another on the same days."""
        return Jackknife(self.point - other.point, self.shares - other.shares)

    def error(self) -> tuple[float, float]:
        """Return the standard error and the number of independent days, the autocorrelation taken at its estimate."""
        return _standard_error(self.shares, 0.0)

    def interval(self, risk: float) -> Interval:
        """Return the interval whose lower end lies above the truth with a chance of ``risk``; so for the upper end."""
        from scipy import stats

        error, effective = _standard_error(self.shares, _SURE)
        reach = float(stats.t.ppf(1 - risk, effective - 1)) * error
        return Interval(self.point, self.point - reach, self.point + reach, effective)

    def outlook(self) -> Outlook:
        """Return what to expect of a promotion, where nothing but these days is known.

        The improvement is taken to be distributed as Student's t around its estimate. An interval must not be too
        narrow, so it takes the autocorrelation at its upper end; an expectation takes the estimate itself.
        """
        from scipy import stats

        error, effective = self.error()
        if error == 0:
            return Outlook(max(self.point, 0.0), max(-self.point, 0.0), float(self.point < 0))
        student, ratio = stats.t(max(effective - 1, _FEWEST_DEGREES)), self.point / error
        degrees = student.args[0]
        below = float(student.cdf(-ratio))
        # E[max(X, 0)] of X = ratio + t: the density's tail is (degrees + x^2) / (degrees - 1) times the density itself
        tail = float((degrees + ratio**2) / (degrees - 1) * student.pdf(ratio))
        gain = error * (tail + ratio * (1 - below))
        return Outlook(gain, gain - self.point, below)


def improvement(champion: Scored, challenger: Scored, metric: str, days: np.ndarray) -> Jackknife | None:
    """Return the challenger's improvement with the share of each day, or None if there is none.

    There is none if the metric is undefined for either model, as a whole or without any one day, if a prediction of
    either is not finite, or if there are fewer than :data:`FEWEST_DAYS` days.

    Parameters
    ----------
    champion, challenger
        Predictions on the same rows.
    metric
        The deciding metric.
    days
        (rows,) the partition of each row; days come in ascending order of it.
    """
    if not (champion.finite.all() and challenger.finite.all()):
        return None  # to sort by nan would make it the highest score

    def difference(weights: np.ndarray) -> np.ndarray:
        better: np.ndarray = challenger.metric(metric, weights) - champion.metric(metric, weights)
        return better

    return _by_day(difference, metric, days)


def performance(model: Scored, metric: str, days: np.ndarray, weights: np.ndarray | float = 1.0) -> Jackknife | None:
    """Return how good one model is, positive when better, with the share of each day; None as for `improvement`.

    ``weights`` say how often each row counts.
    """
    if not model.finite.all():
        return None
    return _by_day(lambda kept: model.metric(metric, kept * weights), metric, days)


def _by_day(value: Callable[[np.ndarray], np.ndarray], metric: str, days: np.ndarray) -> Jackknife | None:
    """Return a figure of weighted rows, and by the jackknife how far each day moves it."""
    import numpy as np

    names, codes = np.unique(days, return_inverse=True)
    count = len(names)
    if count < FEWEST_DAYS:
        return None
    sign = METRICS[metric][1].sign
    point = sign * float(value(np.ones((1, codes.size)))[0])
    at_a_time = max(1, _WEIGHTS // codes.size)
    parts = np.split(np.arange(count), range(at_a_time, count, at_a_time))
    without = sign * np.concatenate([value((codes != part[:, None]).astype(np.float64)) for part in parts])
    if not (np.isfinite(point) and np.isfinite(without).all()):
        return None
    shares = (count - 1) * (point - without)
    return Jackknife(point, shares - shares.mean())


def _standard_error(shares: np.ndarray, sure: float) -> tuple[float, float]:
    """Return the standard error of the mean of a short, centred, autocorrelated series, and its effective length.

    The lag-1 autocorrelation of a series of n is estimated too low by (1 + 3 rho) / n (Marriott & Pope 1954). Corrected
    it scatters by 1 / sqrt(n - 3), the standard error of a correlation's z (Fisher 1921): more than the 1 / sqrt(n) of
    long series, as it is stretched by n / (n - 3). It is taken ``sure`` such errors above its estimate.
    """
    import numpy as np

    count, squares = len(shares), float(shares @ shares)
    if squares == 0:
        return 0.0, float(count)
    estimate = float(shares[1:] @ shares[:-1]) / squares
    upper = (count * estimate + 1) / (count - 3) + sure / (count - 3) ** 0.5
    rho = float(np.clip(upper, 0, _HIGHEST))
    effective = max(count * (1 - rho) / (1 + rho), 2.0)
    variance = squares / count / (1 - 1 / effective)  # of a day, around the true mean
    return float(np.sqrt(variance / effective)), effective
