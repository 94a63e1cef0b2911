"""The picture of the champion's metric: on the days of the data, and within what the metric can be."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from evergreen.drawing import BLUE, GREY, ORANGE
from evergreen.monitoring import metric_picture
from evergreen.monitoring.metric_picture import metric_over_time
from evergreen.monitoring.proposal import MetricInterval, PerformanceDocument
from evergreen.spec import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DAY = date(2024, 3, 10)
Found = list[tuple[date, PerformanceDocument]]


def measured(value: float, champion: str, metric: str = "auc", reach: float = 0.03) -> PerformanceDocument:
    interval = MetricInterval(window="w", value=value, low=value - reach, high=value + reach)
    drop = 0.7 - value
    return PerformanceDocument(
        proposal=False, champion=champion, metric=metric, measured=interval, drop=drop, drop_limit=0.05
    )


def by_day(*champions: str) -> Found:
    """The champions that were measured on one day after the other."""
    return [(DAY + timedelta(days=at), measured(0.7 - 0.01 * at, version)) for at, version in enumerate(champions)]


def drawn(monkeypatch: pytest.MonkeyPatch, found: Found, champion: str = "", metric: str = "auc") -> Axes:
    """The axes of the picture."""
    figures: list[Figure] = []
    monkeypatch.setattr(metric_picture, "png", lambda figure: figures.append(figure) or b"")
    metric_over_time(metric, found, champion)
    return figures[0].axes[0]


def versions(axes: Axes) -> list[tuple[float, str]]:
    """The versions that are named, each with how many days after the first day."""
    return [(text.get_position()[0] - place(DAY), text.get_text()) for text in axes.texts]


def place(day: date) -> int:
    return (day - date(1970, 1, 1)).days


def pixels_of(picture: bytes | None, colour: str) -> int:
    """Return how many pixels have nearly a colour."""
    with Image.open(io.BytesIO(picture or b"")) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return int((np.abs(pixels - wanted).max(axis=2) < 12).sum())


def test_the_metric_is_drawn_with_its_intervals_its_limit_and_where_another_version_was_measured() -> None:
    plain, marked = (metric_over_time("auc", by_day(*champions)) for champions in ("111", "122"))
    assert pixels_of(marked, ORANGE) > pixels_of(plain, ORANGE) > 100  # the limit, then a version as well
    without = [(day, document.model_copy(update={"drop_limit": None})) for day, document in by_day("1", "1")]
    assert pixels_of(metric_over_time("auc", without), ORANGE) == 0


@pytest.mark.parametrize(
    ("champions", "now", "shown"),
    [
        (["1", "1", "2", "2", "1"], "1", [(1.5, "version 2"), (3.5, "version 1")]),  # promoted, and rolled back
        (["1", "1", "1"], "1", []),
        (["1", "", "1", "", "2"], "2", [(3, "version 2")]),  # reports of old do not say which version it was
        (["", ""], "1", []),
    ],
    ids=["a rollback", "no move", "unknown between", "unknown"],
)
def test_a_version_is_marked_between_the_days_it_was_measured_on_and_those_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch, champions: Sequence[str], now: str, shown: list[tuple[float, str]]
) -> None:
    assert versions(drawn(monkeypatch, by_day(*champions), now)) == shown


def test_a_champion_that_is_still_to_be_measured_is_marked_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the one that a rollback has just brought back, whatever day of the calendar that was."""
    axes = drawn(monkeypatch, by_day("1", "2", "2"), "1")
    (_, second), (last, first) = versions(axes)
    assert (second, first) == ("version 2", "version 1")
    assert place(DAY) + 2 < place(DAY) + last < axes.get_xlim()[1] <= place(DAY) + 3
    assert [line.get_linestyle() for line in axes.lines[-2:]] == ["-", "--"]


def test_versions_that_follow_each_other_closely_have_labels_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = drawn(monkeypatch, by_day(*(str(at // 2) for at in range(60))))
    axes.figure.canvas.draw()
    assert {text.get_rotation() for text in axes.texts} == {60}
    starts = [text.get_window_extent().x0 for text in axes.texts]
    assert all(right - left > 10 for left, right in pairwise(starts))


@pytest.mark.parametrize("days", [1, 2, 5])
def test_few_partitions_are_named_by_day_and_their_limit_is_seen(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    found = by_day(*"1" * days)
    axes = drawn(monkeypatch, found)
    assert axes.get_xlim() == (place(DAY) - 0.5, place(DAY) + days - 0.5)
    axes.figure.canvas.draw()
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(day) for day, _ in found]
    (limit,) = axes.patches
    assert limit.get_path().get_extents().width == days


@pytest.mark.parametrize("metric", METRICS)
def test_no_interval_is_drawn_where_the_metric_cannot_be(metric: str) -> None:
    """Reports of old have such intervals; in an axis that shows -40, the values are one line."""
    wide, told = measured(0.7, "1", metric, reach=40), MetricInterval(window="w", value=0.7, low=-39.3, high=40.7)
    cut = wide.model_copy(update={"measured": told.within(metric)})
    assert metric_over_time(metric, [(DAY, wide)]) == metric_over_time(metric, [(DAY, cut)])


def test_the_limit_is_not_drawn_where_the_metric_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    document = measured(0.7, "1").model_copy(update={"drop_limit": 50.0})
    (limit,) = drawn(monkeypatch, [(DAY, document)]).patches
    assert limit.get_data().values.tolist() == [0]


def test_an_estimate_is_drawn_where_labels_are_to_come_and_nothing_where_nothing_is_known() -> None:
    told = measured(0.7, "1").measured
    estimated = PerformanceDocument(proposal=False, metric="auc", estimate=told)
    picture = metric_over_time("auc", [(DAY, estimated)])
    assert pixels_of(picture, BLUE) == 0 < pixels_of(picture, GREY)
    assert metric_over_time("auc", [(DAY, PerformanceDocument(proposal=False, metric="auc"))]) is None
    assert metric_over_time("auc", [], "1") is None


@pytest.mark.parametrize("named", ["auc", ""], ids=["another metric", "none named"])
def test_what_is_not_of_the_deciding_metric_is_not_drawn(named: str) -> None:
    """gate.metric was changed: what was measured before is on another scale, and better the other way."""
    before = (date(2024, 1, 28), measured(0.7, "1", metric=named))
    now = (date(2024, 2, 28), measured(0.6, "1", metric="log_loss"))
    assert metric_over_time("log_loss", [before]) is None
    assert metric_over_time("log_loss", [before, now]) == metric_over_time("log_loss", [now])
    as_now = (before[0], measured(0.7, "1", metric="log_loss"))
    assert metric_over_time("log_loss", [as_now, now]) != metric_over_time("log_loss", [now])
