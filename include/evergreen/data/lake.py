"""The lake: Iceberg tables of daily partitions, one namespace per model.

A write replaces whole partitions at once and its snapshot id is the version of the data: any later reader can
ask for exactly that snapshot. The catalog is PostgreSQL, the files are local or on S3.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import date, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from evergreen.contract import DataError, Output, Window
from evergreen.data.arrow import PARTITION, check_days, content_digest, difference, plain, with_field_ids
from evergreen.data.lake_errors import lake_errors, retrying
from evergreen.data.scan import NO_SNAPSHOT, current_snapshot_of, days_of, in_window, partitions_of, scan
from evergreen.settings import get_settings
from evergreen.store import iceberg_properties

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

__all__ = ["NO_SNAPSHOT", "PARTITION", "Lake", "content_digest", "get_lake", "in_window", "scan"]

_PREFIX = "evergreen."
_CATALOG = "evergreen"
_COMMIT_SECONDS = 120
"""How long to go on trying to commit against other writers before giving up as a temporary failure."""


class Lake:
    """Tables of daily partitions behind one Iceberg catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog

    def load(self, model: str, table: str) -> Table:
        """Return the Iceberg table itself.

        Raises
        ------
        DataError
            If there is no such table.
        """
        from pyiceberg.exceptions import NoSuchTableError

        try:
            with lake_errors(f"the table {model}.{table}"):
                return self.catalog.load_table((model, table))
        except NoSuchTableError as error:
            raise DataError(
                f"The lake has no table {model}.{table}.", "Run the step that writes it for the days you need first."
            ) from error

    def has(self, model: str, table: str) -> bool:
        """Tell whether a table exists."""
        with lake_errors(f"the table {model}.{table}"):
            return bool(self.catalog.table_exists((model, table)))

    def write(
        self,
        model: str,
        table: str,
        rows: pa.Table,
        window: Window,
        properties: Mapping[str, str] | None = None,
        also: Collection[str] = (),
    ) -> Output:
        """Replace the partitions of ``window`` by ``rows``, all at once; returns the snapshot as an output.

        Partitions without rows become empty. The table is created from the schema of ``rows`` when there
        is none. Writing what is already there writes nothing and returns the snapshot that holds it.

        Parameters
        ----------
        model, table
            Where to write.
        rows
            The rows, with a string column ``ds`` within the window. Timestamps are UTC with microseconds.
        window
            The partitions to replace.
        properties
            Recorded in the snapshot under ``evergreen.<name>``: who wrote it, with which code.
        also
            Single days outside the window that are replaced with it.

        Raises
        ------
        DataError
            If a row lies outside the window, or the columns are not those of the table.
        TemporaryError
            If other writers kept winning, or the catalog does not answer.
        """
        check_days(f"{model}.{table}", rows, window, also)
        digest = content_digest(rows)
        with lake_errors(f"the table {model}.{table}"):
            target = self._table_for(model, table, rows.schema)
            snapshot = _already_there(target, window, also, digest, rows.num_rows)
            if snapshot is None:
                recorded = {**(properties or {}), "window": _named(window, also), "digest": digest}
                snapshot = _overwrite(target, rows, window, also, {f"{_PREFIX}{k}": v for k, v in recorded.items()})
        return Output(name=table, uri=target.location(), version=snapshot, digest=digest, rows=rows.num_rows)

    def read(
        self,
        model: str,
        table: str,
        window: Window | None = None,
        snapshot: str | None = None,
        columns: Iterable[str] | None = None,
    ) -> pa.Table:
        """Return the rows of a table: those of ``window``, as of ``snapshot``; the default is all, and now.

        Only the files of the window are opened: cost follows the window, not the table.

        Raises
        ------
        DataError
            If there is no such table, column or snapshot.
        """
        return scan(self.load(model, table), in_window(window), snapshot, columns)

    def partitions(self, model: str, table: str) -> list[tuple[str, int]]:
        """Return ``(ds, rows)`` of every partition that has rows, oldest first; nothing if there is no table."""
        return [(day, rows) for day, rows, _ in self.details(model, table)]

    def days(self, model: str, table: str, window: Window) -> list[str]:
        """Return the partitions of a window that have rows, oldest first; nothing if there is no table.

        It costs a fifth of `partitions`, which counts the rows of every day there is.
        """
        from pyiceberg.exceptions import NoSuchTableError

        with lake_errors(f"the table {model}.{table}"), suppress(NoSuchTableError):
            return days_of(self.catalog.load_table((model, table)), window)
        return []

    def details(self, model: str, table: str, snapshot: str | None = None) -> list[tuple[str, int, str]]:
        """Return ``(ds, rows, snapshot)`` of every partition; the snapshot is the one that last wrote it."""
        if not self.has(model, table):
            return []
        return partitions_of(self.load(model, table), snapshot)

    def replaced(self, model: str, table: str, window: Window) -> list[tuple[str, Window]]:
        """Return the snapshots that wrote days of a window which have been written anew since, and where these lie."""
        target = self.load(model, table)
        current = {day: snapshot for day, _, snapshot in partitions_of(target)}
        found = []
        for snapshot in target.snapshots():
            version = str(snapshot.snapshot_id)
            days = [day for day in _days_written(snapshot, window) if current.get(str(day)) != version]
            if days:
                found.append((version, Window(start=days[0], end=days[-1])))
        return found

    def snapshot(self, model: str, table: str) -> str:
        """Return the current snapshot id of a table, ``"0"`` when it has never held a row."""
        return current_snapshot_of(self.load(model, table))

    def _table_for(self, model: str, table: str, schema: pa.Schema) -> Table:
        from pyiceberg.exceptions import NoSuchTableError

        try:
            target = self.catalog.load_table((model, table))
        except NoSuchTableError:
            target = self._create(model, table, schema)
        have = plain(target.schema().as_arrow())
        if have != plain(schema):
            raise DataError(
                f"{model}.{table}: the columns differ from the table's: {difference(have, plain(schema))}.",
                "A table keeps its schema, so that old and new partitions can be read together: give the new "
                "columns a new table name, or drop the table and backfill it.",
            )
        return target

    def _create(self, model: str, table: str, schema: pa.Schema) -> Table:
        from pyiceberg.exceptions import TableAlreadyExistsError
        from pyiceberg.io.pyarrow import pyarrow_to_schema
        from pyiceberg.partitioning import PartitionField, PartitionSpec
        from pyiceberg.transforms import IdentityTransform
        from sqlalchemy.exc import IntegrityError

        columns = pyarrow_to_schema(with_field_ids(schema))
        days = PartitionField(columns.find_field(PARTITION).field_id, 1000, IdentityTransform(), PARTITION)
        with suppress(IntegrityError):  # another process creates the namespace at this moment
            self.catalog.create_namespace_if_not_exists(model)
        with suppress(TableAlreadyExistsError):  # or the table
            self.catalog.create_table(
                (model, table), columns, partition_spec=PartitionSpec(days), properties=_TABLE_PROPERTIES
            )
        return self.catalog.load_table((model, table))


_TABLE_PROPERTIES = {
    # one small manifest per daily write would make every plan open hundreds of files after a year
    "commit.manifest-merge.enabled": "true",
    "commit.manifest.min-count-to-merge": "20",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.metadata.previous-versions-max": "20",
    "write.parquet.compression-codec": "zstd",
}


@lru_cache(maxsize=1)
def get_lake() -> Lake:
    """Return the configured lake; the first one creates the catalog's own tables.

    Raises
    ------
    ConfigurationError
        If no database is configured.
    TemporaryError
        If the database does not answer.
    """
    from pyiceberg.catalog.sql import SqlCatalog

    # the first write of a day deletes nothing, which PyIceberg finds worth a warning
    warnings.filterwarnings("ignore", message="Delete operation did not match any records")
    settings = get_settings()
    properties = {"uri": settings.database("lake"), "warehouse": settings.lake_root, "pool_pre_ping": "true"}
    properties |= iceberg_properties()
    with lake_errors("the lake's catalog"):
        return Lake(retrying(10)(SqlCatalog, _CATALOG, **properties))


def _named(window: Window, also: Collection[str]) -> str:
    return " and ".join([str(window), *sorted(also)])


def _days_written(snapshot: Snapshot, window: Window) -> list[date]:
    """Return the days of a window that a snapshot wrote, as `_named` says; those that it only deleted do not count."""
    from pyiceberg.table.snapshots import Operation

    if snapshot.summary is None or snapshot.summary.operation is Operation.DELETE:
        return []
    span, *also = snapshot.summary.additional_properties.get(f"{_PREFIX}window", "..").split(" and ")
    start, _, end = span.partition("..")
    days = (window.start + timedelta(days=offset) for offset in range(window.days))
    return [day for day in days if start <= str(day) <= end or str(day) in also]


def _already_there(table: Table, window: Window, also: Collection[str], digest: str, rows: int) -> str | None:
    """Return the snapshot that already holds exactly this write, if the table's partitions still are that write."""
    start, end = str(window.start), str(window.end)
    inside = [entry for entry in partitions_of(table) if start <= entry[0] <= end or entry[0] in also]
    if not inside:
        return None if rows else current_snapshot_of(table)
    writers = {snapshot for _, _, snapshot in inside}
    if len(writers) != 1 or sum(count for _, count, _ in inside) != rows:
        return None
    written = table.snapshot_by_id(int(writers.pop()))
    if written is None or written.summary is None:
        return None
    recorded = written.summary.additional_properties
    same = recorded.get(f"{_PREFIX}window") == _named(window, also) and recorded.get(f"{_PREFIX}digest") == digest
    return str(written.snapshot_id) if same else None


def _overwrite(table: Table, rows: pa.Table, window: Window, also: Collection[str], properties: dict[str, str]) -> str:
    from pyiceberg.expressions import In, Or

    replaced = Or(in_window(window), In(PARTITION, sorted(also))) if also else in_window(window)

    def overwrite() -> None:
        table.refresh()
        table.overwrite(rows, overwrite_filter=replaced, snapshot_properties=properties)

    retrying(_COMMIT_SECONDS)(overwrite)
    return current_snapshot_of(table)  # the table as of this commit, whatever others have committed since
