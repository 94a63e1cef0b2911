"""The metrics a gate can ask for, in a weighted form, so that leaving a day out is a vector of row weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evergreen.spec import METRICS, ModelSpec, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

SMALLEST_PROBABILITY = 1e-15
"""Probabilities are clipped to this in the log loss, so that one certain mistake is bad, not infinite."""


@dataclass(frozen=True)
class Scored:
    """One model's predictions beside the truth.

    Parameters
    ----------
    task
        Decides which metrics are defined.
    truth
        (rows,) float64: 0/1, the index of the class, or the value; see :func:`scored`.
    prediction
        (rows,) float64: probability of class 1, or the predicted value; (rows, classes) for multiclass.
    """

    task: Task
    truth: np.ndarray
    prediction: np.ndarray

    @property
    def finite(self) -> np.ndarray:
        """(rows,) whether the model said anything: a finite value, or a finite probability of every class."""
        import numpy as np

        finite = np.isfinite(self.prediction)
        return finite if finite.ndim == 1 else np.asarray(finite.all(axis=1))

    def filled(self, other: Scored) -> Scored:
        """Return the same with another model's predictions where this one's are not finite."""
        prediction = self.prediction.copy()
        prediction[~self.finite] = other.prediction[~self.finite]
        return Scored(self.task, self.truth, prediction)

    def metric(self, name: str, weights: np.ndarray) -> np.ndarray:
        """Return a metric under each row of ``weights`` (weightings, rows); nan where it is not defined.

        A weight says how often a row counts; a single row of ones gives the metric itself.
        """
        return _METRICS[name](self, weights)

    def metrics(self, rows: np.ndarray | None = None) -> dict[str, float]:
        """Return every metric of the task that is defined and finite, over all rows or a boolean selection."""
        import numpy as np

        part = self if rows is None else self.select(rows)
        if not len(part.truth) or not part.finite.all():
            return {}
        ones = np.ones((1, len(part.truth)))
        values = {name: float(part.metric(name, ones)[0]) for name, (tasks, _) in METRICS.items() if part.task in tasks}
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def select(self, rows: np.ndarray) -> Scored:
        """Return the same for some of the rows."""
        return Scored(self.task, self.truth[rows], self.prediction[rows])


def scored(task: Task, labels: pd.Series, predictions: Sequence[pd.DataFrame]) -> list[Scored]:
    """Put the predictions of several models beside the same labels.

    Two multiclass models may know different classes: each gets the union, with probability 0 for what it
    does not know, and so does a label neither knows.
    """
    import numpy as np

    if task is not Task.MULTICLASS:
        truth = labels.to_numpy(dtype=np.float64)
        return [Scored(task, truth, frame.iloc[:, 0].to_numpy(dtype=np.float64)) for frame in predictions]
    from evergreen.training.encoder import category_names

    names, classes = category_names(labels), _classes(labels, predictions)
    index = names.map({name: position for position, name in enumerate(classes)}).to_numpy(dtype=np.float64)
    return [Scored(task, index, _of_classes(frame, classes)) for frame in predictions]


def deciding_metric(spec: ModelSpec, frame: pd.DataFrame, predicted: pd.DataFrame) -> float:
    """Return ``gate.metric`` of the predictions of labelled rows; nan where it is not defined."""
    import numpy as np

    (model,) = scored(spec.task, frame[spec.features.examples.label], [predicted])
    return float(model.metric(spec.gate.metric, np.ones((1, len(frame))))[0])


def aligned(task: Task, labels: pd.Series, predicted: pd.DataFrame) -> np.ndarray:
    """Return predictions of other rows in the form that `scored` gives them beside these labels."""
    import numpy as np

    if task is Task.MULTICLASS:
        return _of_classes(predicted, _classes(labels, [predicted]))
    values: np.ndarray = predicted.iloc[:, 0].to_numpy(dtype=np.float64)
    return values


def _classes(labels: pd.Series, predictions: Sequence[pd.DataFrame]) -> list[str]:
    from evergreen.training.encoder import category_names

    return sorted({*category_names(labels).unique(), *(name for frame in predictions for name in frame.columns)})


def _of_classes(frame: pd.DataFrame, classes: list[str]) -> np.ndarray:
    import numpy as np

    shares: np.ndarray = frame.reindex(columns=classes, fill_value=0.0).to_numpy(dtype=np.float64)
    return shares


def _mean(loss: Callable[[Scored], np.ndarray]) -> Callable[[Scored, np.ndarray], np.ndarray]:
    def metric(model: Scored, weights: np.ndarray) -> np.ndarray:
        return _ratio(weights @ loss(model), weights.sum(axis=1))

    return metric


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    import numpy as np

    empty = np.full(np.broadcast(numerator, denominator).shape, np.nan)
    ratio: np.ndarray = np.divide(numerator, denominator, out=empty, where=denominator > 0)
    return ratio


def _log_loss(model: Scored) -> np.ndarray:
    import numpy as np

    if model.task is Task.BINARY:
        right = np.where(model.truth == 1, model.prediction, 1 - model.prediction)
    else:
        right = model.prediction[np.arange(len(model.truth)), model.truth.astype(int)]
    loss: np.ndarray = -np.log(np.clip(right, SMALLEST_PROBABILITY, 1.0))
    return loss


def choice(model: Scored) -> np.ndarray:
    """(rows,) what a classification says: whether it is 1, which is from above one half on, or the likeliest class."""
    chosen: np.ndarray = model.prediction > 0.5 if model.task is Task.BINARY else model.prediction.argmax(axis=1)
    return chosen


def _by_score(model: Scored, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of negatives and positives, summed over equal scores, in ascending order of the score."""
    import numpy as np

    order = np.argsort(model.prediction, kind="stable")
    ordered, truth = weights[:, order], model.truth[order]
    starts = np.flatnonzero(np.r_[True, np.diff(model.prediction[order]) > 0])
    positive = ordered * truth
    if len(starts) == len(order):  # no ties: nothing to sum
        return ordered - positive, positive
    return np.add.reduceat(ordered - positive, starts, axis=1), np.add.reduceat(positive, starts, axis=1)


def _auc(model: Scored, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve by the Mann-Whitney statistic; a tie counts one half."""
    negative, positive = _by_score(model, weights)
    below = negative.cumsum(axis=1) - negative / 2
    return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def _average_precision(model: Scored, weights: np.ndarray) -> np.ndarray:
    """Sum of precision times the step in recall, over descending thresholds (as scikit-learn defines it)."""
    import numpy as np

    negative, positive = (part[:, ::-1] for part in _by_score(model, weights))
    true, false = positive.cumsum(axis=1), negative.cumsum(axis=1)
    precision = np.nan_to_num(_ratio(true, true + false))
    return _ratio((positive * precision).sum(axis=1), positive.sum(axis=1))


def _macro_f1(model: Scored, weights: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur in the truth or in the choices that count."""
    import numpy as np

    chosen, scores = choice(model), []
    for index in range(model.prediction.shape[1]):
        truth, said = model.truth == index, chosen == index
        scores.append(_ratio(2 * (weights @ (truth & said)), weights @ truth + weights @ said))
    defined = np.isfinite(scores)
    return _ratio(np.nansum(scores, axis=0), defined.sum(axis=0))


def _r2(model: Scored, weights: np.ndarray) -> np.ndarray:
    truth = model.truth - model.truth.mean()  # centred: no cancellation in the variance below
    total = weights.sum(axis=1)
    spread = weights @ truth**2 - _ratio((weights @ truth) ** 2, total)
    return 1 - _ratio(weights @ (model.truth - model.prediction) ** 2, spread)


def _rmse(model: Scored, weights: np.ndarray) -> np.ndarray:
    import numpy as np

    root: np.ndarray = np.sqrt(_mean(lambda scored: (scored.truth - scored.prediction) ** 2)(model, weights))
    return root


_METRICS: Mapping[str, Callable[[Scored, np.ndarray], np.ndarray]] = {
    "auc": _auc,
    "average_precision": _average_precision,
    "brier": _mean(lambda model: (model.truth - model.prediction) ** 2),
    "log_loss": _mean(_log_loss),
    "accuracy": _mean(lambda model: (choice(model) == model.truth).astype(float)),
    "macro_f1": _macro_f1,
    "rmse": _rmse,
    "mae": _mean(lambda model: abs(model.truth - model.prediction)),
    "r2": _r2,
}
