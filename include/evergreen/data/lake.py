"""The lake: Iceberg tables of daily partitions, one namespace per model.

A write replaces whole partitions at once and its snapshot id is the version of the data: any later reader can
ask for exactly that snapshot. The catalog is PostgreSQL, the files are local or on S3.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from evergreen.contract import DataError, Output, Window
from evergreen.data.arrow import PARTITION, check_days, content_digest, difference, plain
from evergreen.data.commit import Change, commit_together, days_written, one_transaction, written
from evergreen.data.lake_errors import lake_errors, retrying_races
from evergreen.data.scan import NO_SNAPSHOT, current_snapshot_of, days_of, in_window, partitions_of, scan
from evergreen.settings import get_settings
from evergreen.store import iceberg_properties

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table

__all__ = ["NO_SNAPSHOT", "PARTITION", "Lake", "content_digest", "get_lake", "in_window", "scan"]

_CATALOG = "evergreen"
_COMMIT_SECONDS = 120
"""How long to go on trying to commit against other writers before giving up as a temporary failure."""


class Lake:
    """Tables of daily partitions behind one Iceberg catalog."""

    def __init__(self, catalog: SqlCatalog) -> None:
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
        extra_days: Collection[str] = (),
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
        extra_days
            Single days outside the window that are replaced with it.

        Raises
        ------
        DataError
            If a row lies outside the window, or the columns are not those of the table.
        TemporaryError
            If other writers kept winning, or the catalog does not answer.
        """
        (output,) = self.write_all(model, {table: rows}, window, properties, {table: extra_days})
        return output

    def write_all(
        self,
        model: str,
        tables: Mapping[str, pa.Table],
        window: Window,
        properties: Mapping[str, str] | None = None,
        extra_days: Mapping[str, Collection[str]] | None = None,
    ) -> tuple[Output, ...]:
        """Write several tables of a model as `write` does, in one commit: nobody sees some of them without the rest.

        ``tables`` are the rows by table, and ``extra_days`` are by table too; the rest is as for `write`.
        """
        extra_days = extra_days or {}
        changes = [
            Change(name, rows, window, tuple(extra_days.get(name, ())), content_digest(rows), properties or {})
            for name, rows in sorted(tables.items())  # of two writers one waits for the other, and never both
        ]
        for change in changes:
            check_days(f"{model}.{change.table}", change.rows, window, change.extra_days)
        with lake_errors(f"the tables {', '.join(f'{model}.{name}' for name in tables)}"):
            outputs = retrying_races(_COMMIT_SECONDS)(self._commit, model, changes, tables)
        return tuple(outputs[name] for name in tables)

    def _commit(self, model: str, changes: Iterable[Change], tables: Mapping[str, pa.Table]) -> dict[str, Output]:
        targets, staged, present = {}, [], {}
        for change in changes:
            target = targets[change] = self.table_for(model, change.table, tables[change.table].schema)
            present[change] = change.already_in(target)
            if present[change] is None:
                staged.append((target, change.staged(target)))
        commit_together(self.catalog, staged)
        return {
            change.table: Output(
                name=change.table,
                uri=target.location(),
                version=present[change] or current_snapshot_of(target),  # as of this commit, whatever others do since
                digest=change.digest,
                rows=change.count,
            )
            for change, target in targets.items()
        }

    @contextmanager
    def one_moment(self) -> Iterator[Lake]:
        """Yield the lake as it is at one moment: what others commit meanwhile is not seen in any table."""
        with lake_errors("the lake's catalog"), one_transaction(self.catalog, "REPEATABLE READ") as catalog:
            yield Lake(catalog)

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
        snapshots = {str(snapshot.snapshot_id): days_written(snapshot, window) for snapshot in target.snapshots()}
        replaced = {
            version: [day for day in days if current.get(str(day)) != version] for version, days in snapshots.items()
        }
        return [(version, Window(start=days[0], end=days[-1])) for version, days in replaced.items() if days]

    def written(self, model: str, table: str, window: Window, snapshot: str) -> Output | None:
        """Return what a snapshot recorded when it wrote a window; None if there is no such snapshot, or it did not."""
        return written(self.load(model, table), window, snapshot)

    def snapshot(self, model: str, table: str) -> str:
        """Return the current snapshot id of a table, ``"0"`` when it has never held a row."""
        return current_snapshot_of(self.load(model, table))

    def table_for(self, model: str, table: str, schema: pa.Schema, *, widen: bool = False) -> Table:
        """Return the table that rows of a schema are written to; it is made if there is none.

        Parameters
        ----------
        model, table, schema
            Where, and the columns of the rows.
        widen
            Whether columns may be missing, which are then null, and new ones are added to the table.

        Raises
        ------
        DataError
            If the columns are not those of the table, or not of its types.
        """
        from pyiceberg.exceptions import NoSuchTableError

        try:
            target = self.catalog.load_table((model, table))
        except NoSuchTableError:
            target = self._create(model, table, schema)
        current = plain(target.schema().as_arrow())
        if widen:
            current = _widened(target, current, plain(schema))
        if current != plain(schema):
            raise DataError(
                f"{model}.{table}: the columns differ from the table's: {difference(current, plain(schema))}.",
                "A table keeps its schema, so that old and new partitions can be read together: give the new "
                "columns a new table name, or drop the table and backfill it.",
            )
        return target

    def _create(self, model: str, table: str, schema: pa.Schema) -> Table:
        from pyiceberg.exceptions import TableAlreadyExistsError
        from pyiceberg.io.pyarrow import pyarrow_to_schema
        from pyiceberg.partitioning import PartitionField, PartitionSpec
        from pyiceberg.table.name_mapping import MappedField, NameMapping
        from pyiceberg.transforms import IdentityTransform
        from sqlalchemy.exc import IntegrityError

        numbers = [MappedField(field_id=number, names=[name]) for number, name in enumerate(schema.names, start=1)]
        columns = pyarrow_to_schema(plain(schema), NameMapping(numbers))
        days = PartitionField(columns.find_field(PARTITION).field_id, 1000, IdentityTransform(), PARTITION)
        with suppress(IntegrityError):  # another process creates the namespace at this moment
            self.catalog.create_namespace_if_not_exists(model)
        with suppress(TableAlreadyExistsError):  # or the table
            self.catalog.create_table(
                (model, table), columns, partition_spec=PartitionSpec(days), properties=_TABLE_PROPERTIES
            )
        return self.catalog.load_table((model, table))


def _widened(target: Table, current: pa.Schema, wanted: pa.Schema) -> pa.Schema:
    """Add the columns that a table lacks; returns those of the rows, as the table has them."""
    import pyarrow as pa

    if new := [field for field in wanted if field.name not in current.names]:
        with target.update_schema() as update:
            update.union_by_name(pa.schema(new))
        current = plain(target.schema().as_arrow())
    return pa.schema([current.field(name) for name in wanted.names])


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
        return Lake(retrying_races(10)(SqlCatalog, _CATALOG, **properties))
