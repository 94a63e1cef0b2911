"""Which ends of which tasks are told, in which words; every one has a twin that is not."""

from __future__ import annotations

from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest

from alerts_kit import model
from evergreen.contract import Manifest, RunIdentity, Status, Window, utc_now
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
            manifest("check_drift", verdict="stable", skew="skewed", skew_why="visits in 20.0%", report_id="d-2"),
            *(AlertEvent.SKEW, "d-2", "the features served to 2013-05-31: visits in 20.0%"),
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


def test_refusals_are_told_from_the_second_in_a_row_on() -> None:
    def refused(*row: str) -> Manifest:
        facts = {"why": "not better beyond noise", "refused_in_a_row": list(row)}
        return manifest("gate", row[-1] if row else "r", "refused", **facts)

    assert found_in(refused("a 2013-05-31")) is None
    told, again = found_in(refused("a 2013-05-31", "b 2013-05-31")), found_in(refused("a 2013-05-31", "b", "c"))
    assert told is not None
    assert again is not None
    assert told.event is AlertEvent.GATE_REFUSED
    assert told.matter == again.matter, "one row of refusals is one matter"
    assert "at least two challengers in a row, that of 2013-05-31 because: not better beyond noise" in told.what
    other = found_in(refused("e 2013-05-31", "f 2013-05-31"))
    assert other is not None
    assert other.matter != told.matter
    assert found_in(manifest("gate", "elsewhere", "refused", why="w")) is None, "a gate of before says nothing of it"


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
    assert "waits for a person's answer within 0.5 hours" in found.what
    of_two = approval_waits(context, model(approval={"required": True, "approvers": 2}))
    assert "waits for the answers of two people within 72 hours" in of_two.what
    assert of_two.matter == found.matter
