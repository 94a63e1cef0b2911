"""The picture of how a champion does: the deciding metric by partition with its interval, and who took over when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import TYPE_CHECKING

from evergreen.drawing import BLUE, GREY, ORANGE, png
from evergreen.monitoring.proposal import MetricInterval, PerformanceDocument
from evergreen.spec import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Promotion = tuple[date, str]
"""The partition at which a version became champion, and the version; empty when there was none from then on."""


def metric_over_time(
    metric: str, found: Sequence[tuple[date, PerformanceDocument]], moves: Sequence[Promotion]
) -> bytes | None:
    """Return the picture as PNG; None where no partition has a metric with an interval.

    Parameters
    ----------
    metric
        The deciding one.
    found
        What was found of each partition, the oldest first; reports of another metric, or that name none, are left out.
    moves
        Promotions and rollbacks; those of partitions before the first that is shown are left out.
    """
    from matplotlib.figure import Figure

    of_metric = [(day, document) for day, document in found if document.metric == metric]
    known = [(day, document) for day, document in of_metric if document.measured or document.estimate]
    if not known:
        return None
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    axes = figure.subplots()
    _intervals(axes, known, lambda document: document.measured, "on days with labels", BLUE)
    _intervals(axes, known, lambda document: document.estimate, "estimated, labels to come", GREY)
    _limit(axes, METRICS[metric][1].sign, known)
    top = axes.get_xaxis_transform()
    for day, version in moves:
        if day >= known[0][0]:
            axes.axvline(_place(day), color=ORANGE, linewidth=1.5)
            label = f"version {version}" if version else "no champion"
            axes.text(_place(day), 1.01, label, transform=top, ha="center", va="bottom", fontsize=8, color=ORANGE)
    axes.set_title(f"The champion's {metric}, with its 95 % interval", loc="left", fontweight="bold", pad=18)
    axes.set_xlabel("partition that was checked")
    axes.xaxis_date()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", rotation=30)
    axes.legend(frameon=False, loc="best", fontsize=8)
    return png(figure)


def _intervals(
    axes: Axes,
    found: Sequence[tuple[date, PerformanceDocument]],
    of: Callable[[PerformanceDocument], MetricInterval | None],
    label: str,
    colour: str,
) -> None:
    points = [(day, interval) for day, document in found if (interval := of(document))]
    if not points:
        return
    days, values = [_place(day) for day, _ in points], [interval.value for _, interval in points]
    below = [interval.value - interval.low for _, interval in points]
    above = [interval.high - interval.value for _, interval in points]
    axes.errorbar(days, values, yerr=[below, above], fmt="o", color=colour, capsize=3, markersize=5, label=label)


def _limit(axes: Axes, sign: int, found: Sequence[tuple[date, PerformanceDocument]]) -> None:
    """Draw the value beyond which a retraining is proposed: it moves when another champion serves."""
    limits = [
        (_place(day), document.measured.value + sign * (document.drop - document.drop_limit))
        for day, document in found
        if document.measured and document.drop is not None and document.drop_limit is not None
    ]
    if limits:
        days, values = zip(*limits, strict=True)
        axes.step(days, values, where="mid", color=ORANGE, linestyle=":", label="beyond it a retraining is proposed")


def _place(day: date) -> float:
    """Return where a day lies on an axis of dates: matplotlib counts days from 1970 on."""
    return float((day - date(1970, 1, 1)).days)
