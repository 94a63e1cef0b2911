"""The pictures of a drift report, as PNG: columns by partitions, and what the champion predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import pairwise
from statistics import median_low
from typing import TYPE_CHECKING

from evergreen.drawing import BLUE, GREY, ORANGE, png
from evergreen.monitoring.baseline import ColumnBaseline
from evergreen.monitoring.proposal import ColumnDrift

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

_STEPS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
_COLOURS = ("#F4F6F8", "#DCE6EF", "#B5CCDF", "#F9C38F", "#EC7D2B", "#A63603")
"""Below the limit grey to blue, from the limit on orange to brown: told apart in grey, too."""
_MOST_CATEGORIES = 12
_GAP = 1.5
"""Times the usual distance between partitions from which on something lies between two of them."""


def heat_map(found: Sequence[tuple[date, Mapping[str, ColumnDrift]]]) -> bytes:
    """Return how far each column was from its limit in each partition: its highest index as a part of the limit.

    Partitions have a usual distance, the median: a day, a week, a month. Where two neighbours are at least half as far
    again from each other, a hatched column between them says how many partitions are not there. It is one column
    however many they are, so that 60 partitions can be read whatever lies between them.
    """
    import numpy as np
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for _, columns in found for name in columns))
    shown = list(_with_gaps(found))
    cells = np.array([[_against_limit(columns.get(name)) for _, columns in shown] for name in names])
    figure = Figure(figsize=(max(7.0, 2.6 + 0.34 * len(shown)), 1.5 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    _cells(axes, cells)
    axes.set_yticks(range(len(names)), names)
    every = -(-len(found) // 30)
    gaps = [place for place, (_, columns) in enumerate(shown) if not columns]
    places = [*[place for place, (_, columns) in enumerate(shown) if columns][::every], *gaps]
    axes.set_xticks(places, [shown[place][0] for place in places], rotation=60, ha="right")
    for place in gaps:
        axes.axvspan(place - 0.5, place + 0.5, facecolor="white", edgecolor=GREY, hatch="////", linewidth=0)
    axes.set_title("How far each column is from the reference", loc="left", fontweight="bold")
    axes.set_xlabel(
        "partition whose window was checked" + ("; hatched: partitions that were not compared" if gaps else "")
    )
    return png(figure)


def _with_gaps(
    found: Sequence[tuple[date, Mapping[str, ColumnDrift]]],
) -> Iterator[tuple[str, Mapping[str, ColumnDrift]]]:
    """Yield the partitions by name, and between them how many are not there, as one without columns."""
    distances = [(later - earlier).days for (earlier, _), (later, _) in pairwise(found)]
    usual = median_low(distances or [1])
    for (day, columns), distance in zip(found, [*distances, usual], strict=True):
        yield str(day), columns
        if distance >= _GAP * usual:
            yield f"{max(round(distance / usual) - 1, 1)} missing", {}


def _cells(axes: Axes, cells: np.ndarray) -> None:
    """Draw the cells, an x in each that has drifted, and the bar that explains the colours."""
    import numpy as np
    from matplotlib.colors import BoundaryNorm, ListedColormap

    colours = ListedColormap(list(_COLOURS)).with_extremes(bad="white")
    image = axes.imshow(
        np.ma.masked_invalid(cells), cmap=colours, norm=BoundaryNorm([*_STEPS, 1e9], len(_COLOURS)), aspect="auto"
    )
    rows, columns = cells.shape
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    for row, column in zip(*np.nonzero(np.nan_to_num(cells) >= 1), strict=True):
        axes.text(column, row, "x", ha="center", va="center", fontsize=8, color=_on(cells[row, column]))
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, ticks=_STEPS, extend="neither", pad=0.01, aspect=18)
    bar.ax.set_yticklabels([*(f"{step:g}" for step in _STEPS)])
    bar.set_label("index / limit (x: drifted)")


def _against_limit(column: ColumnDrift | None) -> float:
    return column.indices[column.deciding].against_limit if column and column.indices else float("nan")


def _on(value: float) -> str:
    return "white" if value >= _STEPS[-2] else "black"


def distribution(name: str, column: ColumnBaseline, current: np.ndarray, ends: tuple[float, float] | None) -> bytes:
    """Return a column's values in the reference and in the window, one over the other."""
    import numpy as np
    from matplotlib.figure import Figure

    before, now = np.array(column.counts).sum(axis=0)[:-1], current.sum(axis=0)[:-1]
    figure = Figure(figsize=(7.0, 3.0), layout="constrained")
    axes = figure.subplots()
    shares = [counts / max(counts.sum(), 1) for counts in (before, now)]
    if column.kind == "category":
        _bars(axes, column, *shares)
    else:
        known = [end for end in (column.lowest, column.highest, *(ends or ())) if end is not None]
        _steps(axes, [min(known, default=0.0), *column.edges, max(known, default=1.0)], *shares)
    axes.set_title(f"{name}: the window against the reference", loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return png(figure)


def _steps(axes: Axes, edges: Sequence[float], reference: np.ndarray, current: np.ndarray) -> None:
    import numpy as np

    places = np.maximum.accumulate(np.array(edges))
    widths = np.diff(places)
    wide = widths > 0
    for shares, colour, label in ((reference, GREY, "reference"), (current, ORANGE, "this window")):
        density = np.divide(shares, widths, out=np.zeros(len(widths)), where=wide)
        axes.stairs(density, places, color=colour, linewidth=2, label=label, fill=label == "reference", alpha=0.9)
    axes.set_xlabel("value")
    axes.set_ylabel("density")


def _bars(axes: Axes, column: ColumnBaseline, reference: np.ndarray, current: np.ndarray) -> None:
    import numpy as np

    names = [*column.levels[:_MOST_CATEGORIES], *(["all others"] if len(column.levels) > _MOST_CATEGORIES else [])]
    places = np.arange(len(names))
    for shift, shares, colour, label in ((-0.2, reference, GREY, "reference"), (0.2, current, BLUE, "this window")):
        heights = [*shares[:_MOST_CATEGORIES], shares[_MOST_CATEGORIES:].sum()][: len(names)]
        axes.bar(places + shift, heights, 0.4, color=colour, label=label)
    axes.set_xticks(places, names, rotation=30 if len(names) > 6 else 0)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_ylabel("share of rows")
