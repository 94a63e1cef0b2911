"""Predictions of whole partitions: what is in the table, whose, and that the label has no part in it."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError, DataError, FailureClass, Manifest, RunIdentity, Status, Window
from evergreen.data.chunks import Chunk, chunks_of, read_chunk, write_chunks
from evergreen.data.lake import Lake, get_lake
from evergreen.features.feature_store import training_set
from evergreen.runner import build_request, execute
from evergreen.serving import bulk
from evergreen.serving.entity_files import entity_key, read_entities
from evergreen.settings import PROJECT_ROOT, Settings, get_settings
from evergreen.spec import Task
from evergreen.store import get_store
from evergreen.training.loading import load_version
from evergreen.training.registry import connect, named_version
from lifecycle_kit import PARTITION, Run, evaluation_rows, leave_examples, training_rows, write_model

pytestmark = pytest.mark.integration
LEARNED = Window(start=PARTITION - timedelta(days=59), end=PARTITION - timedelta(days=20))
DAY = Window(start=PARTITION, end=PARTITION)


@pytest.fixture
def model(lake_settings: Settings, mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model whose examples of 20 days lie in the lake."""
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", mlflow_server)
    get_settings.cache_clear()
    name = write_model(tmp_path / "models", "binary")
    leave_examples(name, evaluation_rows("binary"))
    return name


@pytest.fixture
def champion(model: str) -> Iterator[str]:
    """The model with version 1 as its champion."""
    run = Run(model, "champion")
    run.assemble()
    run.train_without_ray(training_rows("binary"), LEARNED)
    run.steps("evaluate", "gate", "register", "promote")
    yield model
    connect().delete_registered_model(model)


def predict(model: str, window: Window = DAY, run: str = "test", **params: str) -> Manifest:
    identity = RunIdentity(dag_id=f"{model}.predict", run_id=run, task_id="predict")
    return execute(build_request("predict", model, window, identity, {}, params))


def table(model: str, window: Window | None = None) -> pa.Table:
    return get_lake().read(model, "predictions", window)


def test_without_a_champion_nothing_is_predicted(model: str) -> None:
    manifest = predict(model)
    assert (manifest.status, manifest.reason) == (Status.SKIPPED, "there is no champion yet")
    assert not get_lake().has(model, "predictions")


def test_a_day_without_examples_is_skipped(champion: str) -> None:
    day = PARTITION + timedelta(days=1)
    manifest = predict(champion, Window(start=day, end=day))
    assert (manifest.status, manifest.reason) == (Status.SKIPPED, f"There are no examples in {day}..{day}.")


def test_the_champion_predicts_every_row_of_the_partition(champion: str) -> None:
    manifest = predict(champion)
    assert manifest.status is Status.OK, manifest.failure
    found = table(champion)
    assert found.schema.names == ["ds", "event_timestamp", "probability", "version"]
    assert set(found["ds"].to_pylist()) == {str(PARTITION)}
    assert set(found["version"].to_pylist()) == {"1"}
    model = load_version(named_version(champion, "1"))
    frame = training_set(load_model(champion), DAY, labelled=False)
    expected = model.predict(frame[list(model.inputs)])["probability"]
    assert sorted(found["probability"].to_pylist()) == pytest.approx(sorted(expected), abs=1e-12)
    assert manifest.metrics["rows"] == len(expected) == 60
    assert manifest.metrics["bytes_written"] > 0
    assert manifest.metrics["peak_memory_mb"] > 50
    examples = get_lake().snapshot(champion, "examples")
    assert {given.name: given.version for given in manifest.inputs} == {"version": "1", "examples": examples}
    lake_table = get_lake().load(champion, "predictions")
    recorded = lake_table.current_snapshot().summary.additional_properties
    assert recorded["evergreen.read"] == f"examples={examples}"
    assert recorded["evergreen.version"] == "1"


def test_the_same_request_again_is_one_write(champion: str) -> None:
    first = predict(champion)
    again = predict(champion, run="again")
    assert again.outputs == first.outputs
    assert again.metrics["bytes_written"] == 0
    target = get_lake().load(champion, "predictions")
    assert len(target.snapshots()) == 1
    data = Path(target.location()) / "data"
    assert len(list(data.rglob("*.parquet"))) == 1, "what was not committed is gone"


def test_no_label_has_a_part_in_it(champion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(champion)
    before = table(champion)
    asked: list[list[str]] = []

    def spied(target: Any, chunk: Chunk, columns: list[str], rows: int) -> Iterator[pa.Table]:
        asked.append(list(columns))
        return read_chunk(target, chunk, columns, rows)

    monkeypatch.setattr(bulk, "read_chunk", spied)
    flipped = evaluation_rows("binary").assign(outcome=lambda frame: 1 - frame["outcome"])
    leave_examples(champion, flipped)
    manifest = predict(champion, run="flipped")
    assert table(champion) == before
    assert manifest.metrics["bytes_written"] == 0, "the same content, so nothing is written"
    assert asked
    assert all("outcome" not in columns for columns in asked)
    moved = evaluation_rows("binary").assign(x=lambda frame: frame["x"] + 1)
    leave_examples(champion, moved)
    predict(champion, run="moved")
    assert table(champion)["probability"] != before["probability"], "inputs have a part in it"


def test_a_range_is_replaced_as_a_whole_and_the_days_beside_it_stay(champion: str) -> None:
    three = Window(start=PARTITION - timedelta(days=2), end=PARTITION)
    predict(champion, three)
    assert get_lake().partitions(champion, "predictions") == [(str(day), 60) for day in three.partitions]
    rows = evaluation_rows("binary")
    leave_examples(champion, rows[rows["ds"] != str(PARTITION)])
    day = get_lake().read(champion, "examples", Window(start=three.start, end=three.start))
    get_lake().write(champion, "examples", day.slice(0, 0), DAY)
    predict(champion, run="gone")
    assert get_lake().partitions(champion, "predictions") == [(str(day), 60) for day in three.partitions[:2]]


def test_a_version_that_is_named_predicts_and_one_that_is_not_registered_is_refused(champion: str) -> None:
    named = predict(champion, version="1")
    assert named.facts["version"] == "1"
    refused = predict(champion, run="no", version="7")
    assert refused.failure is not None
    assert refused.failure.failure_class is FailureClass.CONFIGURATION
    assert "has no version '7'" in refused.failure.message


def test_chunks_of_any_size_make_the_same_predictions(champion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(champion)
    whole = table(champion)
    monkeypatch.setattr(bulk, "ROWS_AT_ONCE", 7)
    predict(champion, run="small")
    # a matrix of another height is multiplied in another order
    assert table(champion)["probability"].to_numpy() == pytest.approx(whole["probability"].to_numpy(), abs=1e-7)
    assert table(champion)["event_timestamp"] == whole["event_timestamp"]
    assert len(get_lake().load(champion, "predictions").inspect.data_files()) == 9


def test_names_of_classes_and_keys_never_meet() -> None:
    spec = load_model("flight_delay")
    assert bulk.prediction_columns(spec, ["probability"]) == {"probability": "probability", "version": "version"}
    view = spec.features.views[0].model_copy(update={"entities": ("version", "probability_a_b")})
    features = spec.features.model_copy(update={"views": (view,)})
    spec = spec.model_copy(update={"task": Task.MULTICLASS, "features": features})
    assert bulk.prediction_columns(spec, ["A b", "a-b", "é"]) == {
        "A b": "probability_a_b_",
        "a-b": "probability_a_b__",
        "é": "probability__",
        "version": "version_",
    }


def entities(**columns: Any) -> pd.DataFrame:
    at = ["2024-03-31T10:00:00Z", "2024-03-31T11:00:00Z"]
    rows = {"event_timestamp": at, "x": ["0.5", ""], "gap": ["", "1"], "site": ["north", "south"], "hour": ["10", "11"]}
    return pd.DataFrame(rows | columns)


def put_csv(frame: pd.DataFrame, name: str = "ours.csv") -> str:
    key = f"entities/small_binary/{name}"
    get_store().write(key, frame.to_csv(index=False).encode())
    return key


def rows_at(manifest: Manifest) -> pa.Table:
    assert manifest.status is Status.OK, manifest.failure
    (output,) = manifest.outputs
    return pq.read_table(output.uri)


def test_a_file_of_rows_is_predicted_into_a_file_and_the_table_stays(champion: str) -> None:
    manifest = predict(champion, file=put_csv(entities()))
    found = rows_at(manifest)
    assert found.schema.names == ["ds", "event_timestamp", "probability", "version"]
    assert manifest.outputs[0].uri.startswith(get_store().uri("predicted/small_binary/ours-"))
    assert not get_lake().has(champion, "predictions")
    model = load_version(named_version(champion, "1"))
    asked = pd.DataFrame({"x": [0.5, None], "gap": [None, 1.0], "site": ["north", "south"], "hour": ["10", "11"]})
    expected = model.predict(asked[list(model.inputs)])["probability"]
    assert found["probability"].to_pylist() == pytest.approx(expected.tolist(), abs=1e-12)
    again = predict(champion, run="by address", file=get_store().uri("entities/small_binary/ours.csv"))
    assert again.outputs == manifest.outputs
    content = io.BytesIO()
    typed = entities(x=[0.5, None], gap=[None, 1.0], event_timestamp=pd.to_datetime(entities()["event_timestamp"]))
    typed.to_parquet(content)
    get_store().write("entities/small_binary/sub/ours.parquet", content.getvalue())
    assert rows_at(predict(champion, run="parquet", file="entities/small_binary/sub/ours.parquet")) == found


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"x": ["0.5", "much"]}, "ours.csv: row 2, x: 'much' is not a double"),
        ({"event_timestamp": ["2024-03-31T10:00:00Z", ""]}, "row 2, event_timestamp: it is missing"),
        ({"event_timestamp": ["2024-03-31T10:00:00", "2024-03-31T11:00:00Z"]}, "row 1, event_timestamp: '2024"),
        ({"outcome": [1, 0]}, "ours.csv: the columns are not those to predict from: not asked for outcome"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_column_and_row(
    model: str, columns: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=re.escape(said)):
        read(model, put_csv(entities(**columns)))


def read(model: str, file: str) -> pa.Table:
    """Read a file of entities as the step does."""
    spec = load_model(model)
    return read_entities(spec, entity_key(spec, file), get_lake().load(model, "examples").schema().as_arrow())


def test_a_file_without_a_column_and_what_is_no_file_are_refused(model: str) -> None:
    key = put_csv(entities().drop(columns="site"))
    get_store().write("entities/small_binary/broken.parquet", b"no parquet")
    told = {key: "missing site", "entities/small_binary/broken.parquet": "it cannot be read"}
    for file, said in (told | {"entities/small_binary/none.csv": "there is no such file"}).items():
        with pytest.raises(DataError, match=said):
            read(model, file)


@pytest.mark.parametrize(
    "file",
    [
        "/etc/passwd",
        "/etc/rows.csv",
        "entities/other/rows.csv",
        "entities/small_binary/../../../../../etc/rows.csv",
        "s3://elsewhere/entities/small_binary/rows.csv",
        "served/small_binary/none/2024-03-31/a.parquet",
    ],
)
def test_no_file_outside_the_folder_is_read(model: str, file: str) -> None:
    with pytest.raises(ConfigurationError):
        read(model, file)


def test_a_link_leads_nowhere(model: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text(entities().to_csv(index=False))
    link = Path(get_store().uri(put_csv(entities()))).with_name("link.csv")
    link.symlink_to(outside)
    with pytest.raises(ConfigurationError, match="points outside"):
        read(model, "entities/small_binary/link.csv")


@pytest.fixture
def lake(lake_settings: Settings) -> Lake:
    return get_lake()


SCHEMA = pa.schema([("ds", pa.string()), ("value", pa.float64())])


def numbers(day: str, *values: float) -> pa.Table:
    return pa.table({"ds": [day] * len(values), "value": list(values)}, schema=SCHEMA)


def test_a_write_that_is_stopped_half_way_is_seen_by_nobody_and_leaves_no_file(lake: Lake) -> None:
    window = Window(start=date(2024, 1, 1), end=date(2024, 1, 1))
    write_chunks(lake, "m", "t", SCHEMA, iter([numbers("2024-01-01", 1)]), window)

    def stopped() -> Iterator[pa.Table]:
        yield numbers("2024-01-01", 2)
        assert lake.read("m", "t")["value"].to_pylist() == [1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_chunks(lake, "m", "t", SCHEMA, stopped(), window)
    assert lake.read("m", "t")["value"].to_pylist() == [1]
    data = Path(lake.load("m", "t").location()) / "data"
    assert len(list(data.rglob("*.parquet"))) == 1


KILLED = """
import os, signal
from datetime import date
import pyarrow as pa
from evergreen.contract import Window
from evergreen.data.chunks import write_chunks
from evergreen.data.lake import get_lake
day = date(2024, 1, 1)
schema = pa.schema([("ds", pa.string()), ("value", pa.float64())])
def chunks():
    for number in (2.0, 3.0):
        yield pa.table({"ds": [str(day)], "value": [number]}, schema=schema)
    os.kill(os.getpid(), signal.SIGKILL)
write_chunks(get_lake(), "m", "t", schema, chunks(), Window(start=day, end=day))
"""


def test_a_write_that_is_killed_leaves_what_was_there(lake: Lake, postgres_url: str) -> None:
    window = Window(start=date(2024, 1, 1), end=date(2024, 1, 1))
    write_chunks(lake, "m", "t", SCHEMA, iter([numbers("2024-01-01", 1)]), window)
    settings = get_settings()
    environment = {
        **os.environ,
        "EVERGREEN_STATE_DIR": str(settings.state_dir),
        "EVERGREEN_DATABASE_URL": postgres_url,
        "PYTHONPATH": str(PROJECT_ROOT / "include"),
    }
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert lake.read("m", "t")["value"].to_pylist() == [1]
    write_chunks(lake, "m", "t", SCHEMA, iter([numbers("2024-01-01", 2), numbers("2024-01-01", 3)]), window)
    assert lake.read("m", "t")["value"].to_pylist() == [2, 3]
    assert sorted(np.concatenate([read["value"] for read in _chunked(lake, window)])) == [2, 3]


def _chunked(lake: Lake, window: Window) -> Iterator[pd.DataFrame]:
    target = lake.load("m", "t")
    for chunk in chunks_of(target, window, lake.snapshot("m", "t")):
        for rows in read_chunk(target, chunk, ["value"], 1):
            yield rows.to_pandas()


def test_a_new_column_is_added_and_one_that_is_gone_is_null(lake: Lake) -> None:
    first, second = (Window(start=day, end=day) for day in (date(2024, 1, 1), date(2024, 1, 2)))
    write_chunks(lake, "m", "t", SCHEMA, iter([numbers("2024-01-01", 1)]), first)
    other = pa.table({"ds": ["2024-01-02"], "text": ["new"]})
    write_chunks(lake, "m", "t", other.schema, iter([other]), second)
    assert lake.read("m", "t").to_pylist() == [
        {"ds": "2024-01-01", "value": 1, "text": None},
        {"ds": "2024-01-02", "value": None, "text": "new"},
    ]
