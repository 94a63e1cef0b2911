"""The files of the prediction log: Parquet in the artifact store, written by servers and read by steps.

A file holds rows of one model, one experiment and one day: ``served/<model>/<experiment>/<day>/<file>.parquet``. The
day is that of the rows' event time, which is when they were asked unless the request says otherwise. The experiment is
the id of the rollout that was under way, or ``none``. Feedback lies in ``feedback/<model>/<day>/<file>.parquet``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Literal

from evergreen.data.served import AGE, FEATURE, OUTPUT, REQUEST
from evergreen.spec import ModelSpec
from evergreen.store import ArtifactStore

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "AGE",
    "DROPPED",
    "FEATURE",
    "NO_EXPERIMENT",
    "OUTPUT",
    "REQUEST",
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


def read_log(store: ArtifactStore, keys: Sequence[str]) -> pa.Table:
    """Read files of the log into one table; columns that only some have are null in the others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = [pq.read_table(io.BytesIO(content)) for key in keys if (content := store.read(key)) is not None]
    return pa.concat_tables(tables, promote_options="default") if tables else pa.table({})
