"""Which days the loop replays, and how."""

from __future__ import annotations

from datetime import date

import pytest

from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError, Window
from evergreen_airflow.replay.plan import LoopPlan, PeriodLength, make_plan, parse_day

DAY = date(2013, 1, 1)


def plan(
    through: date,
    history_start: date | None = None,
    start: date | None = None,
    length: PeriodLength = PeriodLength.MONTH,
) -> LoopPlan:
    return make_plan(load_model("flight_delay"), through, history_start, start, length)


def test_half_a_year_is_a_quarter_of_history_and_three_months() -> None:
    made = plan(date(2013, 6, 30))
    assert made.history == Window(start=date(2013, 1, 1), end=date(2013, 3, 31))
    assert [period.label for period in made.periods] == ["2013-04", "2013-05", "2013-06"]
    assert made.periods[0].window == Window(start=date(2013, 4, 1), end=date(2013, 4, 30))
    assert made.periods[0].bulk == Window(start=date(2013, 4, 1), end=date(2013, 4, 29))


def test_weeks_cover_every_day_once_and_the_last_may_be_short() -> None:
    made = plan(date(2013, 2, 1), start=date(2013, 1, 15), length=PeriodLength.WEEK)
    days = [period.window.days for period in made.periods]
    assert days == [7, 7, 4]
    assert made.periods[0].label == "2013-01-15--2013-01-21"
    assert made.history.end == date(2013, 1, 14)
    assert made.periods[-1].window.end == date(2013, 2, 1)


def test_a_month_cut_short_is_not_called_like_the_whole_one() -> None:
    whole, short = plan(date(2013, 4, 30)).periods[0], plan(date(2013, 4, 20)).periods[0]
    assert (whole.label, short.label) == ("2013-04", "2013-04-01--2013-04-20")


def test_months_from_the_middle_of_one() -> None:
    made = plan(date(2013, 6, 10), start=date(2013, 4, 15))
    assert [str(period.window) for period in made.periods] == [
        "2013-04-15..2013-04-30",
        "2013-05-01..2013-05-31",
        "2013-06-01..2013-06-10",
    ]


def test_a_period_of_one_day_has_no_bulk() -> None:
    assert plan(date(2013, 4, 1)).periods[0].bulk is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"through": date(2013, 3, 31)}, "before the first period"),
        ({"through": date(2013, 6, 30), "start": DAY}, "leaves no history"),
        ({"through": date(2013, 6, 30), "history_start": date(2012, 12, 1)}, "before the first partition"),
    ],
)
def test_days_out_of_order_are_refused(arguments: dict[str, date], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        plan(**arguments)


@pytest.mark.parametrize(
    ("value", "last", "day"),
    [
        ("2013-06", True, date(2013, 6, 30)),
        ("2012-02", True, date(2012, 2, 29)),
        ("2013-06", False, date(2013, 6, 1)),
        ("2013-06-15", True, date(2013, 6, 15)),
    ],
)
def test_an_option_names_a_day_or_a_month(value: str, last: bool, day: date) -> None:
    assert parse_day(value, "--through", last=last) == day


@pytest.mark.parametrize("value", ["June", "2013-13", "2013-02-30", "2013-6"])
def test_anything_else_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="--through"):
        parse_day(value, "--through", last=True)
