"""The lake against a real catalog: whole partitions, versions, concurrent writers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from evergreen.contract import ConfigurationError, DataError, TemporaryError, Window
from evergreen.data.lake import NO_SNAPSHOT, Lake, content_digest, get_lake
from evergreen.settings import Settings, get_settings

pytestmark = pytest.mark.integration
MARCH = date(2013, 3, 1)


def _window(first: int, last: int | None = None) -> Window:
    return Window(start=MARCH + timedelta(days=first), end=MARCH + timedelta(days=first if last is None else last))


def _rows(days: dict[int, list[int]]) -> pa.Table:
    flat = [(str(MARCH + timedelta(days=day)), value) for day, values in days.items() for value in values]
    when = datetime(2013, 3, 1, 12, tzinfo=UTC)
    return pa.table(
        {
            "ds": pa.array([day for day, _ in flat], pa.string()),
            "value": pa.array([value for _, value in flat], pa.int64()),
            "at": pa.array([when] * len(flat), pa.timestamp("us", tz="UTC")),
        }
    )


@pytest.fixture
def lake(lake_settings: Settings) -> Lake:
    return get_lake()


def _values(lake: Lake, window: Window | None = None, snapshot: str | None = None) -> list[int]:
    return sorted(lake.read("m", "t", window, snapshot)["value"].to_pylist())


def test_a_write_replaces_its_partitions_and_no_others(lake: Lake) -> None:
    lake.write("m", "t", _rows({0: [1, 2], 1: [3]}), _window(0, 1))
    lake.write("m", "t", _rows({1: [30, 31]}), _window(1))
    assert _values(lake) == [1, 2, 30, 31]
    assert lake.partitions("m", "t") == [("2013-03-01", 2), ("2013-03-02", 2)]


def test_days_are_read_in_their_order_and_their_rows_as_they_were_written(lake: Lake) -> None:
    for day in (2, 0, 3, 1):
        lake.write("m", "t", _rows({day: [10 * day + 2, 10 * day, 10 * day + 1]}), _window(day))
    written = _rows({day: [10 * day + 2, 10 * day, 10 * day + 1] for day in range(4)})
    assert content_digest(lake.read("m", "t")) == content_digest(written)
    assert lake.read("m", "t", columns=["value"])["value"].to_pylist() == written["value"].to_pylist()
    assert lake.read("m", "t", columns=["value"]).column_names == ["value"]


def test_a_window_write_empties_the_days_it_has_no_rows_for(lake: Lake) -> None:
    lake.write("m", "t", _rows({0: [1], 1: [2], 2: [3]}), _window(0, 2))
    lake.write("m", "t", _rows({0: [9]}), _window(0, 1))
    assert lake.partitions("m", "t") == [("2013-03-01", 1), ("2013-03-03", 1)]


def test_single_days_are_replaced_with_a_window_and_those_between_are_not(lake: Lake) -> None:
    lake.write("m", "t", _rows({day: [day] for day in range(6)}), _window(0, 5))
    rows = _rows({1: [10], 3: [30], 5: [50]})
    first = lake.write("m", "t", rows, _window(1, 2), extra_days=["2013-03-04", "2013-03-06"])
    assert _values(lake) == [0, 4, 10, 30, 50]
    assert lake.write("m", "t", rows, _window(1, 2), extra_days=["2013-03-06", "2013-03-04"]) == first
    assert lake.write("m", "t", rows.slice(0, 1), _window(1, 2)).version != first.version
    with pytest.raises(DataError, match="rows outside the window"):
        lake.write("m", "t", rows, _window(1, 2), extra_days=["2013-03-04"])


def test_the_days_of_a_window_are_those_that_have_rows(lake: Lake) -> None:
    assert lake.days("m", "t", _window(0, 9)) == []
    lake.write("m", "t", _rows({day: [day, day] for day in (0, 2, 3)}), _window(0, 3))
    lake.write("m", "t", _rows({}), _window(2))
    assert lake.days("m", "t", _window(0, 9)) == ["2013-03-01", "2013-03-04"]
    assert lake.days("m", "t", _window(1, 2)) == []


def test_a_snapshot_is_a_version_that_stays_readable(lake: Lake) -> None:
    old = lake.write("m", "t", _rows({0: [1]}), _window(0))
    new = lake.write("m", "t", _rows({0: [2]}), _window(0))
    assert old.version != new.version == lake.snapshot("m", "t")
    assert _values(lake, snapshot=old.version) == [1]
    assert _values(lake, snapshot=new.version) == [2]


def test_writing_what_is_there_writes_nothing(lake: Lake) -> None:
    first = lake.write("m", "t", _rows({0: [1]}), _window(0))
    lake.write("m", "t", _rows({1: [2]}), _window(1))
    again = lake.write("m", "t", _rows({0: [1]}), _window(0))
    assert again == first
    assert len(lake.load("m", "t").snapshots()) == 2


def test_a_revert_is_not_taken_for_what_is_there(lake: Lake) -> None:
    lake.write("m", "t", _rows({0: [1]}), _window(0))
    lake.write("m", "t", _rows({0: [2]}), _window(0))
    lake.write("m", "t", _rows({0: [1]}), _window(0))
    assert _values(lake) == [1]


def test_what_was_written_of_a_window_and_is_not_there_any_more_is_found(lake: Lake) -> None:
    lake.write("m", "t", _rows({day: [day] for day in range(5)}), _window(0, 4))
    assert lake.replaced("m", "t", _window(0, 4)) == []
    first = lake.snapshot("m", "t")
    lake.write("m", "t", _rows({1: [10], 3: [30]}), _window(1), extra_days=["2013-03-04"])
    second = lake.snapshot("m", "t")
    assert lake.replaced("m", "t", _window(0, 4)) == [(first, _window(1, 3))]
    assert lake.replaced("m", "t", _window(2)) == []
    lake.write("m", "t", _rows({}), _window(3))
    assert lake.replaced("m", "t", _window(2, 4))[:2] == [(first, _window(3)), (second, _window(3))]
    assert _values(lake, _window(3), second) == [30]


def test_a_partly_rewritten_window_is_not_taken_for_what_is_there(lake: Lake) -> None:
    lake.write("m", "t", _rows({0: [1], 1: [2]}), _window(0, 1))
    lake.write("m", "t", _rows({1: [5]}), _window(1))
    lake.write("m", "t", _rows({0: [1], 1: [2]}), _window(0, 1))
    assert _values(lake) == [1, 2]


def test_a_write_without_rows_creates_an_empty_table(lake: Lake) -> None:
    output = lake.write("m", "t", _rows({}), _window(0))
    assert (output.version, output.rows) == (NO_SNAPSHOT, 0)
    assert lake.read("m", "t").num_rows == 0
    assert lake.read("m", "t", snapshot=output.version).schema == _rows({}).schema
    assert lake.partitions("m", "t") == []


def test_a_write_without_rows_empties_its_partition(lake: Lake) -> None:
    lake.write("m", "t", _rows({0: [1], 1: [2]}), _window(0, 1))
    lake.write("m", "t", _rows({}), _window(0))
    assert _values(lake) == [2]


def test_a_table_whose_last_partition_was_emptied_takes_rows_again(lake: Lake) -> None:
    lake.write("m", "t", _rows({0: [1]}), _window(0))
    lake.write("m", "t", _rows({}), _window(0))
    assert lake.partitions("m", "t") == []
    lake.write("m", "t", _rows({0: [2]}), _window(0))
    assert _values(lake) == [2]


def test_reads_only_the_columns_and_days_asked_for(lake: Lake) -> None:
    lake.write("m", "t", _rows({0: [1], 1: [2], 2: [3]}), _window(0, 2))
    found = lake.read("m", "t", _window(1, 2), columns=["value", "ds"])
    assert found.column_names == ["value", "ds"]
    assert sorted(found["ds"].to_pylist()) == ["2013-03-02", "2013-03-03"]
    assert lake.read("m", "t").schema == _rows({}).schema


def test_the_snapshot_tells_who_wrote_it(lake: Lake) -> None:
    output = lake.write("m", "t", _rows({0: [1]}), _window(0), {"run": "runs/a/b/c", "code_version": "abc"})
    summary = lake.load("m", "t").snapshot_by_id(int(output.version)).summary.additional_properties
    assert summary["evergreen.run"] == "runs/a/b/c"
    assert summary["evergreen.code_version"] == "abc"
    assert summary["evergreen.window"] == "2013-03-01..2013-03-01"


@pytest.mark.parametrize("change", ["missing", "new", "type"])
def test_a_schema_change_is_refused_and_writes_nothing(lake: Lake, change: str) -> None:
    lake.write("m", "t", _rows({0: [1]}), _window(0))
    rows = _rows({0: [2]})
    if change == "missing":
        rows = rows.drop_columns("at")
    elif change == "new":
        rows = rows.append_column("extra", pa.array([1]))
    else:
        rows = rows.set_column(1, "value", pa.array([2.0]))
    with pytest.raises(
        DataError, match={"missing": "missing at", "new": "new extra", "type": "value is double"}[change]
    ):
        lake.write("m", "t", rows, _window(0))
    assert _values(lake) == [1]


def test_a_row_outside_the_window_is_refused(lake: Lake) -> None:
    with pytest.raises(DataError, match="2013-03-02"):
        lake.write("m", "t", _rows({1: [1]}), _window(0))
    assert not lake.has("m", "t")


def test_what_is_not_there_is_named(lake: Lake) -> None:
    with pytest.raises(DataError, match=r"no table m\.t"):
        lake.read("m", "t")
    lake.write("m", "t", _rows({0: [1]}), _window(0))
    with pytest.raises(DataError, match="no snapshot 12345"):
        lake.read("m", "t", snapshot="12345")
    with pytest.raises(DataError, match="no column nope"):
        lake.read("m", "t", columns=["nope"])


def test_concurrent_writers_of_different_days_all_land(lake: Lake) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda day: Lake(lake.catalog).write("m", "t", _rows({day: [day]}), _window(day)), range(12)))
    assert _values(lake) == list(range(12))


def test_concurrent_writers_of_one_day_leave_exactly_one_write(lake: Lake) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: lake.write("m", "t", _rows({0: [n] * 3}), _window(0)), range(8)))
    values = _values(lake)
    assert len(values) == 3
    assert len(set(values)) == 1


def test_a_folder_with_unusual_characters_works(
    lake_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    monkeypatch.setenv("EVERGREEN_LAKE_ROOT", str(tmp_path / "a b # é%20"))
    get_settings.cache_clear()
    get_lake.cache_clear()
    lake = get_lake()
    lake.write("m", "t", _rows({0: [1]}), _window(0))
    assert _values(lake) == [1]


def test_a_database_that_is_down_is_a_temporary_failure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_DATABASE_URL", "postgresql://postgres@127.0.0.1:1")
    get_settings.cache_clear()
    with pytest.raises(TemporaryError, match="lake's database"):
        get_lake()


def test_a_table_whose_metadata_or_data_is_gone_waits_for_a_person(lake: Lake) -> None:
    lake.write("m", "t", _rows({0: [1]}), _window(0))
    table = lake.load("m", "t")
    (data,) = table.inspect.data_files()["file_path"].to_pylist()
    for file in (data, table.metadata_location):
        Path(file.removeprefix("file://")).unlink()
        with pytest.raises(DataError, match=r"the table m\.t: a file that its catalog names is gone: .*backup"):
            lake.read("m", "t")
    with pytest.raises(DataError, match="is gone"):
        lake.write("m", "t", _rows({0: [2]}), _window(0))


def test_no_database_is_a_configuration_error(settings: Settings) -> None:
    with pytest.raises(ConfigurationError, match="EVERGREEN_DATABASE_URL"):
        get_lake()


def test_the_digest_ignores_chunks_and_bytes_under_nulls() -> None:
    one = pa.table({"x": pa.array([1, None], pa.int64())})
    two = pa.concat_tables([one.slice(0, 1), one.slice(1, 1)])
    assert content_digest(one) == content_digest(two)
    assert content_digest(one) != content_digest(pa.table({"x": pa.array([1, 0], pa.int64())}))
