"""Runs a model's SQL over the published partitions it needs, and checks what comes out.

The SQL sees the published sources by name, cut to the window and its lookback, the variables ``window_start`` and
``window_end``, and the macro ``ingested_at(ds)``. It sees nothing else: no files, no network, no other days.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from evergreen.contract import ConfigurationError, DataError, Window, printable
from evergreen.data.lake import PARTITION
from evergreen.data.sql import close, ended_after, engine, refuse_unfit, rows_of
from evergreen.field_types import COLUMN_PATTERN, COLUMN_WORDS
from evergreen.settings import get_settings
from evergreen.spec import FeatureView, ModelSpec, Schedule
from evergreen.yaml_files import read_text

if TYPE_CHECKING:
    import pyarrow as pa

_SECONDS_WITHOUT_ROWS = 20
"""How long a query over empty tables may take, as `evergreen models validate` runs it."""
EVENT_TIMESTAMP = "event_timestamp"
"""When a row became known, in UTC: the time that point-in-time joins compare."""

_MINUTE = "%Y-%m-%dT%H:%MZ"


class KnownTooEarly(ConfigurationError):
    """A view's rows claim to be known before their partition is ingested: no server could ever look them up then."""


def with_lookback(window: Window, days: int) -> Window:
    """Return the window extended by the days before it."""
    return Window(start=window.start - timedelta(days=days), end=window.end)


def build_examples(spec: ModelSpec, sources: Mapping[str, pa.Table], window: Window) -> pa.Table:
    """Return the examples of a window, ordered by entity and time.

    Raises
    ------
    ConfigurationError
        If the SQL is wrong.
    DataError
        If its rows are: missing columns, null keys, rows outside the window, rows that are there twice.
    """
    examples = spec.features.examples
    path = spec.folder / examples.sql
    rows = _query(path, sources, window, examples.lookback_days, spec.schedule)
    keys = [*spec.features.keys, EVENT_TIMESTAMP]
    needed = dict.fromkeys([PARTITION, *keys, examples.label, *spec.features.request_inputs])
    table = _checked(path, rows, needed, keys, window, others=True)
    _refuse_repeated(path, table, table.column_names, "Add the column that tells them apart, or correct the join.")
    return table


def build_view(spec: ModelSpec, view: FeatureView, sources: Mapping[str, pa.Table], window: Window) -> pa.Table:
    """Return the rows of a feature view for a window, ordered by entity and time.

    Raises
    ------
    ConfigurationError
        If the SQL is wrong.
    KnownTooEarly
        If a row claims to be known before its partition is ingested.
    DataError
        If its rows are: other columns, null keys, rows outside the window, an entity twice at the same time.
    """
    path = spec.folder / view.sql
    rows = _query(path, sources, window, view.lookback_days, spec.schedule)
    keys = [*view.entities, EVENT_TIMESTAMP]
    table = _checked(path, rows, [PARTITION, *keys, *view.features], keys, window)
    _refuse_early(path, spec, view, table)
    _refuse_repeated(path, table, keys, "Aggregate, so that an entity has one row at a time.")
    return table


def _refuse_early(path: Path, spec: ModelSpec, view: FeatureView, table: pa.Table) -> None:
    earliest = table.group_by(PARTITION).aggregate([(EVENT_TIMESTAMP, "min")]).sort_by(PARTITION)
    for day, claimed in zip(*(column.to_pylist() for column in earliest.columns), strict=True):
        ingested = spec.schedule.ingested_at(date.fromisoformat(day))
        if claimed < ingested:
            schedule = f"schedule: {spec.schedule.cron}, {spec.schedule.timezone}"
            raise KnownTooEarly(
                f"{path}: a row of {view.name} for {day} claims to be known at {claimed.astimezone(UTC):{_MINUTE}}, "
                f"but {day} is ingested at {ingested:{_MINUTE}} ({schedule}): no server could look it up before.",
                f"Write ingested_at(ds) AS {EVENT_TIMESTAMP}, or any later time.",
            )


def _query(path: Path, sources: Mapping[str, pa.Table], window: Window, lookback: int, schedule: Schedule) -> pa.Table:
    import duckdb
    import pyarrow.compute as pc

    sql = read_text(path)
    first = str(with_lookback(window, lookback).start)
    with engine() as connection:
        for name, table in sources.items():
            connection.register(name, table.filter(pc.field(PARTITION) >= first))
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET VARIABLE window_start = DATE '{window.start}'")
        connection.execute(f"SET VARIABLE window_end = DATE '{window.end}'")
        connection.execute(_ingested_at(schedule))
        close(connection)
        rows = any(table.num_rows for table in sources.values())
        seconds = get_settings().sql_seconds if rows else _SECONDS_WITHOUT_ROWS
        try:
            refuse_unfit(connection, path, sql, sources)
            with ended_after(connection, path, seconds):
                return rows_of(connection, path, sql)
        except duckdb.DataError as error:
            raise DataError(f"{path}: {error}", "A value in the published tables does not fit this SQL.") from error
        except duckdb.Error as error:
            raise ConfigurationError(f"{path}: {error}", "Correct the SQL.") from error


def _ingested_at(schedule: Schedule) -> str:
    """Return the macro that SQL calls for the moment its day is ingested."""
    minute, hour = schedule.cron.split()[:2]
    moment = f"day::DATE + INTERVAL 1 DAY + INTERVAL {int(hour)} HOUR + INTERVAL {int(minute)} MINUTE"
    return f"CREATE MACRO ingested_at(day) AS ({moment}) AT TIME ZONE '{schedule.timezone}'"


def _checked(
    path: Path, table: pa.Table, needed: Iterable[str], keys: list[str], window: Window, *, others: bool = False
) -> pa.Table:
    import pyarrow as pa

    needed = list(needed)
    missing = [name for name in needed if name not in table.column_names]
    extra = [name for name in table.column_names if name not in needed]
    if missing or (extra and not others):
        problems = {"missing": missing, "not declared": extra}
        wrong = [f"{problem} {', '.join(names)}" for problem, names in problems.items() if names]
        raise DataError(
            f"{path}: the columns are not the declared ones: {'; '.join(wrong)}.", "Correct SQL or model.yaml."
        )
    if odd := [name for name in extra if not re.fullmatch(COLUMN_PATTERN, name)]:
        # Iceberg would read a.b as a field of a, and half of the engines Temp as temp
        raise DataError(f"{path}: a column is called {printable(odd[0])!r}.", f"Name it with AS: {COLUMN_WORDS}.")
    table = table.select([*needed, *extra])
    table = table.cast(pa.schema([pa.field(field.name, _wide(path, field)) for field in table.schema]))
    for name in (PARTITION, *keys):
        if table[name].null_count:
            raise DataError(
                f"{path}: {table[name].null_count} of {table.num_rows} rows have no {name}.",
                f"Filter them out, or give them a value: {name} is part of a row's key.",
            )
    days = sorted(set(table[PARTITION].to_pylist()))
    outside = [day for day in days if day not in window]
    if outside:
        raise DataError(
            f"{path}: rows outside the window {window}: {PARTITION} = {', '.join(outside[:5])}.",
            "Filter ds BETWEEN getvariable('window_start') AND getvariable('window_end').",
        )
    return table.sort_by([(name, "ascending") for name in (PARTITION, *keys, *extra)])


def _wide(path: Path, field: pa.Field) -> pa.DataType:
    """Return the declared type that a column is widened to: equal SQL gives an equal schema on any day."""
    import pyarrow as pa
    from pyarrow import types

    kind = field.type
    if types.is_timestamp(kind) and kind.tz is None:
        raise DataError(
            f"{path}: {field.name} is a timestamp without a time zone.", "Write … AT TIME ZONE 'UTC' (or the zone)."
        )
    widened = {
        pa.timestamp("us", tz="UTC"): (types.is_timestamp,),
        pa.int64(): (types.is_integer,),
        pa.float64(): (types.is_floating, types.is_decimal),
        pa.string(): (types.is_string, types.is_large_string),
        pa.bool_(): (types.is_boolean,),
        pa.date32(): (types.is_date,),
    }
    for wide, kinds in widened.items():
        if any(is_kind(kind) for is_kind in kinds):
            return wide
    raise DataError(
        f"{path}: {field.name} has the type {kind}.",
        "Cast it to VARCHAR, BIGINT, DOUBLE, BOOLEAN, DATE or TIMESTAMPTZ.",
    )


def _refuse_repeated(path: Path, table: pa.Table, keys: list[str], hint: str) -> None:
    import pyarrow.compute as pc

    groups = table.group_by(keys).aggregate([([], "count_all")])
    repeated = groups.filter(pc.field("count_all") > 1)
    if repeated.num_rows:
        example = {name: str(value) for name, value in repeated.select(keys).slice(0, 1).to_pylist()[0].items()}
        raise DataError(f"{path}: {repeated.num_rows} keys are there more than once, e.g. {example}.", hint)
