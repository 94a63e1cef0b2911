"""What can be predicted without a model: what a first champion has to beat."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from evergreen.data.lake import PARTITION
from evergreen.judgement.metrics import Scored
from evergreen.spec import ModelSpec, Task

if TYPE_CHECKING:
    import pandas as pd

ROLLING_DAYS = (1, 7)
"""Newest known days whose mean label is a baseline of a regression: the last value, and the last week."""


def best_baseline(
    spec: ModelSpec, frame: pd.DataFrame, earlier: pd.DataFrame, challenger: Scored
) -> tuple[str, Scored]:
    """Return the best of the trivial predictions by the deciding metric, with its name.

    Parameters
    ----------
    spec
        Names the deciding metric, and how many days later a label is known.
    frame
        The rows of the evaluation window.
    earlier
        Partition and label of the training window.
    challenger
        Its scores have the truth in the form of the metrics.
    """
    import numpy as np

    metric, direction = spec.gate.metric, spec.gate.direction
    baselines = {"constant": _constant(challenger, metric)}
    if spec.task is Task.REGRESSION:
        baselines |= {
            "last day" if days == 1 else f"last {days} days": _rolling(spec, frame, earlier, challenger, days)
            for days in ROLLING_DAYS
        }
    ones = np.ones((1, len(frame)))
    sign = direction.sign
    points = {name: sign * float(model.metric(metric, ones)[0]) for name, model in baselines.items()}
    best = max(baselines, key=lambda name: points[name] if np.isfinite(points[name]) else -np.inf)
    return best, baselines[best]


def _constant(model: Scored, metric: str) -> Scored:
    """Return the best constant, in hindsight: the shares of the classes; the mean, or where it is better the median.

    It ranks nothing: AUC is 0.5, average precision the share of positives, R squared 0, accuracy the largest share.
    """
    import numpy as np

    truth = model.truth
    if model.task is Task.MULTICLASS:
        classes = model.prediction.shape[1]
        shares = np.bincount(truth.astype(int), minlength=classes) / max(1, truth.size)
        return Scored(model.task, truth, np.tile(shares, (truth.size, 1)))
    level = (np.median if metric == "mae" else np.mean)(truth) if truth.size else np.nan
    return Scored(model.task, truth, np.full(truth.size, float(level)))


def _rolling(spec: ModelSpec, frame: pd.DataFrame, earlier: pd.DataFrame, model: Scored, days: int) -> Scored:
    """Return for each row the mean label of the newest days whose labels were known on the day before its own."""
    import numpy as np
    import pandas as pd

    label, delay = spec.features.examples.label, spec.features.examples.label_delay_days
    columns = [PARTITION, label]
    daily = pd.concat([earlier[columns], frame[columns]]).astype({label: "float64"}).groupby(PARTITION)[label].mean()
    known = pd.Series({date.fromisoformat(str(day)): value for day, value in daily.items()}).sort_index()

    def value(day: date) -> float:
        before = known[[known_day < day - timedelta(days=delay) for known_day in known.index]]
        return float(before.tail(days).mean()) if len(before) else float(np.mean(model.truth))

    values = {day: value(date.fromisoformat(str(day))) for day in frame[PARTITION].unique()}
    return Scored(model.task, model.truth, frame[PARTITION].map(values).to_numpy(dtype=np.float64))
