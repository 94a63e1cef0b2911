"""The lake: Iceberg tables of daily partitions, one namespace per model.

A write replaces whole partitions at once and its snapshot id is the version of the data: any later reader can
ask for exactly that snapshot. The catalog is PostgreSQL, the files are local or on S3.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from evergreen.contract import ConfigurationError, DataError, Output, TemporaryError, Window
from evergreen.settings import get_settings

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table

PARTITION = "ds"
"""The partition column of every table: the day as ``YYYY-MM-DD``."""
NO_SNAPSHOT = "0"
"""The version of a table that has never held a row."""
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
            with _temporary(f"the table {model}.{table}"):
                return self.catalog.load_table((model, table))
        except NoSuchTableError as error:
            raise DataError(
                f"The lake has no table {model}.{table}.", "Run the step that writes it for the days you need first."
            ) from error

    def has(self, model: str, table: str) -> bool:
        """Tell whether a table exists."""
        with _temporary(f"the table {model}.{table}"):
            return bool(self.catalog.table_exists((model, table)))

    def write(
        self, model: str, table: str, rows: pa.Table, window: Window, properties: Mapping[str, str] | None = None
    ) -> Output:
        """Replace the partitions of ``window`` by ``rows``, all at once; returns the snapshot as an output.

        Days of the window without rows become empty. The table is created from the schema of ``rows`` when there
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

        Raises
        ------
        DataError
            If a row lies outside the window, or the columns are not those of the table.
        TemporaryError
            If other writers kept winning, or the catalog does not answer.
        """
        _check_days(f"{model}.{table}", rows, window)
        digest = content_digest(rows)
        with _temporary(f"the table {model}.{table}"):
            target = self._table_for(model, table, rows.schema)
            snapshot = _already_there(target, window, digest, rows.num_rows)
            if snapshot is None:
                recorded = {**(properties or {}), "window": str(window), "digest": digest}
                snapshot = _overwrite(target, rows, window, {f"{_PREFIX}{k}": v for k, v in recorded.items()})
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

    def details(self, model: str, table: str) -> list[tuple[str, int, str]]:
        """Return ``(ds, rows, snapshot)`` of every partition; the snapshot is the one that last wrote it."""
        if not self.has(model, table):
            return []
        return _partitions(self.load(model, table))

    def snapshot(self, model: str, table: str) -> str:
        """Return the current snapshot id of a table, ``"0"`` when it has never held a row."""
        return _current(self.load(model, table))

    def _table_for(self, model: str, table: str, schema: pa.Schema) -> Table:
        from pyiceberg.exceptions import NoSuchTableError

        try:
            target = self.catalog.load_table((model, table))
        except NoSuchTableError:
            target = self._create(model, table, schema)
        have = _plain(target.schema().as_arrow())
        if have != _plain(schema):
            raise DataError(
                f"{model}.{table}: the columns differ from the table's: {_difference(have, _plain(schema))}.",
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

        columns = pyarrow_to_schema(_with_field_ids(schema))
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
    if settings.s3_endpoint:
        properties["s3.endpoint"] = settings.s3_endpoint
        # PyIceberg would ask Amazon where the bucket is, and wait for an answer that does not come
        properties["s3.region"] = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    with _temporary("the lake's catalog"):
        return Lake(_retrying(10)(SqlCatalog, _CATALOG, **properties))


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
    """Read the rows of an Iceberg table that match a filter, in a stable order of columns and types.

    Raises
    ------
    DataError
        If there is no such column or snapshot.
    """
    name = ".".join(table.name())
    known = table.schema().column_names
    wanted = list(columns) if columns is not None else known
    if missing := [column for column in wanted if column not in known]:
        raise DataError(f"{name}: no column {', '.join(missing)} (columns: {', '.join(known)}).")
    if snapshot == NO_SNAPSHOT or table.current_snapshot() is None:
        return _plain(table.schema().as_arrow()).empty_table().select(wanted)
    if snapshot is not None and table.snapshot_by_id(int(snapshot)) is None:
        raise DataError(f"{name}: there is no snapshot {snapshot}.", "It was expired, or belongs to another table.")
    with _temporary(f"the table {name}"):
        found = table.scan(rows, tuple(wanted), snapshot_id=int(snapshot) if snapshot else None).to_arrow()
    return found.select(wanted).cast(_plain(found.select(wanted).schema))


def content_digest(rows: pa.Table) -> str:
    """Return a digest (16 hex characters) of the rows in their order: equal rows, equal digest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet and not Arrow's own layout: bytes that lie under nulls do not count
    sink = pa.BufferOutputStream()
    plain = rows.cast(_plain(rows.schema)).combine_chunks()
    pq.write_table(plain, sink, compression="none", use_dictionary=False, write_statistics=False)
    return hashlib.sha256(memoryview(sink.getvalue())).hexdigest()[:16]


def _plain(schema: pa.Schema) -> pa.Schema:
    """Reduce a schema to what counts: names and types, without metadata, nullability or string flavours."""
    import pyarrow as pa

    return pa.schema([(field.name, pa.string() if field.type == pa.large_string() else field.type) for field in schema])


def _with_field_ids(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    fields = [
        pa.field(field.name, field.type, metadata={"PARQUET:field_id": str(number)})
        for number, field in enumerate(_plain(schema), start=1)
    ]
    return pa.schema(fields)


def _difference(have: pa.Schema, given: pa.Schema) -> str:
    old, new = dict(zip(have.names, have.types, strict=True)), dict(zip(given.names, given.types, strict=True))
    parts = [f"missing {name}" for name in old if name not in new]
    parts += [f"new {name}" for name in new if name not in old]
    parts += [f"{name} is {new[name]}, was {old[name]}" for name in old if name in new and new[name] != old[name]]
    return "; ".join(parts) or "another order of columns"


def _check_days(name: str, rows: pa.Table, window: Window) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if PARTITION not in rows.column_names or _plain(rows.schema).field(PARTITION).type != pa.string():
        raise DataError(f"{name}: the rows need a string column {PARTITION}.")
    days = pc.unique(rows[PARTITION]).to_pylist()
    outside = [str(day) for day in days if day is None or not str(window.start) <= day <= str(window.end)]
    if outside:
        raise DataError(f"{name}: rows outside the window {window}: {PARTITION} = {', '.join(sorted(outside)[:5])}.")


def _partitions(table: Table) -> list[tuple[str, int, str]]:
    if table.current_snapshot() is None:
        return []
    # a table whose partitions were all emptied has no partition column here, but no counted row either
    return sorted(
        (row["partition"][PARTITION], row["record_count"], str(row["last_updated_snapshot_id"]))
        for row in table.inspect.partitions().to_pylist()
        if row["record_count"]
    )


def _current(table: Table) -> str:
    snapshot = table.current_snapshot()
    return str(snapshot.snapshot_id) if snapshot else NO_SNAPSHOT


def _already_there(table: Table, window: Window, digest: str, rows: int) -> str | None:
    """Return the snapshot that already holds exactly this write, if the table's partitions still are that write."""
    inside = [entry for entry in _partitions(table) if str(window.start) <= entry[0] <= str(window.end)]
    if not inside:
        return None if rows else _current(table)
    writers = {snapshot for _, _, snapshot in inside}
    if len(writers) != 1 or sum(count for _, count, _ in inside) != rows:
        return None
    written = table.snapshot_by_id(int(writers.pop()))
    if written is None or written.summary is None:
        return None
    recorded = written.summary.additional_properties
    same = recorded.get(f"{_PREFIX}window") == str(window) and recorded.get(f"{_PREFIX}digest") == digest
    return str(written.snapshot_id) if same else None


def _overwrite(table: Table, rows: pa.Table, window: Window, properties: dict[str, str]) -> str:
    def overwrite() -> None:
        table.refresh()
        table.overwrite(rows, overwrite_filter=in_window(window), snapshot_properties=properties)

    _retrying(_COMMIT_SECONDS)(overwrite)
    return _current(table)  # the table as of this commit, whatever others have committed since


def _retrying(seconds: float) -> Retrying:
    """Return a retrier for lost races: another process committed, or created the catalog's tables, first."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    return Retrying(
        retry=retry_if_exception_type((CommitFailedException, ValidationException, IntegrityError, ProgrammingError)),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        stop=stop_after_delay(seconds),
        reraise=True,
    )


@contextmanager
def _temporary(what: str) -> Iterator[None]:
    """Name the class of what databases and file systems raise."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (CommitFailedException, ValidationException) as error:
        raise TemporaryError(f"{what}: other writers kept committing first: {error}.") from error
    except DBAPIError as error:
        message = f"{what}: the lake's database: {error.orig}."
        if "authentication failed" in message or 'database "lake" does not exist' in message:
            raise ConfigurationError(
                message, "Check EVERGREEN_DATABASE_URL; evergreen up creates the databases."
            ) from error
        raise TemporaryError(message, "Is the database up? evergreen status tells.") from error
    except PermissionError as error:
        raise ConfigurationError(f"{what}: {error}.", "Check EVERGREEN_LAKE_ROOT and the rights on it.") from error
    except OSError as error:
        hint = "Check EVERGREEN_LAKE_ROOT, EVERGREEN_S3_ENDPOINT, the AWS_* keys and the disk."
        if any(name in str(error) for name in _S3_REFUSALS):
            raise ConfigurationError(f"{what}: {error}.", hint) from error
        raise TemporaryError(f"{what}: {error}.", hint) from error


_S3_REFUSALS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "NO_SUCH_BUCKET")
"""What PyArrow writes into its errors when S3 will go on refusing."""
