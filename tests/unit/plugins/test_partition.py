"""The partitions of a run, for every way a run can start."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from evergreen.contract import ConfigurationError, Window
from evergreen_airflow.partition import resolve_window
from operator_kit import task_context


def window(start: str, end: str | None = None) -> Window:
    return Window.model_validate({"start": start, "end": end or start})


def at(day: int, hour: int = 6) -> datetime:
    return datetime(2013, 3, day, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"partition_key": "2013-03-01", "params": {"partition": "2013-03-09"}}, window("2013-03-01")),
        ({"params": {"partition": "2013-03-09", "start": None}}, window("2013-03-09")),
        (
            {"params": {"partition": None, "start": "2013-01-01", "end": "2013-03-31"}},
            window("2013-01-01", "2013-03-31"),
        ),
        (
            {"params": {"partition": None}, "data_interval_start": at(4), "data_interval_end": at(5)},
            window("2013-03-04"),
        ),
        ({"data_interval_start": at(4), "data_interval_end": at(4)}, window("2013-03-03")),
        ({"run_after": at(4)}, window("2013-03-03")),
    ],
)
def test_first_source_that_the_run_has(given: dict[str, Any], expected: Window) -> None:
    assert resolve_window(task_context(**{"partition_key": None, **given})) == expected  # type: ignore[arg-type]


def test_days_are_those_of_the_dags_time_zone() -> None:
    context = task_context(partition_key=None, run_after=at(4, hour=23))
    context["dag"] = SimpleNamespace(timezone=ZoneInfo("Asia/Tokyo"))  # where it is the 5th already
    assert resolve_window(context) == window("2013-03-04")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"partition_key": "2013-03"}, "the run's partition key is '2013-03'"),
        ({"params": {"partition": "20130301"}}, "the parameter partition is '20130301'"),
        ({"params": {"partition": "2013-02-30"}}, "which is not a day. Write it as 2013-03-01."),
        ({"params": {"partition": "2013-03-01 --model=other"}}, "is not a day"),
        ({"params": {"partition": 20130301}}, "is not a day"),
        ({"params": {"start": "2013-03-01"}}, "the parameter end is missing"),
        ({"params": {"end": "2013-03-01"}}, "the parameter start is missing"),
        ({"params": {"start": "2013-03-02", "end": "2013-03-01"}}, "is after the parameter end"),
    ],
)
def test_what_is_no_partition_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace(".", r"\.")):
        resolve_window(task_context(**{"partition_key": None, **given}))  # type: ignore[arg-type]
