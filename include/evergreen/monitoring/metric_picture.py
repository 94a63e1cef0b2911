"""The picture of how a champion does: the deciding metric by partition with its interval, and which version it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from evergreen.drawing import BLUE, GREY, ORANGE, png
from evergreen.monitoring.proposal import MetricInterval, PerformanceDocument
from evergreen.spec import METRICS, RANGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Found = Sequence[tuple[date, PerformanceDocument]]
_MARGIN = 0.04
"""What is left free on either side, as a part of the days between the first partition and the last."""
_LABEL = 0.1
"""The width of a version's label, as a part of the axis: where two are nearer to each other, they are turned."""
_FEW_DAYS = 14
"""Up to so many days each of them is named on the axis."""
_EPOCH = date(1970, 1, 1)


def metric_over_time(metric: str, found: _Found, champion: str = "") -> bytes | None:
    """Return the picture as PNG; None where no partition has a metric with an interval.

    The days are those of the data. When an alias was moved is another matter: a version that serves again since today
    is measured on partitions of its own. So a line is drawn between the last partition that was measured with one
    version and the first that was measured with another.

    Parameters
    ----------
    metric
        The deciding one.
    found
        What was found of each partition, the oldest first; reports of another metric, or that name none, are left out.
    champion
        The version that serves by now: where it is not the one that was measured last, a line at the end says so.
    """
    from matplotlib.figure import Figure

    of_metric = [(day, document) for day, document in found if document.metric == metric]
    known = [(day, document) for day, document in of_metric if document.measured or document.estimate]
    if not known:
        return None
    figure = Figure(figsize=(9.0, 3.9), layout="constrained")
    axes = figure.subplots()
    _intervals(axes, known, lambda document: document.measured, "on days with labels", BLUE)
    _intervals(axes, known, lambda document: document.estimate, "estimated, labels to come", GREY)
    _limit(axes, metric, known)
    ends = _edges([_place(day) for day, _ in known])
    turned = _versions(axes, known, champion, ends[-1] - ends[0])
    pad = 48 if turned else 18
    axes.set_title(f"The champion's {metric}, with its 95 % interval", loc="left", fontweight="bold", pad=pad)
    axes.set_xlabel("partition that was checked")
    _days(axes, ends[0], ends[-1])
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    return png(figure)


def _intervals(
    axes: Axes, found: _Found, of: Callable[[PerformanceDocument], MetricInterval | None], label: str, colour: str
) -> None:
    points = [(day, told.within(document.metric)) for day, document in found if (told := of(document))]
    if not points:
        return
    days, values = [_place(day) for day, _ in points], [interval.value for _, interval in points]
    below = [interval.value - interval.low for _, interval in points]
    above = [interval.high - interval.value for _, interval in points]
    axes.errorbar(days, values, yerr=[below, above], fmt="o", color=colour, capsize=3, markersize=5, label=label)


def _limit(axes: Axes, metric: str, found: _Found) -> None:
    """Draw the value beyond which a retraining is proposed: it moves when another champion serves."""
    sign, (lowest, highest) = METRICS[metric][1].sign, RANGES[metric]
    limits = [
        (_place(day), document.measured.value + sign * (document.drop - document.drop_limit))
        for day, document in found
        if document.measured and document.drop is not None and document.drop_limit is not None
    ]
    if limits:
        values = [min(max(value, lowest), highest) for _, value in limits]
        edges = _edges([place for place, _ in limits])
        label = "beyond it a retraining is proposed"
        axes.stairs(values, edges, baseline=None, color=ORANGE, linestyle=":", linewidth=1.5, label=label)


def _versions(axes: Axes, found: _Found, champion: str, width: float) -> bool:
    """Draw where another version was measured, and the one that still has to be; tell whether labels were turned."""
    lines = [(place, version, "-") for place, version in _changes(found)]
    measured = next((document.champion for _, document in reversed(found) if document.champion), "")
    if champion and measured and measured != champion:
        lines.append((_place(found[-1][0]) + max(0.5, _MARGIN * width) / 2, champion, "--"))
    turned = any(right - left < _LABEL * width for (left, *_), (right, *_) in pairwise(lines))
    said = {"-": "another version was measured from here on", "--": "the champion by now, not measured yet"}
    for place, version, style in lines:
        axes.axvline(place, color=ORANGE, linewidth=1.5, linestyle=style, label=said.pop(style, None))
        text = axes.text(place, 1.01, f"version {version}", transform=axes.get_xaxis_transform(), va="bottom")
        text.set(fontsize=8, color=ORANGE, rotation=60 if turned else 0, ha="left" if turned else "center")
    return turned


def _changes(found: _Found) -> Iterator[tuple[float, str]]:
    """Yield the places between partitions that were measured with different versions, each with the later version."""
    measured = [(_place(day), document.champion) for day, document in found if document.champion]
    for (last, before), (first, after) in pairwise(measured):
        if before != after:
            yield (last + first) / 2, after


def _edges(places: Sequence[float]) -> list[float]:
    """Return where the parts of an axis begin and end of which each has one of these places, in order."""
    margin = max(0.5, _MARGIN * (places[-1] - places[0]))
    between = [(left + right) / 2 for left, right in pairwise(places)]
    return [places[0] - margin, *between, places[-1] + margin]


def _days(axes: Axes, first: float, last: float) -> None:
    """Name the days of the axis: each where they are few, as by itself matplotlib then names hours, or years."""
    axes.set_xlim(first, last)
    axes.xaxis_date()
    if last - first <= _FEW_DAYS:
        places = range(math.ceil(first), math.floor(last) + 1)
        axes.set_xticks(places, [str(_EPOCH + timedelta(days=place)) for place in places])
    axes.tick_params(axis="x", rotation=30)


def _place(day: date) -> float:
    """Return where a day lies on an axis of dates: matplotlib counts days from 1970 on."""
    return float((day - _EPOCH).days)
