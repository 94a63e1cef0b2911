"""Several tables of the lake in one commit, and what each snapshot records about the write that made it.

PyIceberg commits a table at a time. Its catalogue is a table of PostgreSQL with a row for each Iceberg table, so one
transaction of that database around several commits makes them one: all rows change at once, or none.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from evergreen.contract import Output, Window
from evergreen.data.arrow import PARTITION, content_digest, plain
from evergreen.data.scan import NO_SNAPSHOT, current_snapshot_of, in_window, partitions_of

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table, Transaction
    from pyiceberg.table.snapshots import Snapshot

_PREFIX = "evergreen."
"""Of every property this project records in a snapshot."""


@contextmanager
def one_transaction(catalog: SqlCatalog, isolation: str = "READ COMMITTED") -> Iterator[SqlCatalog]:
    """Yield a catalog all of whose reads and writes happen in one transaction, committed at the end."""
    with (
        catalog.engine.execution_options(isolation_level=isolation).connect() as connection,
        # PyIceberg opens its sessions on ``engine``; on a connection inside a transaction their commits end nothing
        connection.begin(),
    ):
        inside = copy.copy(catalog)
        inside.engine = connection
        yield inside


@dataclass(frozen=True, eq=False)
class Change:
    """Rows that take the place of a window of a table, and of single days beside it."""

    table: str
    rows: pa.Table | Sequence[DataFile]
    """The rows, or files of the table that hold them and count once they are committed."""
    window: Window
    extra_days: Collection[str]
    digest: str
    properties: Mapping[str, str]
    """Recorded in the snapshot, under the project's prefix."""

    @property
    def count(self) -> int:
        """How many rows there are."""
        files = self.rows
        return sum(file.record_count for file in files) if isinstance(files, Sequence) else files.num_rows

    @property
    def days(self) -> str:
        """The text by which a snapshot knows the days it replaced."""
        return " and ".join([str(self.window), *sorted(self.extra_days)])

    def staged(self, table: Table) -> Transaction:
        """Write the files of the change; they count once the result is committed."""
        from pyiceberg.expressions import In, Or

        window = in_window(self.window)
        replaced = Or(window, In(PARTITION, sorted(self.extra_days))) if self.extra_days else window
        properties = {**self.properties, "window": self.days, "digest": self.digest}
        transaction = table.transaction()
        recorded = {f"{_PREFIX}{name}": value for name, value in properties.items()}
        if isinstance(self.rows, Sequence):
            transaction.delete(replaced, snapshot_properties=recorded)
            with transaction.update_snapshot(recorded).merge_append() as files:
                for file in self.rows:
                    files.append_data_file(file)
        else:
            transaction.overwrite(self.rows, overwrite_filter=replaced, snapshot_properties=recorded)
        return transaction

    def already_in(self, table: Table) -> str | None:
        """Return the snapshot that already holds exactly this write, if the table's partitions still are that write."""
        inside = [part for part in partitions_of(table) if part[0] in self.window or part[0] in self.extra_days]
        if not inside:
            return None if self.count else current_snapshot_of(table)
        writers = {snapshot for _, _, snapshot in inside}
        if len(writers) != 1 or sum(rows for _, rows, _ in inside) != self.count:
            return None
        version = writers.pop()
        recorded = _recorded(table.snapshot_by_id(int(version)))
        same = recorded.get(f"{_PREFIX}window") == self.days and recorded.get(f"{_PREFIX}digest") == self.digest
        return version if same else None


def commit_together(catalog: SqlCatalog, staged: Iterable[tuple[Table, Transaction]]) -> None:
    """Commit what `Change.staged` has written: everything, or nothing. The tables are left as of this commit."""
    with one_transaction(catalog) as inside:
        for table, transaction in staged:
            table.catalog = inside
            transaction.commit_transaction()
            table.catalog = catalog


def recorded_by_day(table: Table, name: str) -> dict[str, str]:
    """Return what the snapshots that last wrote each day have recorded under a name, by day."""
    snapshots = {day: table.snapshot_by_id(int(version)) for day, _, version in partitions_of(table)}
    return {day: _recorded(snapshot).get(f"{_PREFIX}{name}", "") for day, snapshot in snapshots.items()}


def _recorded(snapshot: Snapshot | None) -> dict[str, str]:
    """Return the properties of a snapshot; none if there is no such snapshot."""
    return snapshot.summary.additional_properties if snapshot is not None and snapshot.summary is not None else {}


def days_written(snapshot: Snapshot, window: Window) -> list[date]:
    """Return the days of a window that a snapshot wrote, as it records; those that it only deleted do not count."""
    from pyiceberg.table.snapshots import Operation

    if snapshot.summary is None or snapshot.summary.operation is Operation.DELETE:
        return []
    span, *extra_days = _recorded(snapshot).get(f"{_PREFIX}window", "..").split(" and ")
    start, _, end = span.partition("..")
    return [day for day in window.partitions if start <= str(day) <= end or str(day) in extra_days]


def written(table: Table, window: Window, version: str) -> Output | None:
    """Return what a snapshot recorded when it wrote a window; None if there is no such snapshot, or it did not.

    A write of no rows into days that have none makes no snapshot: it is known by the one that was there already.
    """
    snapshot = table.snapshot_by_id(int(version)) if version.isdecimal() else None
    output = Output(name=table.name()[-1], uri=table.location(), version=version)
    recorded = _recorded(snapshot)
    if recorded.get(f"{_PREFIX}window", "").split(" and ")[0] == str(window):
        rows = int(recorded.get("added-records", 0))
        return output.model_copy(update={"digest": recorded.get(f"{_PREFIX}digest", ""), "rows": rows})
    if version == NO_SNAPSHOT or (snapshot is not None and not _count_rows(table, window, version)):
        empty = plain(table.schema().as_arrow()).empty_table()
        return output.model_copy(update={"digest": content_digest(empty), "rows": 0})
    return None


def _count_rows(table: Table, window: Window, version: str) -> int:
    return sum(task.file.record_count for task in table.scan(in_window(window), snapshot_id=int(version)).plan_files())
