"""What is drift and what is not: the cases on which checks go wrong, false alarms, and what must be found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from drift_kit import CHANGES, Case, cases, draw, frames, judged
from evergreen.monitoring.calibration import FEWEST_DAYS


@pytest.mark.parametrize(("name", "case"), [pytest.param(name, case, id=name) for name, case in cases()])
def test_a_case_is_judged_right(name: str, case: Case) -> None:
    report = judged(*frames({"x": case.before}, {"x": case.now}))
    assert (report.verdict == "drift") is case.drift, report.why
    assert case.said in report.why


def test_one_far_row_hides_nothing_from_a_fixed_limit_either() -> None:
    """Eleven columns moved by three standard deviations were "stable" once, for one row of 20,000."""
    rng = np.random.default_rng(0)
    before = {f"c{at}": rng.normal(size=20_000) for at in range(11)}
    now = {name: values + 3 for name, values in before.items()}
    for values in now.values():
        values[3] = 1000.0
    report = judged(*frames(before, now), threshold="fixed")
    assert (report.verdict, len(report.drifted)) == ("drift", 11)
    assert min(report.index("values").values()) > 5
    assert judged(*frames(before, before), threshold="fixed").drifted == []


def test_a_decimal_is_judged_like_the_float_it_is() -> None:
    found = dict(cases())
    case = found["Decimal, moved"]
    decimals = judged(*frames({"x": case.before}, {"x": case.now}))
    floats = judged(*frames({"x": [*map(float, case.before)]}, {"x": [*map(float, case.now)]}))
    assert decimals.columns == floats.columns


@pytest.mark.parametrize("rows", [500, 5000])
def test_one_population_gives_no_alarm(rows: int) -> None:
    rng = np.random.default_rng(rows)
    for day_effect in (0.0, 0.5):
        reports = [judged(*draw(rng, rows, day_effect)) for _ in range(3)]
        assert [report.drifted for report in reports] == [[]] * 3


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("rows", [500, 5000])
def test_a_change_is_found_in_one_window(rows: int, change: str) -> None:
    rng = np.random.default_rng(rows)
    reference, current = draw(rng, rows)
    moved = current.assign(**CHANGES[change](rng, current))
    assert judged(reference, moved).drifted == list(CHANGES[change](rng, current))
    assert judged(reference, current).drifted == []


def test_days_that_differ_raise_the_limit_and_rows_alone_do_not() -> None:
    """Rows of one day share its weather: what looks certain by the rows is one day of thirty by the days."""
    rng = np.random.default_rng(1)
    reference, current = draw(rng, 5000, day_effect=1.0)
    apart, _ = draw(rng, 5000)
    limits = [judged(before, current).columns["normal"].indices["values"].limit for before in (reference, apart)]
    assert limits[0] > 3 * limits[1]


def test_a_season_raises_the_limit_and_days_in_any_order_do_not() -> None:
    rng = np.random.default_rng(2)
    day = np.repeat(np.arange(90), 50)
    names = pd.date_range("2024-01-01", periods=90).strftime("%Y-%m-%d").to_numpy()
    values = np.sin(np.pi * day / 90) + 0.5 * rng.normal(size=day.size)
    season = pd.DataFrame({"ds": names[day], "x": values})
    shuffled = pd.DataFrame({"ds": names[rng.permutation(90)[day]], "x": values}).sort_values("ds", kind="stable")
    current = season.iloc[:1500].assign(ds=lambda frame: frame["ds"].str.replace("2024", "2025"))
    limits = [judged(before, current).columns["x"].indices["values"].limit for before in (season, shuffled)]
    assert limits[0] > 3 * limits[1]


def test_a_reference_of_a_few_days_calibrates_nothing() -> None:
    rng = np.random.default_rng(3)

    def of_days(days: int) -> pd.DataFrame:
        day = np.repeat(pd.date_range("2024-01-01", periods=days).strftime("%Y-%m-%d").to_numpy(), 200)
        return pd.DataFrame({"ds": day, "x": rng.normal(size=day.size)})

    report = judged(of_days(FEWEST_DAYS - 1), of_days(4))
    assert report.verdict == "insufficient"
    assert "the reference has 9 days, and limits are calibrated on 10 or more" in report.why
    assert judged(of_days(FEWEST_DAYS - 1), of_days(4), threshold="fixed").verdict == "stable"
    assert judged(of_days(FEWEST_DAYS), of_days(4)).verdict == "stable"


def test_few_rows_on_either_side_get_no_verdict() -> None:
    rng = np.random.default_rng(4)
    many, few = {"x": rng.normal(size=500)}, {"x": 9 + rng.normal(size=499)}
    assert judged(*frames(many, few)).verdict == judged(*frames(few, many)).verdict == "insufficient"
    assert judged(*frames(many, {"x": 9 + rng.normal(size=500)})).verdict == "drift"
