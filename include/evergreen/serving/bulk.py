"""Predictions of many rows at once: a version of the model, features as of each row's time, a chunk at a time.

The label is no part of it: no column is read but keys, time and inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evergreen.contract import DataError, Window
from evergreen.data.arrow import PARTITION, plain
from evergreen.data.chunks import chunks_of, read_chunk
from evergreen.data.lake import get_lake
from evergreen.data.transform import EVENT_TIMESTAMP
from evergreen.features.feature_store import example_columns, inputs_of
from evergreen.spec import ModelSpec, Task

if TYPE_CHECKING:
    import pyarrow as pa

    from evergreen.training.scorer import Scorer

PREDICTIONS = "predictions"
"""The lake's table of them."""
VERSION = "version"
ROWS_AT_ONCE = 250_000
"""So many rows with their features fit into a few hundred MB, and more make nothing faster."""


def prediction_columns(spec: ModelSpec, names: Iterable[str]) -> dict[str, str]:
    """Return the column of the table for each value that a model answers with, and for its version.

    A class of a multiclass model has the column ``probability_<class>``, in letters, digits and underscores. A name
    that an entity key, or another class, has already gets underscores at its end.

    Parameters
    ----------
    spec
        The model.
    names
        What its predictions are called: ``probability``, ``prediction``, or the classes.
    """
    taken = {PARTITION, *spec.features.keys, EVENT_TIMESTAMP}
    columns = {}
    prefix = "probability_" if spec.task is Task.MULTICLASS else ""
    for name in (*names, VERSION):
        column = VERSION if name == VERSION else re.sub(r"\W", "_", f"{prefix}{name}".lower(), flags=re.ASCII)
        while column in taken:
            column += "_"
        taken.add(column)
        columns[name] = column
    return columns


def prediction_schema(spec: ModelSpec, examples: pa.Schema, model: Scorer) -> pa.Schema:
    """Return the columns of the predictions of a version; keys have the types that they have in the examples."""
    import pyarrow as pa

    known = [PARTITION, *spec.features.keys, EVENT_TIMESTAMP]
    columns = prediction_columns(spec, model.predict(model.nothing_known()).columns)
    version = columns.pop(VERSION)
    kept = [plain(examples).field(name) for name in dict.fromkeys(known)]
    return pa.schema([*kept, *(pa.field(column, pa.float64()) for column in columns.values()), (version, pa.string())])


@dataclass(frozen=True)
class Ready:
    """What rows are predicted with.

    Parameters
    ----------
    model, version
        What was loaded, and its number.
    schema
        Of `prediction_schema`.
    snapshots
        The versions of the examples and of the feature tables.
    """

    model: Scorer
    version: str
    schema: pa.Schema
    snapshots: Mapping[str, str]

    @classmethod
    def of(cls, spec: ModelSpec, model: Scorer, version: str, snapshots: Mapping[str, str]) -> Ready:
        """Return a model made ready for the tables as they are in the lake."""
        examples = get_lake().load(spec.name, "examples").schema().as_arrow()
        return cls(model, version, prediction_schema(spec, examples, model), snapshots)


def predicted(spec: ModelSpec, ready: Ready, rows: pa.Table) -> pa.Table:
    """Return what a version says of rows, in their order; they are the `example_columns`, and fit into memory.

    Raises
    ------
    DataError
        If the version asks for an input that the model has not any more, or a prediction is not finite.
    """
    import numpy as np
    import pyarrow as pa

    model, schema = ready.model, ready.schema
    frame = inputs_of(spec, rows, ready.snapshots)
    if missing := [name for name in model.inputs if name not in frame.columns]:
        raise DataError(
            f"{model.name} asks for inputs that {spec.name} does not have: {', '.join(missing)}.",
            "Keep the inputs of the champion in model.yaml until it is replaced, or name a version that has them.",
        )
    said = model.predict(frame[list(model.inputs)])
    columns = prediction_columns(spec, said.columns)
    values = {columns[name]: said[name].to_numpy("float64") for name in said.columns}
    if wrong := [name for name, column in values.items() if not np.isfinite(column).all()]:
        raise DataError(f"{model.name}: predictions that are not finite: {', '.join(wrong)}.", "Roll it back.")
    given = {name: rows[name] for name in schema.names if name not in columns.values()}
    version = {columns[VERSION]: pa.array([ready.version] * len(rows), pa.string())}
    return pa.table({**given, **values, **version}).select(schema.names).cast(schema)


def predictions(spec: ModelSpec, ready: Ready, window: Window) -> Iterator[pa.Table]:
    """Yield the predictions of a window's examples, a chunk at a time; raises what `predicted` does."""
    examples = get_lake().load(spec.name, "examples")
    for chunk in chunks_of(examples, window, ready.snapshots["examples"]):
        for rows in read_chunk(examples, chunk, example_columns(spec), ROWS_AT_ONCE):
            yield predicted(spec, ready, rows)


def predictions_of(spec: ModelSpec, ready: Ready, rows: pa.Table) -> bytes:
    """Return the predictions of rows in memory as a Parquet file; raises what `predicted` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    starts = range(0, len(rows), ROWS_AT_ONCE)
    made = [predicted(spec, ready, rows.slice(start, ROWS_AT_ONCE)) for start in starts]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables([ready.schema.empty_table(), *made]), sink, compression="zstd")
    return bytes(sink.getvalue())
