"""What the rules of a gate ask for beside the metrics: calibration, and differences between groups.

Each is a point value on the whole window, or on the rows of a slice's value, for both models alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from evergreen.contract import ConfigurationError
from evergreen.judgement.evidence import Figure
from evergreen.judgement.metrics import Scored, choice
from evergreen.spec import COST_METRICS, FLIP_METRICS, GROUP_METRICS, ModelSpec, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MISSING = "missing"
"""The value of a slice, or the group, whose rows have none."""
BINS = 10
"""Of the calibration error."""


def figures_of(spec: ModelSpec, frame: pd.DataFrame, champion: Scored | None, challenger: Scored) -> Iterator[Figure]:
    """Yield what ``gate.rules`` ask of the predictions; rules that ask for the same share it.

    Raises
    ------
    ConfigurationError
        If a column of a slice, or a sensitive one, is not in the data set.
    """
    gate = spec.gate
    # the others ask the models themselves
    rules = [rule for rule in gate.rules if rule.metric not in FLIP_METRICS | COST_METRICS]
    asked = ((rule.metric, column, rule.minimum_rows) for rule in rules for column in gate.columns_of(rule))
    for metric, column, least in dict.fromkeys(asked):
        field = "gate.sensitive" if metric in GROUP_METRICS else "gate.rules"
        parts = parts_of(spec, frame, field, column)
        if metric in GROUP_METRICS:
            yield from _between(metric, column, least, parts, _rates(metric, gate.metric), champion, challenger)
            continue
        for value, rows in parts.items():
            found = Figure(metric=metric, column=column, value=value, minimum_rows=least, rows=int(rows.sum()))
            if found.rows < least:
                yield found
                continue
            ours, theirs = (known(_point(model, metric, rows)) if model else None for model in (challenger, champion))
            yield found.model_copy(update={"challenger": ours, "champion": theirs})


def parts_of(spec: ModelSpec, frame: pd.DataFrame, field: str, column: str) -> dict[str, np.ndarray]:
    """Return the rows of each value of a column, sorted; all rows where the column's name is empty.

    Raises
    ------
    ConfigurationError
        If the column is not in the data set; ``field`` of model.yaml has named it.
    """
    import numpy as np

    from evergreen.training.encoder import category_names

    if not column:
        return {"": np.ones(len(frame), dtype=bool)}
    if column not in frame.columns:
        raise ConfigurationError(
            f"{spec.folder / 'model.yaml'}: {field}: the data set has no column {column!r}.",
            f"Use one of: {', '.join(frame.columns)}.",
        )
    values = category_names(frame[column]).fillna(MISSING)
    return {name: (values == name).to_numpy() for name in sorted(values.unique())}


def known(value: float) -> float | None:
    """Return a figure, or None where it is not finite."""
    return value if math.isfinite(value) else None


def _point(model: Scored, metric: str, rows: np.ndarray) -> float:
    """Return a metric on some rows; nan where it is not defined, or a prediction is not finite."""
    import numpy as np

    part = model.select(rows)
    if not len(part.truth) or not part.finite.all():
        return math.nan
    return calibration_error(part) if metric == "ece" else float(part.metric(metric, np.ones((1, len(part.truth))))[0])


def calibration_error(model: Scored) -> float:
    """Return the expected calibration error over :data:`BINS` bins of as many rows each.

    It is the mean distance, over the rows, between what a bin's rows were given and what came true in it. Of a binary
    model that is the probability of class 1 and the share of 1; of a multiclass model the probability of the class it
    chooses and the share of right choices (Guo et al. 2017; bins by count: Nguyen & O'Connor 2015). Equal
    probabilities stay in one bin, so that the order of the rows says nothing.
    """
    rows, given, true = reliability(model)
    return float((rows * abs(true - given)).sum() / rows.sum())


def reliability(model: Scored) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each of these bins its rows, the mean of what they were given, and the share that came true."""
    import numpy as np

    binary = model.task is Task.BINARY
    given = model.prediction if binary else model.prediction.max(axis=1)
    true = model.truth if binary else choice(model) == model.truth
    edges = np.quantile(given, np.linspace(0, 1, BINS + 1)[1:-1])
    bins = np.searchsorted(edges, given)
    rows = np.bincount(bins)
    kept = rows > 0
    said, came_true = (np.bincount(bins, weights=values)[kept] / rows[kept] for values in (given, true))
    return rows[kept], said, came_true


def _rates(metric: str, deciding: str) -> tuple[Callable[[Scored, np.ndarray], float], ...]:
    """Return what is compared between groups: of several, the one that differs most counts (as fairlearn has it)."""
    return {
        "demographic_parity_difference": (_chosen(None),),
        "equalized_odds_difference": (_chosen(1), _chosen(0)),
        "group_difference": (lambda model, rows: _point(model, deciding, rows),),
    }[metric]


def _chosen(label: int | None) -> Callable[[Scored, np.ndarray], float]:
    """Return how to tell the share of a group that the model says yes to: of its rows, or of those with a label."""

    def rate(model: Scored, rows: np.ndarray) -> float:
        part = model.select(rows if label is None else rows & (model.truth == label))
        return float(choice(part).mean()) if len(part.truth) and part.finite.all() else math.nan

    return rate


def _between(
    metric: str,
    column: str,
    least: int,
    parts: dict[str, np.ndarray],
    rates: tuple[Callable[[Scored, np.ndarray], float], ...],
    champion: Scored | None,
    challenger: Scored,
) -> Iterator[Figure]:
    """Yield the largest difference between groups, and those that are too small to be compared."""
    counts = {name: int(rows.sum()) for name, rows in parts.items()}
    groups = {name: rows for name, rows in parts.items() if counts[name] >= least}
    small = {name: count for name, count in counts.items() if count < least}
    for name, count in small.items():
        yield Figure(metric=metric, column=column, value=name, minimum_rows=least, rows=count)
    found = Figure(metric=metric, column=column, minimum_rows=least, rows=sum(counts.values()) - sum(small.values()))
    if len(groups) < 2:
        few = f"fewer than two groups have {least} rows"
        yield found.model_copy(update={"rows": 0, "detail": few})
        return
    ours, detail = _difference(challenger, groups, rates)
    theirs = _difference(champion, groups, rates)[0] if champion else None
    yield found.model_copy(update={"challenger": ours, "champion": theirs, "detail": detail})


def _difference(
    model: Scored, groups: dict[str, np.ndarray], rates: tuple[Callable[[Scored, np.ndarray], float], ...]
) -> tuple[float | None, str]:
    """Return the largest difference of any rate, and the two groups it lies between; None if a rate is not defined."""
    widest, detail = -math.inf, ""
    for rate in rates:
        found = {name: rate(model, rows) for name, rows in groups.items()}
        if unknown := [name for name, value in found.items() if not math.isfinite(value)]:
            return None, f"not defined for {', '.join(unknown)}"
        (low, least), *_, (high, most) = sorted(found.items(), key=lambda pair: pair[1])
        if most - least > widest:
            widest, detail = most - least, f"{low} {least:.4f}, {high} {most:.4f}"
    return widest, detail
