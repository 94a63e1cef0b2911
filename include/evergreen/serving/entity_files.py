"""Files of rows that somebody wants predicted: Parquet or CSV, below one folder of the artifact store.

A file has the entity keys, ``event_timestamp`` and the inputs that no feature view provides, and nothing else.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from evergreen.contract import ConfigurationError, DataError, described, printable
from evergreen.data.arrow import PARTITION, plain
from evergreen.data.tables import cast_column, has_no_zone, shown
from evergreen.data.transform import EVENT_TIMESTAMP
from evergreen.features.feature_store import example_columns
from evergreen.handover import key_of
from evergreen.spec import ColumnType, ModelSpec
from evergreen.store import get_store

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_ENTITIES = "entities"
_TOLD = 5
"""So many problems are told; one who sees them knows what the others are."""


def entity_key(spec: ModelSpec, file: str) -> str:
    """Return the key of a file of entities, given as a key or as an address of the artifact store.

    Raises
    ------
    ConfigurationError
        If it lies elsewhere: a step reads no other files of its machine for whoever may start it.
    """
    root = f"{_ENTITIES}/{spec.name}/"
    key = key_of(file) or file
    if not key.startswith(root) or not key.endswith((".parquet", ".csv")):
        raise ConfigurationError(
            f"file: {file!r} is no Parquet or CSV file below {get_store().uri(root.rstrip('/'))}.",
            f"Put it there, and name it {root}<name>.parquet or {root}<name>.csv.",
        )
    return key


def read_entities(spec: ModelSpec, key: str, examples: pa.Schema) -> pa.Table:
    """Return the rows of a file as `example_columns`, of the types that the examples have.

    Raises
    ------
    DataError
        If there is no such file, it cannot be read, or a column or value is not what the model needs.
    """
    import pyarrow as pa

    content = get_store().read(key)
    if content is None:
        raise DataError(f"{get_store().uri(key)}: there is no such file.", "Put it there first.")
    frame = _frame(key, content)
    wanted = pa.schema([plain(examples).field(name) for name in example_columns(spec) if name != PARTITION])
    _check_columns(key, list(frame.columns), wanted.names)
    columns, problems = {}, []
    for column in wanted:
        values = frame[column.name]
        if column.name == EVENT_TIMESTAMP and has_no_zone(values):
            raise DataError(f"{key}: {EVENT_TIMESTAMP}: times without a time zone.", "Write them in UTC.")
        cast, wrong = cast_column(values, _kind(column.type))
        problems += [(row, column.name, f"{shown(value)} is not a {_kind(column.type)}") for row, value in wrong]
        if column.name in {*spec.features.keys, EVENT_TIMESTAMP}:
            known = {row for row, _ in wrong}
            nulls = (row for row, there in enumerate(cast.is_valid().to_pylist()) if not there and row not in known)
            problems += [(row, column.name, "it is missing") for row in nulls]
        columns[column.name] = cast
    if problems:
        raise _refused(key, problems)
    return _typed(key, columns, wanted)


def _frame(key: str, content: bytes) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if key.endswith(".csv"):  # as text: what a value is says the model, not how it looks
            return pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False, na_values=[""], index_col=False)
        return pq.read_table(io.BytesIO(content)).to_pandas(types_mapper=pd.ArrowDtype)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{key}: it cannot be read: {described(error)}.", "Write it again.") from error


def _check_columns(key: str, found: list[str], wanted: list[str]) -> None:
    names = [printable(str(name), 100) for name in found]
    problems = {
        "missing": [name for name in wanted if name not in names],
        "not asked for": [name for name in names if name not in wanted],
        "there twice": sorted({name for name in names if names.count(name) > 1}),
    }
    if wrong := "; ".join(f"{what} {', '.join(columns)}" for what, columns in problems.items() if columns):
        raise DataError(f"{key}: the columns are not those to predict from: {wrong}.", f"Give {', '.join(wanted)}.")


def _kind(column: pa.DataType) -> ColumnType:
    """Return what a value of an Arrow type is called where people declare columns."""
    from pyarrow import types

    kinds: tuple[tuple[bool, ColumnType], ...] = (
        (types.is_boolean(column), "boolean"),
        (types.is_integer(column), "int64"),
        (types.is_floating(column) or types.is_decimal(column), "double"),
        (types.is_date(column), "date"),
        (types.is_timestamp(column), "timestamp"),
    )
    return next((kind for fits, kind in kinds if fits), "string")


def _refused(key: str, problems: list[tuple[int, str, str]]) -> DataError:
    told = "; ".join(f"row {row + 1}, {column}: {why}" for row, column, why in sorted(problems)[:_TOLD])
    more = f"; and {len(problems) - _TOLD:,} more" if len(problems) > _TOLD else ""
    return DataError(f"{key}: {told}{more}.", "Correct the file: nothing of it was predicted. Rows count from 1.")


def _typed(key: str, columns: dict[str, pa.Array], wanted: pa.Schema) -> pa.Table:
    """Return the columns in the very types of the examples, with the day of each row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        rows = pa.table(columns).cast(wanted)
    except pa.ArrowException as error:
        raise DataError(f"{key}: {error}.", "A number is larger than the model's examples have room for.") from error
    return rows.add_column(0, PARTITION, pc.strftime(rows[EVENT_TIMESTAMP], "%Y-%m-%d"))
