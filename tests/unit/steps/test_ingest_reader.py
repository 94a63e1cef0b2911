"""What a reader meets in the files it is given, and what its user is told."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from evergreen.authoring.scaffold import create_model
from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError, DataError, StepError, TemporaryError, Window
from evergreen.settings import Settings, get_settings
from evergreen.spec import Task
from evergreen.steps import ingest

DAY = Window(start=date(2024, 1, 1), end=date(2024, 1, 1))
GOOD = "customer,placed_at,amount,outcome\nc17,2024-01-01T09:12:00Z,39.90,1\nc03,2024-01-01T10:40:00Z,12.50,0\n"
READER = """
def read_events(day):
    import pandas as pd

    orders = pd.read_csv({path!r}{options})
    return pd.DataFrame(
        {{
            "entity_id": orders["customer"],
            "event_time": pd.to_datetime(orders["placed_at"], utc=True),
            "amount": orders["amount"],
            "category": "shoes",
            "outcome": orders["outcome"],
        }}
    )
"""


@pytest.fixture
def read(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pa.Table]:
    """Return a function that reads a file's bytes through the reader of a new model."""
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("EVERGREEN_FEATURE_REPO", str(tmp_path / "feature_repo"))
    get_settings.cache_clear()
    (tmp_path / "models").mkdir()
    create_model("orders_model", Task.BINARY, "anna", "webshop", DAY.start)

    def from_bytes(content: bytes | None, name: str = "day.csv", options: str = "", reader: str = READER) -> pa.Table:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        source = tmp_path / "models/orders_model/source.py"
        source.write_text(reader.format(path=str(path), options=options))
        spec = load_model("orders_model")
        table, _ = ingest._read(spec.sources[0], spec, DAY)
        return table

    return from_bytes


def zipped(content: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("day.csv", content * 50)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (GOOD.encode(), "day.csv"),
        (GOOD.encode("utf-8-sig"), "day.csv"),
        (GOOD.replace("\n", "\r\n").encode(), "day.csv"),
        (gzip.compress(GOOD.encode()), "day.csv.gz"),
    ],
    ids=["plain", "byte order mark", "Windows line ends", "gzip"],
)
def test_every_way_to_write_the_same_day_gives_the_same_rows(
    read: Callable[..., pa.Table], content: bytes, name: str
) -> None:
    rows = read(content, name)
    assert rows["entity_id"].to_pylist() == ["c17", "c03"]
    assert rows["amount"].to_pylist() == [39.9, 12.5]
    assert rows["reason"].null_count == 2


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (GOOD.replace("c17", "Müller").encode("latin-1"), "day.csv", "UnicodeDecodeError"),
        (GOOD.encode("utf-16"), "day.csv", "UnicodeDecodeError"),
        (zipped(GOOD)[:-40], "day.csv.zip", "BadZipFile"),
        (gzip.compress(GOOD.encode() * 50)[:-20], "day.csv.gz", "EOFError"),
        (GOOD.encode(), "day.csv.gz", "BadGzipFile"),
        (b"", "day.csv", "EmptyDataError"),
        (GOOD.encode() + b"c1,2024-01-01T09:12:00Z,1,0,too,many\n", "day.csv", "line 4"),
        (GOOD.replace("customer", "client").encode(), "day.csv", "KeyError: 'customer'. Did the source rename"),
        (GOOD.replace("2024-01-01T09:12:00Z", "yesterday noon").encode(), "day.csv", "yesterday noon"),
        (None, "never_came.csv", "never_came.csv"),
    ],
    ids=["latin-1", "utf-16", "cut zip", "cut gzip", "no gzip", "empty", "ragged", "renamed", "no time", "no file"],
)
def test_a_file_that_cannot_be_read_is_refused_whole_as_data(
    read: Callable[..., pa.Table], content: bytes | None, name: str, said: str
) -> None:
    with pytest.raises(DataError) as raised:
        read(content, name)
    assert said in str(raised.value)
    assert "orders_model/source.py: line " in raised.value.message
    assert "reading events of 2024-01-01" in raised.value.message


@pytest.mark.parametrize(
    ("content", "row", "reason"),
    [
        (GOOD.replace("39.90", "39;90"), 0, "amount: '39;90' is not a double"),
        (GOOD.replace(",0\n", ",maybe\n"), 1, "outcome: 'maybe' is not a int64"),
        (GOOD.replace(",0\n", ",0.5\n"), 1, "outcome: 0.5 is not a int64"),
    ],
)
def test_a_value_of_another_type_costs_its_row_and_names_itself(
    read: Callable[..., pa.Table], content: str, row: int, reason: str
) -> None:
    rows = read(content.encode()).to_pylist()
    assert len(rows) == 2
    assert rows[row]["reason"] == reason
    assert rows[1 - row]["reason"] is None


def test_a_day_of_local_time_keeps_the_hour_that_comes_twice(read: Callable[..., pa.Table]) -> None:
    twice = GOOD.replace("T09:12:00Z", "T02:30:00+02:00").replace("T10:40:00Z", "T02:30:00+01:00")
    times = pd.Series(read(twice.encode())["event_time"].to_pylist())
    assert (times[1] - times[0]) == pd.Timedelta(hours=1)
    assert str(times[0]) == "2024-01-01 00:30:00+00:00"


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        ("ConnectionResetError('gone')", TemporaryError),
        ("TimeoutError('slow')", TemporaryError),
        ("urllib.error.URLError('no route')", TemporaryError),
        ("PermissionError(13, 'Permission denied', '/data')", ConfigurationError),
        ("AttributeError('no such thing')", ConfigurationError),
        ("ZeroDivisionError('division by zero')", ConfigurationError),
    ],
)
def test_what_a_reader_raises_has_a_class(read: Callable[..., pa.Table], raised: str, error: type[StepError]) -> None:
    reader = f"import urllib.error\n\n\ndef read_events(day):\n    raise {raised}\n"
    with pytest.raises(error, match=r"source.py: line 5: reading events of 2024-01-01") as found:
        read(None, reader=reader)
    assert type(found.value) is error


def test_what_a_reader_explains_itself_is_left_as_it_is(read: Callable[..., pa.Table]) -> None:
    reader = "from evergreen.contract import DataError\n\n\ndef read_events(day):\n    raise DataError('half a day')\n"
    with pytest.raises(DataError, match=r"^half a day$"):
        read(None, reader=reader)
