"""What is too large for memory: read a chunk at a time, and written so, in one commit that is seen whole or not at all.

The files of a write count once its last chunk is there: whoever is killed before leaves files that no table names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from evergreen.contract import DataError, Output, Window
from evergreen.data.arrow import PARTITION, check_days, content_digest, plain
from evergreen.data.commit import Change, commit_together
from evergreen.data.lake import Lake, in_window
from evergreen.data.lake_errors import lake_errors, retrying_races
from evergreen.data.scan import NO_SNAPSHOT, current_snapshot_of

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table

_COMMIT_SECONDS = 120


@dataclass(frozen=True)
class Chunk:
    """A part of a table that is read at once: a row group of one of its files, with rows of one day."""

    path: str
    group: int
    rows: int


def chunks_of(table: Table, window: Window, snapshot: str) -> list[Chunk]:
    """Return the parts that hold the rows of a window, the oldest day first; of the same snapshot always the same.

    Raises
    ------
    DataError
        If somebody else has deleted single rows of it: those are not known to the file.
    """
    import pyarrow.parquet as pq

    if snapshot == NO_SNAPSHOT:
        return []
    name = ".".join(table.name())
    with lake_errors(f"the table {name}"):
        tasks = list(table.scan(in_window(window), snapshot_id=int(snapshot)).plan_files())
        if any(task.delete_files for task in tasks):
            raise DataError(f"{name}: single rows were deleted.", "Run the step that writes it for these days again.")
        chunks = []
        for path in sorted((str(task.file.partition[0]), task.file.file_path) for task in tasks):
            with table.io.new_input(path[1]).open() as file:
                groups = pq.ParquetFile(file).metadata
                chunks += [
                    Chunk(path[1], group, groups.row_group(group).num_rows) for group in range(groups.num_row_groups)
                ]
    return chunks


def read_chunk(table: Table, chunk: Chunk, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Yield a chunk's rows, so many at a time; no other column is read than those named.

    Raises
    ------
    DataError
        If there is no such column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = ".".join(table.name())
    with lake_errors(f"the table {name}"), table.io.new_input(chunk.path).open() as file:
        content = pq.ParquetFile(file)
        if missing := [column for column in columns if column not in content.schema_arrow.names]:
            raise DataError(f"{name}: no column {', '.join(missing)}.", "Run the step that writes it again.")
        for batch in content.iter_batches(rows, row_groups=[chunk.group], columns=list(columns)):
            found = pa.Table.from_batches([batch]).select(list(columns))
            yield found.cast(plain(found.schema))


@dataclass(frozen=True)
class Written:
    """What was written, and how many bytes of files that took."""

    output: Output
    bytes: int


def write_chunks(
    lake: Lake,
    model: str,
    name: str,
    schema: pa.Schema,
    chunks: Iterable[pa.Table],
    window: Window,
    properties: Mapping[str, str] | None = None,
) -> Written:
    """Replace the partitions of a window by rows that come in chunks, as `Lake.write` does with a table.

    Columns that the table has and the rows have not are null, and those that are new are added to it.

    Parameters
    ----------
    lake, model, name
        Where to write.
    schema
        The columns of every chunk.
    chunks
        The rows; those of a chunk are of one day.
    window, properties
        As for `Lake.write`.

    Raises
    ------
    DataError
        If a row lies outside the window, or a column of the table has another type.
    TemporaryError
        If other writers kept winning, or the catalog does not answer.
    """
    what = f"the table {model}.{name}"
    with lake_errors(what):
        target = retrying_races(_COMMIT_SECONDS)(lake.table_for, model, name, schema, widen=True)
    files: list[DataFile] = []
    digests: list[str] = []
    try:
        for number, chunk in enumerate(chunks):
            check_days(f"{model}.{name}", chunk, window, ())
            with lake_errors(what):
                files += _data_files(target, chunk, number)
            digests.append(content_digest(chunk))
    except BaseException:  # also of who stops this process: nobody will ever name these files
        _remove(target, files)
        raise
    digest = sha256("".join(digests).encode()).hexdigest()[:16] if digests else content_digest(schema.empty_table())
    change = Change(name, files, window, (), digest, properties or {})
    with lake_errors(what):
        version, is_new = retrying_races(_COMMIT_SECONDS)(_commit, lake, model, change)
    if not is_new:
        _remove(target, files)
    output = Output(name=name, uri=target.location(), version=version, digest=digest, rows=change.count)
    return Written(output, sum(file.file_size_in_bytes for file in files) if is_new else 0)


def _commit(lake: Lake, model: str, change: Change) -> tuple[str, bool]:
    """Commit the files; returns the snapshot that holds the rows, and whether it is made of these files."""
    target = lake.load(model, change.table)
    if version := change.already_in(target):
        return version, False
    commit_together(lake.catalog, [(target, change.staged(target))])
    return current_snapshot_of(target), True


def _data_files(target: Table, rows: pa.Table, number: int) -> list[DataFile]:
    """Write rows of one day as a file of a table; it counts once it is committed."""
    from uuid import uuid4

    import pyarrow.compute as pc
    from pyiceberg.io.pyarrow import pyarrow_to_schema, write_file
    from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
    from pyiceberg.table import WriteTask

    (day,) = pc.unique(rows[PARTITION]).to_pylist()
    schema, days = target.schema(), target.spec()
    key = PartitionKey([PartitionFieldValue(days.fields[0], day)], days, schema)
    columns = pyarrow_to_schema(rows.schema, name_mapping=schema.name_mapping)
    task = WriteTask(uuid4(), number, columns, rows.to_batches(), partition_key=key)
    return list(write_file(target.io, target.metadata, iter([task])))


def _remove(target: Table, files: Sequence[DataFile]) -> None:
    """Delete files that no snapshot names; one that cannot be deleted stays, and nobody reads it."""
    for file in files:
        with suppress(Exception):
            target.io.delete(file.file_path)
