"""Answers in the lake's table ``served``, as an ingestion of a server's log leaves them."""

from __future__ import annotations

from datetime import date
from typing import Any

import pandas as pd
import pyarrow as pa

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.data.lake import get_lake
from evergreen.data.served import OUTPUT, SERVED
from evergreen.serving.log_files import log_schema


def leave_served(model: str, frame: pd.DataFrame, version: str, **columns: Any) -> None:
    """Leave an answer for each row of a frame of examples; columns of the table may be given."""
    spec = load_model(model)
    stamps = pd.to_datetime(frame["ds"], utc=True).astype("datetime64[us, UTC]")
    named = {name: f"request_{name}" for name in spec.features.request_inputs}
    answers = frame.rename(columns=named)[["ds", *named.values()]].assign(
        prediction_id=[f"p{place}" for place in range(len(frame))],
        variant="champion",
        version=version,
        status="ok",
        shadow=False,
        served_at=stamps,
        event_timestamp=stamps,
    )
    answers = answers.assign(**columns)
    outputs = [name.removeprefix(OUTPUT) for name in answers.columns if name.startswith(OUTPUT)]
    schema = pa.schema([pa.field("ds", pa.string()), *log_schema(spec, outputs=outputs)])
    for name in schema.names:
        if name not in answers.columns:
            answers[name] = None
        elif pa.types.is_string(schema.field(name).type):
            answers[name] = answers[name].astype("string")
    window = Window(start=date.fromisoformat(frame["ds"].min()), end=date.fromisoformat(frame["ds"].max()))
    get_lake().write(model, SERVED, pa.Table.from_pandas(answers, schema, preserve_index=False), window)
