"""Reading Iceberg tables: only the partitions asked for, in any snapshot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from evergreen.contract import DataError, Window
from evergreen.data.arrow import PARTITION, plain
from evergreen.data.lake_errors import lake_errors

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table

NO_SNAPSHOT = "0"
"""The version of a table that has never held a row."""


def in_window(window: Window | None) -> BooleanExpression:
    """Return the filter that keeps the partitions of a window; no window keeps all."""
    from pyiceberg.expressions import AlwaysTrue, And, EqualTo, GreaterThanOrEqual, LessThanOrEqual

    if window is None:
        return AlwaysTrue()
    if window.days == 1:
        return EqualTo(PARTITION, str(window.end))
    return And(GreaterThanOrEqual(PARTITION, str(window.start)), LessThanOrEqual(PARTITION, str(window.end)))


def scan(
    table: Table, rows: BooleanExpression, snapshot: str | None = None, columns: Iterable[str] | None = None
) -> pa.Table:
    """Read the rows of an Iceberg table that match a filter, the oldest partition first.

    Columns and their types have a stable order too: what is computed from the same rows has the same digest.

    Raises
    ------
    DataError
        If there is no such column or snapshot.
    """
    import pyarrow as pa

    name = ".".join(table.name())
    known = table.schema().column_names
    wanted = list(columns) if columns is not None else known
    if missing := [column for column in wanted if column not in known]:
        raise DataError(f"{name}: no column {', '.join(missing)} (columns: {', '.join(known)}).")
    if snapshot == NO_SNAPSHOT or table.current_snapshot() is None:
        return plain(table.schema().as_arrow()).empty_table().select(wanted)
    if snapshot is not None and table.snapshot_by_id(int(snapshot)) is None:
        raise DataError(f"{name}: there is no snapshot {snapshot}.", "It was expired, or belongs to another table.")
    with lake_errors(f"the table {name}"):
        read = tuple(dict.fromkeys([*wanted, PARTITION]))
        content = table.scan(rows, read, snapshot_id=int(snapshot) if snapshot else None).to_arrow()
    # threads write the files of a window in any order; each holds rows of one partition, and so does each batch
    batches = sorted(
        (batch for batch in content.to_batches() if len(batch)), key=lambda batch: batch[PARTITION][0].as_py()
    )
    ordered = pa.Table.from_batches(batches, content.schema).select(wanted)
    return ordered.cast(plain(ordered.schema))


def partitions_of(table: Table, snapshot: str | None = None) -> list[tuple[str, int, str]]:
    """Return ``(ds, rows, snapshot that last wrote it)`` of every partition that has rows, oldest first."""
    if snapshot == NO_SNAPSHOT or table.current_snapshot() is None:
        return []
    # a table whose partitions were all emptied has no partition column here, but no counted row either
    return sorted(
        (row["partition"][PARTITION], row["record_count"], str(row["last_updated_snapshot_id"]))
        for row in table.inspect.partitions(int(snapshot) if snapshot else None).to_pylist()
        if row["record_count"]
    )


def days_of(table: Table, window: Window) -> list[str]:
    """Return the partitions of a window that have rows, oldest first; opens only manifests that know such a day."""
    files = table.scan(in_window(window), (PARTITION,)).plan_files() if table.current_snapshot() else ()
    return sorted({str(task.file.partition[0]) for task in files})


def current_snapshot_of(table: Table) -> str:
    """Return the id of a table's current snapshot, ``"0"`` when it has never held a row."""
    snapshot = table.current_snapshot()
    return str(snapshot.snapshot_id) if snapshot else NO_SNAPSHOT
