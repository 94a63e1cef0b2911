"""From what a source's reader returns to the rows of its raw table, with nothing lost on the way."""

from __future__ import annotations

import logging
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from evergreen.contract import DataError, is_stop, printable
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
BETWEEN_REASONS = "; "
"""What stands between reasons, where a row has several."""


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
    import pyarrow.compute as pc

    _check_columns(source, day, frame)
    reasons: list[list[str]] = [[] for _ in range(len(frame))]
    columns: dict[str, pa.Array] = {PARTITION: pa.array([str(day)] * len(frame), pa.string())}
    for name, kind in source.columns.items():
        if kind == "timestamp" and has_no_zone(frame[name]):
            raise DataError(
                f"{source.read_by}: {source.name}.{name} of {day}: timestamps without a time zone.",
                "Convert them to UTC in the reader: frame[column].dt.tz_localize(zone).dt.tz_convert('UTC').",
            )
        columns[name], wrong = cast_column(frame[name], kind)
        for row, value in wrong:
            reasons[row].append(f"{name}: {shown(value)} is not a {kind}")
        if kind == "double" and name not in source.allow_infinite:
            finite = pc.is_finite(columns[name]).fill_null(fill_value=True).to_numpy(zero_copy_only=False)
            for row in (~finite).nonzero()[0]:
                reasons[row].append(f"{name}: {columns[name][int(row)].as_py()} is not a finite number")
    columns[ROW] = pa.array(range(len(frame)), pa.int64())
    columns[REASON] = pa.array([BETWEEN_REASONS.join(reason) or None for reason in reasons], pa.string())
    return pa.table(columns, schema=raw_schema(source))


def has_no_zone(values: pd.Series) -> bool:
    """Tell whether a column holds times that do not say of which zone."""
    from pyarrow import types

    arrow = getattr(values.dtype, "pyarrow_dtype", None)
    if arrow is not None:
        return bool(types.is_timestamp(arrow) and arrow.tz is None)
    return values.dtype.kind == "M" and getattr(values.dtype, "tz", None) is None


def shown(value: object) -> str:
    """Return how a value is written, cut at 100 characters; a value may have no way to be written."""
    try:
        # not the place in memory: the same day gives the same reason
        text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    except BaseException as error:  # whatever the value's own code raises
        if is_stop(error):
            raise
        text = f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return printable(text, _LONGEST_VALUE)


def _check_columns(source: Source, day: date, frame: pd.DataFrame) -> None:
    import pandas as pd

    # a name of another kind than text is shown, never compared: its own code may do anything
    names = [name if isinstance(name, str) else shown(name) for name in frame.columns]
    missing = [name for name in source.columns if name not in names]
    extra = [name for name in names if name not in source.columns]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(names) > len(set(names)) else []
    if missing or extra or twice:
        problems = {"missing": missing, "not declared": extra, "there twice": twice}
        wrong = [f"{problem} {printable(', '.join(columns))}" for problem, columns in problems.items() if columns]
        raise DataError(
            f"{source.read_by}: the columns of {source.name} on {day} are not the declared ones: {'; '.join(wrong)}.",
            f"Correct the reader, or sources.{source.name}.columns in model.yaml.",
        )
    index = frame.index
    if index.nlevels == 1 and index.name is None and pd.api.types.is_string_dtype(index.dtype) and len(index):
        raise DataError(
            f"{source.read_by}: the index of {source.name} on {day} holds text that would be lost, e.g. "
            f"{shown(index[0])}.",
            "A line with more values than the header has? pandas.read_csv(…, index_col=False) refuses it. If the index "
            "means nothing: frame.reset_index(drop=True).",
        )


def cast_column(values: pd.Series, kind: ColumnType) -> tuple[pa.Array, list[tuple[int, object]]]:
    """Return the cast column and the (position, value) of what could not be cast."""
    import pandas as pd
    import pyarrow as pa

    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    if values.dtype != object or _alike(values, kind):
        try:
            return _cast_all(pa.array(values, from_pandas=True), kind), []
        except MemoryError:
            raise
        except Exception:  # Arrow's, or a lone surrogate's: at least one value is wrong
            log.debug("casting value by value", exc_info=True)
    wrong: list[tuple[int, object]] = []
    good = []
    for position, value in enumerate(values):
        try:
            good.append(_cast_all(pa.array([_simple(value)], from_pandas=True), kind)[0])
        except MemoryError:
            raise
        except BaseException as error:  # the value's, as above; one of its own class may run any code
            if is_stop(error):
                raise
            good.append(pa.scalar(None, arrow_type(kind)))
            wrong.append((position, value))
    return pa.array([value.as_py() for value in good], arrow_type(kind)), wrong


def _alike(values: pd.Series, kind: ColumnType) -> bool:
    """Tell whether Arrow may be given a column of objects whole.

    It takes times without a zone, and days, for UTC where the first value has a zone; it runs the code of values of a
    class of their own, and dies of lists that contain themselves.
    """
    import pandas as pd

    kinds = set(map(type, values)) - {type(None), float, type(pd.NA), type(pd.NaT)}
    if kinds & {datetime, pd.Timestamp}:
        moments = [value for value in values if type(value) in {datetime, pd.Timestamp}]
        return kind == "timestamp" and len(moments) == values.count() and all(value.tzinfo for value in moments)
    return kinds <= {str, bool, int, Decimal, bytes} or kinds == {date}


def _simple(value: object) -> object:
    """Return a value that is one number, text or moment; a list or an object of another class is none."""
    import numpy as np
    import pandas as pd

    if isinstance(value, pd.Timestamp) and not date.min.year <= value.year <= date.max.year:
        raise ValueError("Arrow would make another year of it")
    if value is None or value is pd.NA or isinstance(value, str | bytes | int | float | Decimal | date | np.generic):
        return value
    raise TypeError("neither a number, nor text, nor a time")


def _cast_all(values: pa.Array, kind: ColumnType) -> pa.Array:
    import pyarrow as pa
    from pyarrow import types

    target, source = arrow_type(kind), values.type
    if isinstance(source, pa.BaseExtensionType):
        raise pa.ArrowInvalid("the numbers behind a type of its own, e.g. a period's, mean something else")
    if types.is_dictionary(source):
        values, source = values.cast(source.value_type), source.value_type
    if kind == "boolean" and not (types.is_boolean(source) or types.is_null(source)):
        raise pa.ArrowInvalid("any number would become a boolean")
    if kind in ("timestamp", "date") and types.is_integer(source):
        raise pa.ArrowInvalid("seconds since 1970 would become microseconds, 20130301 days")
    if kind == "timestamp" and (types.is_date(source) or (types.is_timestamp(source) and source.tz is None)):
        raise pa.ArrowInvalid("a timestamp without a time zone, or a day without a time")
    if types.is_timestamp(source) and kind in ("timestamp", "date"):
        # nanoseconds are cut to microseconds, not refused; of seconds some would not fit
        values = values.cast(pa.timestamp("us", source.tz), safe=source.unit != "ns")
        if kind == "date":
            values = _midnights(values)
    return _storable(values.cast(target))


def _midnights(values: pa.Array) -> pa.Array:
    """Return midnights in UTC without their zone; refuse other moments, whose time a date would lose."""
    import numpy as np
    import pyarrow as pa

    numbers = values.cast(pa.int64())
    if np.any(numbers.drop_null().to_numpy() % (86_400 * 1_000_000)):
        raise pa.ArrowInvalid("a time of day would be lost")
    return numbers.cast(pa.timestamp("us"))


def _storable(values: pa.Array) -> pa.Array:
    """Refuse what no database takes: times before the year 1 or after 9999, and text with a NUL."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(values.type) and pc.any(pc.match_substring(values, "\0")).as_py():
        raise pa.ArrowInvalid("a NUL: a decision that names the value could not be told")
    if pa.types.is_timestamp(values.type) or pa.types.is_date32(values.type):
        first, last = (pa.scalar(day, values.type) for day in _CALENDAR[pa.types.is_date32(values.type)])
        if pc.any(pc.or_(pc.less(values, first), pc.greater(values, last))).as_py():
            raise pa.ArrowInvalid("a year before 1 or after 9999")
    return values


_CALENDAR = {True: (date.min, date.max), False: (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))}
