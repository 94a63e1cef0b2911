"""Records of the prediction log as the bytes of a Parquet file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from evergreen.serving.log_files import OUTPUT, feedback_schema, log_key, log_schema
from evergreen.spec import ModelSpec
from evergreen.training.graph import category_name

if TYPE_CHECKING:
    import pyarrow as pa

OUTCOME = "outcome"
"""Only feedback has it."""


def file_key(model: str, experiment: str, day: date, name: str) -> str:
    """Return where a file goes: that of an experiment, or of feedback, which has none."""
    return log_key(model, experiment, day, name) if experiment else f"feedback/{model}/{day}/{name}.parquet"


def as_parquet(
    spec: ModelSpec, keys: Sequence[str], records: Sequence[Mapping[str, Any]], counts: Mapping[str, int]
) -> bytes:
    """Return a Parquet file.

    Parameters
    ----------
    spec, keys
        The model, and its entity keys that are whole numbers.
    records
        All of them predictions, or all of them feedback.
    counts
        How many records are missing, by reason: ``dropped``, ``torn``; the file's metadata says so.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = feedback_schema() if OUTCOME in records[0] else _log_schema(spec, keys, records)
    table = pa.table(
        {column.name: _array([record.get(column.name) for record in records], column.type) for column in schema},
        schema=schema,
    )
    table = table.replace_schema_metadata({f"evergreen.{name}": str(count) for name, count in counts.items()})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _log_schema(spec: ModelSpec, keys: Sequence[str], records: Sequence[Mapping[str, Any]]) -> pa.Schema:
    outputs = dict.fromkeys(name for record in records for name in record if name.startswith(OUTPUT))
    return log_schema(spec, keys, [name.removeprefix(OUTPUT) for name in outputs])


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        values = [datetime.fromisoformat(value) for value in values]
    elif pa.types.is_string(kind):  # a category may be a number in a request: it is named as in training
        values = [category_name(value) for value in values]
    elif pa.types.is_floating(kind):
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, kind)
