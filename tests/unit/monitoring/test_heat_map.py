"""The heat map of columns and partitions: what lies between two partitions is seen, whatever their usual distance."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest

from evergreen.monitoring import pictures
from evergreen.monitoring.proposal import ColumnDrift, Index

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST = date(2024, 3, 1)


def drawn(monkeypatch: pytest.MonkeyPatch, days: list[int]) -> Axes:
    """The axes of a heat map of partitions so many days after the first."""
    figures: list[Figure] = []
    monkeypatch.setattr(pictures, "png", lambda figure: figures.append(figure) or b"")
    columns = {name: ColumnDrift(indices={"values": Index(value=0.3, limit=0.2)}) for name in ("x", "site")}
    pictures.heat_map([(FIRST + timedelta(days=day), columns) for day in days])
    return figures[0].axes[0]


@pytest.mark.parametrize(
    ("days", "gaps"),
    [
        ([0, 1, 2, 5, 6, 7], {"2 missing": 3}),
        ([0, 3, 4], {"2 missing": 1}),
        ([0, 7, 14, 28, 35], {"1 missing": 3}),
        ([30, 60, 91, 121, 152], {}),  # the ends of months
        ([0, 1, 2, 300, 301], {"297 missing": 3}),
        ([0, 3], {}),  # two do not say what is usual
        ([0], {}),
    ],
    ids=["days", "from the least", "weeks", "months", "a long time", "two", "one"],
)
def test_partitions_that_are_not_there_are_one_hatched_column(
    monkeypatch: pytest.MonkeyPatch, days: list[int], gaps: dict[str, int]
) -> None:
    axes = drawn(monkeypatch, days)
    hatched = {int(patch.get_x() + 0.5) for patch in axes.patches if patch.get_hatch()}
    named = {
        label.get_text(): int(place) for label, place in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
    }
    assert hatched == set(gaps.values())
    assert {name: place for name, place in named.items() if "missing" in name} == gaps
    assert [str(FIRST + timedelta(days=day)) in named for day in days] == [True] * len(days)
    assert axes.images[0].get_array().shape == (2, len(days) + len(gaps))
    assert ("hatched" in axes.get_xlabel()) is bool(gaps)
    assert len(axes.texts) == 2 * len(days)  # an x for each that has drifted, and none where nothing was compared


def test_sixty_partitions_with_a_gap_each_week_are_named_in_part_and_every_gap_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    axes = drawn(monkeypatch, [day for day in range(84) if day % 7 < 5])
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels.count("2 missing") == 11
    assert len(labels) == 11 + 30
