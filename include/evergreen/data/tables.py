"""From what a source's reader returns to the rows of its raw table, with nothing lost on the way."""

from __future__ import annotations

import logging
from datetime import date
from typing import TYPE_CHECKING

from evergreen.contract import DataError, printable
from evergreen.data.lake import PARTITION
from evergreen.spec import ColumnType, Source

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger(__name__)

_LONGEST_VALUE = 100

ROW = "row"
"""Column of the raw and quarantine tables: the position of a row within its partition, from 0."""
REASON = "reason"
"""Column of the raw and quarantine tables: why the row may not be published; null in raw if nothing is wrong."""


def arrow_type(name: ColumnType) -> pa.DataType:
    """Return the Arrow type a declared column type stands for."""
    import pyarrow as pa

    types: dict[ColumnType, pa.DataType] = {
        "string": pa.string(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
    }
    return types[name]


def published_schema(source: Source) -> pa.Schema:
    """Return the schema of a source's published table: the partition and the declared columns."""
    import pyarrow as pa

    return pa.schema([(PARTITION, pa.string()), *((name, arrow_type(kind)) for name, kind in source.columns.items())])


def raw_schema(source: Source) -> pa.Schema:
    """Return the schema of a source's raw and quarantine tables: also where a row stood, and what is wrong with it."""
    import pyarrow as pa

    return published_schema(source).append(pa.field(ROW, pa.int64())).append(pa.field(REASON, pa.string()))


def raw_rows(source: Source, day: date, frame: pd.DataFrame) -> pa.Table:
    """Cast what the reader returned for a day to the declared schema.

    A value that cannot be cast becomes null, and its row carries the reason with the original value in it: the row
    will be quarantined, and nothing is lost.

    Raises
    ------
    DataError
        If a declared column is missing, there is one that is not declared, or a timestamp has no time zone.
    """
    import pyarrow as pa

    _check_columns(source, day, frame)
    reasons: list[list[str]] = [[] for _ in range(len(frame))]
    columns: dict[str, pa.Array] = {PARTITION: pa.array([str(day)] * len(frame), pa.string())}
    for name, kind in source.columns.items():
        dtype = frame[name].dtype
        if kind == "timestamp" and dtype.kind == "M" and getattr(dtype, "tz", None) is None:
            raise DataError(
                f"{source.reader}: {source.name}.{name} of {day}: timestamps without a time zone.",
                "Convert them to UTC in the reader: frame[column].dt.tz_localize(zone).dt.tz_convert('UTC').",
            )
        columns[name], wrong = _cast(frame[name], kind)
        for row, value in wrong:
            reasons[row].append(f"{name}: {shown(value)} is not a {kind}")
        if kind == "double" and name not in source.allow_infinite:
            for row in _not_finite(columns[name]):
                reasons[row].append(f"{name}: {columns[name][row].as_py()} is not a finite number")
    columns[ROW] = pa.array(range(len(frame)), pa.int64())
    columns[REASON] = pa.array(["; ".join(reason) or None for reason in reasons], pa.string())
    return pa.table(columns, schema=raw_schema(source))


def shown(value: object) -> str:
    """Return how a value is written, cut at 100 characters; a value may have no way to be written."""
    try:
        text = repr(value)
    except Exception as error:  # whatever the value's own code raises
        text = f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return printable(text, _LONGEST_VALUE)


def _not_finite(values: pa.Array) -> list[int]:
    import numpy as np
    import pyarrow.compute as pc

    wrong = pc.invert(pc.is_finite(values)).fill_null(fill_value=False)
    return [int(row) for row in np.flatnonzero(wrong.to_numpy(zero_copy_only=False))]


def _check_columns(source: Source, day: date, frame: pd.DataFrame) -> None:
    missing = [name for name in source.columns if name not in frame.columns]
    extra = [str(name) for name in frame.columns if name not in source.columns]
    twice = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
    if missing or extra or twice:
        named = {"missing": missing, "not declared": extra, "there twice": twice}
        found = [f"{what} {printable(', '.join(columns))}" for what, columns in named.items() if columns]
        raise DataError(
            f"{source.reader}: the columns of {source.name} on {day} are not the declared ones: {'; '.join(found)}.",
            f"Correct the reader, or sources.{source.name}.columns in model.yaml.",
        )


def _cast(values: pd.Series, kind: ColumnType) -> tuple[pa.Array, list[tuple[int, object]]]:
    """Return the cast column and the (position, value) of what could not be cast."""
    import pyarrow as pa

    try:
        return _cast_all(pa.array(values, from_pandas=True), kind), []
    except MemoryError:
        raise
    except Exception:  # Arrow's, a lone surrogate's, or what a value's own code raises: at least one value is wrong
        log.debug("casting value by value", exc_info=True)
    wrong: list[tuple[int, object]] = []
    good = []
    for position, value in enumerate(values):
        try:
            good.append(_cast_all(pa.array([value], from_pandas=True), kind)[0])
        except MemoryError:
            raise
        except Exception:  # the value's, as above
            good.append(pa.scalar(None, arrow_type(kind)))
            wrong.append((position, value))
    return pa.array([value.as_py() for value in good], arrow_type(kind)), wrong


def _cast_all(values: pa.Array, kind: ColumnType) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    target = arrow_type(kind)
    if kind == "timestamp" and pa.types.is_timestamp(values.type):
        if values.type.tz is None:
            raise pa.ArrowInvalid("a timestamp without a time zone")
        return values.cast(target, safe=False)  # nanoseconds are cut to microseconds, not refused
    if kind == "boolean" and not (pa.types.is_boolean(values.type) or pa.types.is_null(values.type)):
        raise pa.ArrowInvalid("any number would become a boolean")
    if kind in ("timestamp", "date") and pa.types.is_integer(values.type):
        raise pa.ArrowInvalid("seconds since 1970 would become microseconds, 20130301 days")
    cast = values.cast(target)
    if kind == "string" and pc.any(pc.match_substring(cast, "\0")).as_py():
        raise pa.ArrowInvalid("a NUL, which no database takes: a decision that names the value could not be told")
    return cast
