"""Predictions of many rows at once: a version of the model, features as of each row's time, a chunk at a time.

The label is no part of it: no column is read but keys, time and inputs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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


def predicted(
    spec: ModelSpec, model: Scorer, version: str, schema: pa.Schema, rows: pa.Table, snapshots: Mapping[str, str]
) -> pa.Table:
    """Return what a version says of rows, in their order.

    Parameters
    ----------
    spec, model, version
        The model, and what was loaded of it.
    schema
        Of `prediction_schema`.
    rows
        The `example_columns` of as many rows as fit into memory.
    snapshots
        The versions of the feature tables.

    Raises
    ------
    DataError
        If the version asks for an input that the model has not any more, or a prediction is not finite.
    """
    import numpy as np
    import pyarrow as pa

    frame = inputs_of(spec, rows, snapshots)
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
    given = {name: rows[name] for name in schema.names if name in rows.column_names and name not in columns.values()}
    version_column = {columns[VERSION]: pa.array([version] * len(rows), pa.string())}
    return pa.table({**given, **values, **version_column}).select(schema.names).cast(schema)


def predictions(
    spec: ModelSpec, model: Scorer, version: str, schema: pa.Schema, window: Window, snapshots: Mapping[str, str]
) -> Iterator[pa.Table]:
    """Yield the predictions of a window's examples, a chunk at a time; parameters as of `predicted`."""
    examples = get_lake().load(spec.name, "examples")
    for chunk in chunks_of(examples, window, snapshots["examples"]):
        for rows in read_chunk(examples, chunk, example_columns(spec), ROWS_AT_ONCE):
            yield predicted(spec, model, version, schema, rows, snapshots)
