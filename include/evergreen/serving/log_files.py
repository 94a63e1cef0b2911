"""The files of the prediction log: Parquet in the artifact store, written by servers and read by steps.

A file holds rows of one model, one experiment and one day: ``served/<model>/<experiment>/<day>/<file>.parquet``. The
day is that of the rows' event time, which is when they were asked unless the request says otherwise. The experiment is
the id of the rollout that was under way, or ``none``. Feedback lies in ``feedback/<model>/<day>/<file>.parquet``.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Literal, NamedTuple

from evergreen.contract import described
from evergreen.data.served import AGE, FEATURE, OUTPUT, REQUEST
from evergreen.spec import ModelSpec
from evergreen.store import ArtifactStore

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

__all__ = [
    "AGE",
    "DROPPED",
    "FEATURE",
    "NO_EXPERIMENT",
    "OUTPUT",
    "REQUEST",
    "LogRows",
    "Status",
    "feedback_schema",
    "keys_by_day",
    "log_key",
    "log_keys",
    "log_schema",
    "read_log",
]

Status = Literal["ok", "refused", "error"]
NO_EXPERIMENT = "none"
ABSENT = frozenset({"graph_ms"})
"""Columns that files of servers from before have not."""
DROPPED = b"evergreen.dropped"
"""In the metadata of a file: how many records its server had to drop since the file before."""


def log_schema(spec: ModelSpec, keys: Sequence[str] = (), outputs: Sequence[str] = ()) -> pa.Schema:
    """Return the columns of the log of a model.

    Parameters
    ----------
    spec
        The model.
    keys
        Its entity keys that are whole numbers; the others are text.
    outputs
        What it answers.
    """
    import pyarrow as pa

    moment = pa.timestamp("us", tz="UTC")
    features = spec.features
    made = [feature for view in features.views for feature in view.features]
    asked = list(dict.fromkeys([*features.keys, *features.request_inputs]))

    def kind(name: str) -> pa.DataType:
        if name in spec.serving.masked:
            return pa.string()
        if name in features.keys:
            return pa.int64() if name in keys else pa.string()
        return pa.string() if name in features.categorical else pa.float64()

    return pa.schema(
        [
            *(pa.field(name, pa.string()) for name in ("prediction_id", "variant", "version", "status", "reason")),
            *(pa.field(name, pa.string()) for name in ("experiment", "client", "server")),
            pa.field("shadow", pa.bool_()),
            pa.field("served_at", moment),
            pa.field("event_timestamp", moment),
            pa.field("latency_ms", pa.float64()),
            pa.field("graph_ms", pa.float64()),
            *(pa.field(f"{REQUEST}{name}", kind(name)) for name in asked),
            *(pa.field(f"{FEATURE}{name}", kind(name)) for name in made),
            *(pa.field(f"{AGE}{view.name}", pa.float64()) for view in features.views),
            *(pa.field(f"{OUTPUT}{name}", pa.float64()) for name in outputs),
        ]
    )


def feedback_schema() -> pa.Schema:
    """Return the columns of the feedback; an outcome is written as text, whatever the task."""
    import pyarrow as pa

    moment = pa.field("at", pa.timestamp("us", tz="UTC"))
    return pa.schema([("prediction_id", pa.string()), ("outcome", pa.string()), moment, ("client", pa.string())])


def log_key(model: str, experiment: str, day: date, name: str) -> str:
    """Return the key of a file of the log."""
    return f"served/{model}/{experiment}/{day}/{name}.parquet"


def log_keys(store: ArtifactStore, model: str, experiment: str = "", day: date | None = None) -> Iterator[str]:
    """Yield the keys of the log's files of a model, an experiment of it, or a day."""
    for key in store.keys(f"served/{model}/{f'{experiment}/' if experiment else ''}"):
        if day is None or key.split("/")[3] == str(day):
            yield key


def keys_by_day(keys: Iterable[str]) -> dict[str, list[str]]:
    """Return the keys of files, of the log or of feedback, by the day whose rows they hold."""
    days: dict[str, list[str]] = {}
    for key in keys:
        folder = key.split("/")[-2]
        if re.fullmatch(r"\d{4}-\d\d-\d\d", folder, flags=re.ASCII) and key.endswith(".parquet"):
            days.setdefault(folder, []).append(key)
    return days


class LogRows(NamedTuple):
    """What is in files of the log, or of feedback."""

    table: pa.Table
    unreadable: int
    """Files that are no Parquet, lack a column or have one of another type: their rows are not in the table."""


def read_log(store: ArtifactStore, keys: Iterable[str], columns: Mapping[str, pa.DataType]) -> LogRows:
    """Read columns of files, and the outputs where there are any.

    Parameters
    ----------
    store, keys
        Where the files are; one that is gone meanwhile has no rows.
    columns
        The columns and their types; those in ``ABSENT`` are null where a file has them not.
    """
    import pyarrow as pa

    tables, unreadable = [], 0
    for key in keys:
        content = store.read(key)
        if content is None:
            continue
        try:
            tables.append(_read_columns(content, columns))
        except (pa.ArrowException, OSError, ValueError) as error:
            log.warning("%s: it is left out: %s", key, described(error))
            unreadable += 1
    nothing = pa.table({name: pa.array([], kind) for name, kind in columns.items()})
    return LogRows(pa.concat_tables([nothing, *tables], promote_options="default"), unreadable)


def _read_columns(content: bytes, columns: Mapping[str, pa.DataType]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(io.BytesIO(content))
    there = file.schema_arrow.names
    wanted = {**columns, **{name: pa.float64() for name in there if name.startswith(OUTPUT)}}
    if lacking := [name for name in wanted if name not in there and name not in ABSENT]:
        raise ValueError(f"it has no column {', '.join(lacking)}")
    table = file.read(columns=[name for name in wanted if name in there])
    nulls = pa.nulls(len(table))
    return pa.table({name: (table[name] if name in there else nulls).cast(kind) for name, kind in wanted.items()})
