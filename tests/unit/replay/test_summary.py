"""The loop's table is read from manifests: what each way a period can go looks like in it."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from evergreen.catalog import load_model
from evergreen.contract import (
    ConfigurationError,
    Failure,
    FailureClass,
    Manifest,
    Output,
    RunIdentity,
    Status,
    StepError,
    TemporaryError,
    Window,
    utc_now,
)
from evergreen.pipelines import dag_id
from evergreen.settings import Settings
from evergreen.store import get_store, write_manifest
from evergreen_airflow.replay.drivers import failure_of
from evergreen_airflow.replay.plan import Period
from evergreen_airflow.replay.summary import PeriodRuns, Row, make_row

MODEL = "flight_delay"
LAST = date(2013, 4, 30)
PERIOD = Period(label="2013-04", window=Window(start=date(2013, 4, 1), end=LAST))


def manifest(pipeline: str, step: str, run_id: str, **fields: Any) -> Manifest:
    fields = {"status": Status.OK, **fields}
    return Manifest(
        step=step,
        model=MODEL,
        window=PERIOD.window,
        run=RunIdentity(dag_id=dag_id(MODEL, pipeline), run_id=run_id, task_id=step),
        attempt="1",
        code_version="1",
        config_digest="2",
        started=utc_now(),
        finished=utc_now(),
        **fields,
    )


def leave(pipeline: str, step: str, run_id: str, **fields: Any) -> None:
    write_manifest(get_store(), manifest(pipeline, step, run_id, **fields))


def report(verdict: str) -> None:
    drift = {"report_id": "r", "verdict": verdict, "drifted_share": 0.4}
    output = Output(name="drift_report", uri="reports/drift.json", version="r")
    leave("monitor", "check_drift", "m", facts=drift, outputs=(output,))


def row(**runs: str) -> Row:
    return make_row(load_model(MODEL), PERIOD, PeriodRuns(**runs))


@pytest.fixture(autouse=True)
def data(settings: Settings) -> None:
    leave("backfill", "publish", "b", facts={"rows": 900, "quarantined": 7})
    leave("ingest", "publish", "i", facts={"rows": 30, "quarantined": 1})


def test_a_judged_challenger(settings: Settings) -> None:
    report("drift")
    metrics = {"champion_auc": 0.70, "challenger_auc": 0.71, "improvement_low": 0.001, "improvement_high": 0.02}
    leave("train", "evaluate", "t", metrics=metrics)
    leave("train", "gate", "t", status=Status.REFUSED, reason="no", facts={"decision": "not_justified", "why": "noise"})
    found = row(backfill="b", ingest="i", monitor="m", retrain="r", train="t")
    assert (found.rows_in, found.quarantined) == (938, 8)
    assert (found.verdict, found.drifted_share) == ("drift", 0.4)
    assert (found.champion, found.challenger) == (0.70, 0.71)
    assert (found.improvement_low, found.improvement_high) == (0.001, 0.02)
    assert (found.decision, found.why) == ("not_justified", "noise")


def test_stable_inputs_propose_nothing(settings: Settings) -> None:
    report("stable")
    leave("monitor", "check_performance", "m", metrics={"auc": 0.69})
    found = row(backfill="b", ingest="i", monitor="m", retrain="r")
    assert (found.decision, found.champion, found.challenger) == ("no_proposal", 0.69, None)
    assert "stable" in found.why


def test_the_guard_holds_back(settings: Settings) -> None:
    report("drift")
    leave("retrain", "guard", "r", status=Status.REFUSED, reason="trained 3 days ago")
    found = row(ingest="i", monitor="m", retrain="r")
    assert (found.decision, found.why) == ("held_back", "trained 3 days ago")


def test_a_day_without_data(settings: Settings) -> None:
    leave("ingest", "ingest", "none", status=Status.SKIPPED, reason="flights: no rows for 2013-04-30")
    found = row(ingest="none")
    assert (found.rows_in, found.decision, found.why) == (0, "skipped", "flights: no rows for 2013-04-30")


@pytest.mark.parametrize(
    ("failure_class", "error"),
    [(FailureClass.TEMPORARY, TemporaryError), (FailureClass.CONFIGURATION, ConfigurationError)],
)
def test_a_failure_keeps_its_class(failure_class: FailureClass, error: type[StepError]) -> None:
    failure = Failure(failure_class=failure_class, message="it broke", hint="Do this.")
    found = failure_of(manifest("train", "train", "t", status=Status.FAILED, failure=failure), "Log: here")
    assert type(found) is error
    assert "flight_delay.train t: task train failed: it broke" in found.message
    assert found.hint == "Do this. Log: here"


@pytest.mark.parametrize("failure_class", [FailureClass.BUG, FailureClass.OUT_OF_MEMORY])
def test_a_class_without_an_exception_of_its_own_is_kept_too(failure_class: FailureClass) -> None:
    failure = Failure(failure_class=failure_class, message="it broke")
    found = failure_of(manifest("train", "train", "t", status=Status.FAILED, failure=failure), "")
    assert found.failure_class is failure_class
