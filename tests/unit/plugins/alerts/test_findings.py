"""Which ends of which tasks are told, in which words; every one has a twin that is not."""

from __future__ import annotations

from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from alerts_kit import model
from evergreen.contract import Manifest, RunIdentity, Status, Window, utc_now
from evergreen.judgement.audit import append
from evergreen.judgement.events import Event, Judgement
from evergreen.judgement.evidence import Candidate, Decision, Evaluation
from evergreen.settings import Settings
from evergreen.spec import AlertEvent
from evergreen.store import get_store, write_manifest
from evergreen_airflow.alerts.findings import approval_waits, found_in, result_of, task_failed
from operator_kit import task_context

DAY = date(2013, 5, 31)


def manifest(step: str, run_id: str = "r", status: str = "ok", **facts: Any) -> Manifest:
    return Manifest(
        step=step,
        model="tiny",
        window=Window(start=DAY, end=DAY),
        run=RunIdentity(dag_id="tiny.train", run_id=run_id, task_id=step),
        attempt="1",
        status=Status(status),
        reason="" if status == "ok" else "no",
        facts=facts,
        code_version="c",
        config_digest="0" * 16,
        started=utc_now(),
        finished=utc_now(),
    )


@pytest.mark.parametrize(
    ("left", "event", "matter", "says"),
    [
        (
            manifest("check_drift", verdict="drift", report_id="d-1", why="4 of 11 columns drifted"),
            *(AlertEvent.DRIFT, "d-1", "the inputs of 2013-05-31: 4 of 11 columns drifted"),
        ),
        (
            manifest("check_performance", proposal=True, report_id="p-1", why="auc of version 3: 0.61"),
            *(AlertEvent.PERFORMANCE_DROP, "p-1", "the champion has become worse: auc of version 3: 0.61"),
        ),
        (
            manifest("promote", version="7", previous=None),
            *(AlertEvent.PROMOTION, "r 7", "version 7 is champion now; before it: none"),
        ),
        (
            manifest("rollback", version="6", previous="7", by="ada", why="bad in Newark"),
            *(AlertEvent.ROLLBACK, "r", "version 6 serves again in the place of 7: bad in Newark (by ada)"),
        ),
        (
            manifest("rollback", version="6", by="ada", why="{version} } {", new="a fact of a newer version"),
            *(AlertEvent.ROLLBACK, "r", "version 6 serves again in the place of unknown: {version} } { (by ada)"),
        ),
    ],
)
def test_what_is_told(left: Manifest, event: AlertEvent, matter: str, says: str) -> None:
    assert found_in(left) == (event, matter, says)


@pytest.mark.parametrize(
    "left",
    [
        manifest("check_drift", verdict="stable", report_id="d-1"),
        manifest("check_drift", verdict="insufficient", report_id="d-1"),
        manifest("check_performance", proposal=False, report_id="p-1"),
        manifest("check_performance", status="skipped", proposal=False),
        manifest("gate", decision="promote"),
        manifest("promote", status="refused", version="7"),
        manifest("promote", status="skipped"),
        manifest("train"),
    ],
    ids=lambda left: f"{left.step}-{left.status}",
)
def test_what_is_not(left: Manifest) -> None:
    assert found_in(left) is None


def _decide(run_id: str, decision: Decision) -> Manifest:
    """Log a decision as the gate does; returns the gate's manifest."""
    window = Window(start=DAY, end=DAY)
    evaluation = Evaluation(
        model="tiny",
        metric="auc",
        window=window,
        rows=9,
        dataset="d",
        challenger=Candidate(run_id=run_id, training=window, metrics={"auc": 0.75}),
        confidence=0.95,
    )
    judgement = Judgement(
        decision=decision, why="w", requested_by="x", evaluation=evaluation, config_digest="c", code_version="v"
    )
    run = RunIdentity(dag_id="tiny.train", run_id=run_id, task_id="gate")
    about = {"kind": "decided", "model": "tiny", "at": datetime(2013, 6, 1, tzinfo=UTC), "run": run, "partition": DAY}
    append(get_store(), Event.model_validate({**about, "training": run_id, "judgement": judgement}))
    return manifest("gate", run_id, "ok" if decision.passed else "refused", why="not better beyond noise")


def test_refusals_are_told_from_the_second_in_a_row_on(settings: Settings) -> None:
    no, yes = Decision.NOT_JUSTIFIED, Decision.PROMOTE
    first = _decide("a", no)
    assert found_in(first) is None
    second, third = _decide("b", no), _decide("c", no)
    told, again = found_in(second), found_in(third)
    assert told is not None
    assert again is not None
    assert told.event is AlertEvent.GATE_REFUSED
    assert told.matter == again.matter, "one row of refusals is one matter"
    assert "at least two challengers in a row, that of 2013-05-31 because: not better beyond noise" in told.what
    assert found_in(_decide("d", yes)) is None
    assert found_in(_decide("e", no)) is None, "a challenger has passed in between"
    other = found_in(_decide("f", no))
    assert other is not None
    assert other.matter != told.matter
    assert found_in(first) is None, "a gate that is cleared ends the same row as before"


def test_a_refusal_that_the_log_does_not_know_is_not_told(settings: Settings) -> None:
    _decide("a", Decision.NOT_JUSTIFIED)
    assert found_in(manifest("gate", "elsewhere", "refused", why="w")) is None


def test_a_task_s_manifest_is_what_counts(settings: Settings) -> None:
    context: Any = task_context(task_id="promote", run_id="r")
    context["ti"].dag_id = "tiny.train"
    assert result_of(context, model()) is None, "there is none yet"
    write_manifest(get_store(), manifest("promote", version="7", previous="6"))
    found = result_of(context, model())
    assert found is not None
    assert found.event is AlertEvent.PROMOTION


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ({"exception": ValueError("No rows.")}, "tiny.ingest, run manual__2013-03-02: ingest failed: No rows."),
        ({}, "ingest failed: it was ended from outside, or its worker died"),
    ],
)
def test_a_failure_says_why(error: dict[str, Any], says: str) -> None:
    context: Any = {**task_context(), **error}
    found = task_failed(context, model())
    assert found.event is AlertEvent.TASK_FAILED
    assert says in found.what
    assert found.matter == task_failed(context, model()).matter


def test_a_question_says_until_when() -> None:
    context: Any = {**task_context(), "ti": SimpleNamespace(run_id="drift__1")}
    found = approval_waits(context, model(approval={"required": True, "timeout_hours": 0.5}))
    assert found.matter == "drift__1"
    assert "the challenger of 2013-03-01 has passed the gate" in found.what
    assert "within 0.5 hours" in found.what
