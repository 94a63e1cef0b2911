"""The step of the worked example, run on a real training set."""

from __future__ import annotations

import io
from datetime import date

import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.contract import DataError, Manifest, Output, Request, Result, RunIdentity, Status, Window, utc_now
from evergreen.handover import file_digest
from evergreen.pipelines import STEPS, arrows
from evergreen.runner import load_step
from evergreen.settings import Settings
from evergreen.store import get_store

WINDOW = Window(start=date(2013, 3, 1), end=date(2013, 3, 1))


def _checked(label: list[int]) -> Result:
    """Run the step on a training set with this label, whose first input is 0, 1, 0, 1 and the others are not."""
    spec = load_model("flight_delay")
    first, *others = spec.features.numeric
    frame = pd.DataFrame({first: [0.0, 1.0, 0.0, 1.0], **{name: [1.0, 5.0, 2.0, 1.0] for name in others}})
    frame[spec.features.examples.label] = label
    sink = io.BytesIO()
    frame.to_parquet(sink)
    digest, store = file_digest(sink.getvalue()), get_store()
    uri = store.write("datasets/flight_delay/2013-03-01-abc/training.parquet", sink.getvalue())
    output = Output(name="training", uri=uri, version="abc", digest=digest, rows=4)
    run = RunIdentity(dag_id="flight_delay.train", run_id="r", task_id="assemble")
    manifest = Manifest(
        **{"step": "assemble", "model": spec.name, "window": WINDOW, "run": run, "attempt": "1"},
        **{"status": Status.OK, "outputs": (output,), "code_version": "c", "config_digest": "d"},
        **{"started": utc_now(), "finished": utc_now()},
    )
    request = Request(
        step="check_leaks",
        model=spec.name,
        window=WINDOW,
        run=run.sibling("check_leaks"),
        upstream={"assemble": manifest},
    )
    return load_step("check_leaks")(request, spec)


def test_an_input_that_is_the_label_is_refused_by_name(settings: Settings) -> None:
    name = load_model("flight_delay").features.numeric[0]
    with pytest.raises(DataError, match=rf"features\.numeric: {name}: no different from the label"):
        _checked([0, 1, 0, 1])


def test_other_inputs_are_measured(settings: Settings) -> None:
    result = _checked([0, 1, 1, 1])
    assert len(result.metrics) == len(load_model("flight_delay").features.numeric)
    assert all(0 < value < 1 for value in result.metrics.values())


def test_the_step_stands_between_those_it_names() -> None:
    assert "check_leaks" in STEPS
    assert {("assemble", "check_leaks"), ("check_leaks", "train")} <= set(arrows("train"))
