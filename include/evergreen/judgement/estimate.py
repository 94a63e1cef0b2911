"""How good a classifier probably is where labels are still to come: from its own probabilities, made right first.

A probability that is right says how often it errs (confidence-based performance estimation). So the probabilities are
calibrated on days whose labels are known, each row counts as every class as far as it is likely to be it, and the
metrics are those of these weights. It sees what other inputs do to a model; what it cannot see is that the labels'
relation to the inputs has changed, which only labels tell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evergreen.judgement.interval import performance
from evergreen.judgement.metrics import SMALLEST_PROBABILITY, Scored
from evergreen.spec import Task

if TYPE_CHECKING:
    import numpy as np

_CLASSES = 2
"""Fewer in the truth, and there is nothing to calibrate."""
_LOOSE = 1e6
"""The inverse of the regularization: there are two parameters and thousands of rows."""
RISK = 0.025
"""The chance that the truth lies below the interval; above it, the same."""


@dataclass(frozen=True)
class Estimate:
    """What a metric probably is."""

    value: float
    low: float
    high: float


def estimate(
    metric: str, known: Scored, known_days: np.ndarray, prediction: np.ndarray, days: np.ndarray
) -> Estimate | None:
    """Return what a metric of a classifier probably is on rows without labels, or None if that cannot be told.

    The interval is as wide as the estimate is wrong, day by day, where labels are known: once for the days that the
    calibration learned from, and once for those that are estimated.

    Parameters
    ----------
    metric
        Its name.
    known
        Predictions beside the truth, on days the model has not learned from.
    known_days
        (rows,) the day of each.
    prediction
        (rows,) or (rows, classes) the probabilities of the rows without labels.
    days
        (rows,) the day of each.
    """
    from scipy import stats

    if known.task is Task.REGRESSION or not len(prediction) or len(set(known.truth)) < _CLASSES:
        return None
    value = _expected(metric, known.task, prediction, _calibrated(known, prediction))
    error = _error(metric, known, known_days)
    if value is None or error is None:
        return None
    both = (1 + len(set(known_days)) / len(set(days))) ** 0.5
    reach = float(stats.t.ppf(1 - RISK, max(error[1] - 1, 1))) * error[0] * both
    return Estimate(value, value - reach, value + reach)


def _expected(metric: str, task: Task, prediction: np.ndarray, likely: np.ndarray) -> float | None:
    """Return a metric when each row counts as each class as far as it is likely to be of it."""
    import numpy as np

    every, weights = _as_every_class(task, prediction, likely)
    value = float(every.metric(metric, weights[None, :])[0])
    return value if np.isfinite(value) else None


def _as_every_class(task: Task, prediction: np.ndarray, likely: np.ndarray) -> tuple[Scored, np.ndarray]:
    """Return each row once for each class, with how likely it is of that class (rows times classes)."""
    import numpy as np

    classes = likely.shape[1]
    truth = np.repeat(np.arange(classes, dtype=np.float64), len(prediction))
    repeated = np.concatenate([prediction] * classes)
    return Scored(task, truth, repeated), likely.T.ravel()


def _calibrated(known: Scored, prediction: np.ndarray) -> np.ndarray:
    """Return (rows, classes) probabilities as right as the known rows can make them.

    A logistic regression on their logarithms (Platt scaling; matrix scaling of several classes): unlike an isotonic one
    it says something sensible of probabilities that are higher than all that were seen.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=_LOOSE, max_iter=1000).fit(_logarithms(known.prediction), known.truth.astype(int))
    likely = np.zeros((len(prediction), 2 if prediction.ndim == 1 else prediction.shape[1]))
    likely[:, fitted.classes_] = fitted.predict_proba(_logarithms(prediction))
    return likely


def _logarithms(prediction: np.ndarray) -> np.ndarray:
    import numpy as np

    columns = np.stack([1 - prediction, prediction], axis=1) if prediction.ndim == 1 else prediction
    logarithms = np.log(np.clip(columns, SMALLEST_PROBABILITY, 1))
    centred: np.ndarray = logarithms - logarithms.mean(axis=1, keepdims=True)
    return centred


def _error(metric: str, known: Scored, days: np.ndarray) -> tuple[float, float] | None:
    """Return the standard error of truth less estimate on the known rows, and how many independent days tell of it."""
    import numpy as np

    every, weights = _as_every_class(known.task, known.prediction, _calibrated(known, known.prediction))
    truth = performance(known, metric, days)
    expected = performance(every, metric, np.concatenate([days] * (len(weights) // len(days))), weights)
    if truth is None or expected is None:
        return None
    return truth.less(expected).error()
