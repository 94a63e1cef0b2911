"""The pictures of an evaluation, as PNG: what the figures of a comparison look like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from evergreen.data.lake import PARTITION
from evergreen.drawing import BLUE, GREY, ORANGE, png
from evergreen.judgement.evidence import Evaluation, worst_first
from evergreen.judgement.figures import reliability
from evergreen.judgement.metrics import Scored, choice
from evergreen.pipelines import PICTURES
from evergreen.spec import ModelSpec, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_SLICES = 20
_MOST_CLASSES, _MOST_NUMBERED = 12, 6
_LABEL = 24
"""Signs of a label; a longer one is cut."""


class _Model(NamedTuple):
    """One of the two, on the rows for which it has a finite prediction."""

    name: str
    colour: str
    scores: Scored
    days: np.ndarray
    labels: np.ndarray


def pictures_of(
    spec: ModelSpec, frame: pd.DataFrame, evaluation: Evaluation, challenger: Scored, champion: Scored | None
) -> dict[str, bytes]:
    """Return the pictures that the task has and the rows allow, by their names.

    Parameters
    ----------
    spec, frame
        The model, and the rows of the evaluation window.
    evaluation
        What was found.
    challenger, champion
        Their predictions for these rows; no champion where there is none.
    """
    from evergreen.training.encoder import category_names

    days, labels = frame[PARTITION].to_numpy(), category_names(frame[spec.features.examples.label]).to_numpy()
    version = evaluation.champion.version if evaluation.champion else ""
    given = ((f"champion (version {version})", GREY, champion), ("challenger", BLUE, challenger))
    models = [
        _Model(name, colour, scores.select(scores.finite), days[scores.finite], labels[scores.finite])
        for name, colour, scores in given
        if scores is not None and scores.finite.any()
    ]
    drawn = {"improvement_by_slice": _improvement_by_slice(evaluation)}
    if models:
        drawn["metric_by_day"] = _metric_by_day(spec.gate.metric, models)
        drawn |= _OF_TASK[spec.task](models)
    return {name: content for name in PICTURES if (content := drawn.get(name)) is not None}


def _improvement_by_slice(evaluation: Evaluation) -> bytes | None:
    found = [part for part in worst_first(evaluation.slices) if part.interval][:_MOST_SLICES]
    overall = evaluation.interval
    if not found or overall is None:
        return None
    names = ["all rows", *(f"{part.column}={part.value}" for part in found)]
    intervals = [overall, *(part.interval for part in found if part.interval)]
    figure, axes = _axes("Improvement of the challenger", height=1.3 + 0.27 * len(names))
    for place, (value, low, high) in enumerate(intervals):
        colour = BLUE if low > 0 else ORANGE if high < 0 else GREY
        reach = [[value - low], [high - value]]
        axes.errorbar(value, place, xerr=reach, fmt="o", color=colour, capsize=3, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), [_cut(name) for name in names], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel(f"{evaluation.metric}; right of 0 the challenger is better", fontsize=9)
    return png(figure)


def _metric_by_day(metric: str, models: Sequence[_Model]) -> bytes:
    import numpy as np

    figure, axes = _axes(f"{metric} by day")
    for model in models:
        names = np.unique(model.days)
        parts = [model.scores.select(model.days == name) for name in names]
        values = [part.metric(metric, np.ones((1, len(part.truth))))[0] for part in parts]
        axes.plot(names.astype("datetime64[D]"), values, marker="o", markersize=3, color=model.colour, label=model.name)
    axes.tick_params(axis="x", rotation=30)
    axes.legend(frameon=False, fontsize=8)
    return png(figure)


def _binary(models: Sequence[_Model]) -> dict[str, bytes]:
    (curves, roc), (bins, calibration) = _axes("ROC curve"), _axes("Calibration, in bins of as many rows")
    for axes in (roc, calibration):
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":")
    for model in models:
        false, true = _roc(model.scores)
        roc.plot(false, true, color=model.colour, label=model.name)
        _, given, came_true = reliability(model.scores)
        calibration.plot(given, came_true, marker="o", markersize=4, color=model.colour, label=model.name)
    for axes, across, up in (
        (roc, "false positive rate", "true positive rate"),
        (calibration, "mean probability that was given", "share that came true"),
    ):
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.legend(frameon=False, fontsize=8)
    both = len(set(models[0].scores.truth)) > 1
    return {**({"roc_curve": png(curves)} if both else {}), "calibration": png(bins)}


def _roc(model: Scored, most: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates at descending thresholds, not more than can be seen."""
    import numpy as np

    order = np.argsort(-model.prediction, kind="stable")
    truth, given = model.truth[order], model.prediction[order]
    ends = np.flatnonzero(np.r_[np.diff(given) != 0, True])  # equal probabilities have one threshold
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, most).astype(int))]
    true, false = truth.cumsum()[ends], (1 - truth).cumsum()[ends]
    return np.r_[0, false / max(false[-1], 1)], np.r_[0, true / max(true[-1], 1)]


def _regression(models: Sequence[_Model]) -> dict[str, bytes]:
    return {"predicted_and_true": _predicted_and_true(models), "residuals": _residuals(models)}


def _predicted_and_true(models: Sequence[_Model]) -> bytes:
    import numpy as np
    from matplotlib.figure import Figure

    ends = _ends([model.scores.truth for model in models], 0.001)
    figure = Figure(figsize=(3.0 * len(models), 3.2), layout="constrained")
    for axes, model in zip(np.atleast_1d(figure.subplots(1, len(models), sharey=True)), models, strict=True):
        places = (np.clip(values, *ends) for values in (model.scores.truth, model.scores.prediction))
        axes.hexbin(*places, gridsize=20, bins="log", mincnt=1, cmap="Blues", extent=(*ends, *ends))
        axes.plot(ends, ends, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(model.name, fontsize=9)
        axes.set_xlabel("true")
    figure.axes[0].set_ylabel("predicted")
    return png(figure)


def _residuals(models: Sequence[_Model]) -> bytes:
    import numpy as np

    figure, axes = _axes("Residuals: predicted minus true")
    residuals = [model.scores.prediction - model.scores.truth for model in models]
    ends = _ends(residuals, 0.005)
    for model, values in zip(models, residuals, strict=True):
        counts, edges = np.histogram(np.clip(values, *ends), bins=50, range=ends)
        axes.stairs(counts / values.size, edges, color=model.colour, linewidth=1.5, label=model.name)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_ylabel("share of rows")
    axes.legend(frameon=False, fontsize=8)
    return png(figure)


def _ends(values: Sequence[np.ndarray], beyond: float) -> tuple[float, float]:
    """Return where an axis ends: a far value would leave the others in one place, so it is drawn at the end."""
    import numpy as np

    low, high = np.quantile(np.concatenate(values), [beyond, 1 - beyond])
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _multiclass(models: Sequence[_Model]) -> dict[str, bytes]:
    import numpy as np
    from matplotlib.figure import Figure

    names = {
        int(place): str(label)
        for model in models
        for place, label in zip(model.scores.truth, model.labels, strict=True)
    }
    shown = [place for place, _ in Counter(models[-1].scores.truth.astype(int)).most_common(_MOST_CLASSES)]
    columns = [*(_cut(names[place]) for place in shown), "others"]
    figure = Figure(figsize=(4.4 * len(models), 4.2), layout="constrained")
    for axes, model in zip(np.atleast_1d(figure.subplots(1, len(models), sharey=True)), models, strict=True):
        truth, chosen = model.scores.truth.astype(int), choice(model.scores)
        counts = np.array([[np.sum((truth == row) & (chosen == column)) for column in shown] for row in shown])
        totals = np.array([np.sum(truth == row) for row in shown])
        shares = np.c_[counts, totals - counts.sum(axis=1)] / np.maximum(totals, 1)[:, None]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), share in np.ndenumerate(shares) if len(shown) <= _MOST_NUMBERED else ():
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", fontsize=6, color=colour)
        axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize=7, parse_math=False)
        axes.set_yticks(range(len(shown)), columns[:-1], fontsize=7, parse_math=False)
        axes.set_title(model.name, fontsize=9)
        axes.set_xlabel("chosen")
    figure.axes[0].set_ylabel("true")
    return {"confusion_matrix": png(figure)}


_OF_TASK: Mapping[Task, Callable[[Sequence[_Model]], dict[str, bytes]]] = MappingProxyType(
    {Task.BINARY: _binary, Task.REGRESSION: _regression, Task.MULTICLASS: _multiclass}
)


def _axes(title: str, height: float = 3.6) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontweight="bold", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _cut(label: str) -> str:
    return label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…"
