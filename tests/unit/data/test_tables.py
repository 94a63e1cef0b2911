"""From a reader's frame to raw rows: cast, or kept with the reason; never lost."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal

import pandas as pd
import pytest

from evergreen.contract import DataError
from evergreen.data.tables import published_schema, raw_rows, raw_schema
from evergreen.spec import Source

DAY = date(2013, 3, 1)
TYPES = {"s": "string", "i": "int64", "d": "double", "b": "boolean", "day": "date", "at": "timestamp"}


def _source(columns: dict[str, str] = TYPES) -> Source:
    return Source(
        name="things", reader="source.py:read", key=(next(iter(columns)),), columns=columns, expectations="e.yaml"
    )


def _frame(**changes: object) -> pd.DataFrame:
    moment = datetime(2013, 3, 1, 12, 30, tzinfo=UTC)
    values = {"s": "x", "i": 1, "d": 1.5, "b": True, "day": DAY, "at": moment, **changes}
    return pd.DataFrame({name: [value] for name, value in values.items()})


def test_declared_types_come_out_and_the_partition_is_added() -> None:
    table = raw_rows(_source(), DAY, _frame())
    assert table.schema == raw_schema(_source())
    assert table.select(published_schema(_source()).names).to_pylist() == [
        {
            "ds": "2013-03-01",
            "s": "x",
            "i": 1,
            "d": 1.5,
            "b": True,
            "day": DAY,
            "at": datetime(2013, 3, 1, 12, 30, tzinfo=UTC),
        }
    ]
    assert table["reason"].to_pylist() == [None]


@pytest.mark.parametrize("column", TYPES)
def test_nothing_is_nothing_and_no_reason(column: str) -> None:
    table = raw_rows(_source({column: TYPES[column]}), DAY, _nothing(column))
    assert table[column].to_pylist() == [None]
    assert table["reason"].to_pylist() == [None]


def _nothing(column: str) -> pd.DataFrame:
    kind = "datetime64[ns, UTC]" if column == "at" else object
    return pd.DataFrame({column: pd.Series([None], dtype=kind)})


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [("i", 3.0, 3), ("i", "12", 12), ("d", 7, 7.0), ("d", "2.5", 2.5), ("s", 5, "5"), ("day", "2013-03-01", DAY)],
)
def test_what_can_be_cast_without_loss_is(column: str, value: object, expected: object) -> None:
    assert raw_rows(_source(), DAY, _frame(**{column: value}))[column].to_pylist() == [expected]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([Decimal("1.50"), None], "double", [1.5, None]),
        ([Decimal(7), Decimal("7.5")], "int64", [7, None]),
        (pd.array([True, None], dtype="boolean"), "boolean", [True, None]),
        ([True, None], "boolean", [True, None]),
        ([True, False], "double", [1.0, 0.0]),
        (pd.array([1, None], dtype="Int64"), "double", [1.0, None]),
        (pd.array([1, None], dtype="Int64"), "int64", [1, None]),
    ],
)
def test_decimals_and_nullable_columns_become_the_declared_type_once(
    values: object, kind: str, expected: list[object]
) -> None:
    table = raw_rows(_source({"d": kind}), DAY, pd.DataFrame({"d": values}))
    assert table["d"].to_pylist() == expected
    assert table.schema.field("d").type == published_schema(_source({"d": kind})).field("d").type


@pytest.mark.parametrize(
    ("column", "value"),
    [("i", 3.5), ("i", "many"), ("d", "M"), ("b", 2), ("b", "yes"), ("day", "31/02"), ("i", 2**70), ("s", "a\0b")],
)
def test_what_cannot_be_cast_is_kept_in_the_reason(column: str, value: object) -> None:
    frame = pd.concat([_frame(), _frame(**{column: value})], ignore_index=True)
    frame[column] = pd.Series([_frame()[column][0], value], dtype=object)
    table = raw_rows(_source(), DAY, frame)
    assert table.num_rows == 2
    assert table[column].to_pylist()[1] is None
    assert table[column].to_pylist()[0] == _frame()[column][0]
    good, bad = table["reason"].to_pylist()
    assert good is None
    assert bad == f"{column}: {value!r} is not a {TYPES[column]}"


def test_two_problems_of_a_row_are_both_named() -> None:
    reason = raw_rows(_source(), DAY, _frame(i="x", d="y"))["reason"].to_pylist()[0]
    assert reason == "i: 'x' is not a int64; d: 'y' is not a double"


@pytest.mark.parametrize(
    ("column", "dtype", "number"), [("at", "int64", 1_700_000_000), ("at", "uint8", 7), ("day", "int32", 20_130_301)]
)
def test_a_number_is_no_time(column: str, dtype: str, number: int) -> None:
    frame = (
        pd.concat([_frame(), _frame()])
        .astype({column: object})
        .assign(**{column: pd.Series([number] * 2, dtype=dtype)})
    )
    table = raw_rows(_source(), DAY, frame)
    assert table[column].to_pylist() == [None, None]
    assert table["reason"].to_pylist() == [f"{column}: {number} is not a {TYPES[column]}"] * 2


def test_nanoseconds_become_microseconds() -> None:
    frame = _frame(at=pd.Timestamp("2013-03-01T12:00:00.123456789Z"))
    assert raw_rows(_source(), DAY, frame)["at"].to_pylist() == [datetime(2013, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)]


def test_another_time_zone_becomes_utc() -> None:
    frame = _frame(at=pd.Timestamp("2013-03-01T12:00:00", tz="America/New_York"))
    assert raw_rows(_source(), DAY, frame)["at"].to_pylist() == [datetime(2013, 3, 1, 17, tzinfo=UTC)]


def test_timestamps_without_a_zone_are_refused() -> None:
    with pytest.raises(DataError, match=r"things\.at of 2013-03-01: timestamps without a time zone"):
        raw_rows(_source(), DAY, _frame(at=pd.Timestamp("2013-03-01T12:00:00")))


def test_missing_and_undeclared_columns_are_named() -> None:
    with pytest.raises(DataError, match="missing d; not declared extra"):
        raw_rows(_source(), DAY, _frame(extra=1).drop(columns="d"))
