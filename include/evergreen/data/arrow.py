"""Arrow tables as the lake keeps them: plain schemas, digests, the partition column."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import TYPE_CHECKING

from evergreen.contract import DataError, Window

if TYPE_CHECKING:
    import pyarrow as pa

PARTITION = "ds"
"""The partition column of every table: the day as ``YYYY-MM-DD``."""


def content_digest(rows: pa.Table) -> str:
    """Return a digest (16 hex characters) of the rows in their order: equal rows, equal digest."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet and not Arrow's own layout: bytes that lie under nulls do not count
    sink = pa.BufferOutputStream()
    content = rows.cast(plain(rows.schema)).combine_chunks()
    pq.write_table(content, sink, compression="none", use_dictionary=False, write_statistics=False)
    return hashlib.sha256(memoryview(sink.getvalue())).hexdigest()[:16]


def count_known(column: pa.ChunkedArray) -> int:
    """Count the values that are known: neither null nor NaN, which pandas, and so a training, takes for a null."""
    import pyarrow.compute as pc

    return len(column) - (pc.sum(pc.is_null(column, nan_is_null=True)).as_py() or 0)


def plain(schema: pa.Schema) -> pa.Schema:
    """Reduce a schema to what counts: names and types, without metadata, nullability or string flavours."""
    import pyarrow as pa

    return pa.schema([(field.name, pa.string() if field.type == pa.large_string() else field.type) for field in schema])


def difference(before: pa.Schema, after: pa.Schema) -> str:
    """Say how the columns of two schemas differ."""
    old, new = dict(zip(before.names, before.types, strict=True)), dict(zip(after.names, after.types, strict=True))
    parts = [f"missing {name}" for name in old if name not in new]
    parts += [f"new {name}" for name in new if name not in old]
    parts += [f"{name} is {new[name]}, was {old[name]}" for name in old if name in new and new[name] != old[name]]
    return "; ".join(parts) or "another order of columns"


def check_days(name: str, rows: pa.Table, window: Window, extra_days: Collection[str]) -> None:
    """Refuse rows that lie neither in the window nor in one of the other partitions.

    Raises
    ------
    DataError
        If there is such a row, or no string column ``ds``.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if PARTITION not in rows.column_names or plain(rows.schema).field(PARTITION).type != pa.string():
        raise DataError(f"{name}: the rows need a string column {PARTITION}.")
    days = pc.unique(rows[PARTITION]).to_pylist()
    outside = [str(day) for day in days if day is None or not (day in window or day in extra_days)]
    if outside:
        raise DataError(f"{name}: rows outside the window {window}: {PARTITION} = {', '.join(sorted(outside)[:5])}.")
