"""What a question about a challenger waits for: an answer, or the event that makes it obsolete."""

from __future__ import annotations

import asyncio
import re
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.api.datamodels._generated import HITLDetailResponse, HITLUser
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType, TaskDeferred
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ErrorResponse, GetXCom, UpdateHITLDetail, XComResult
from airflow.sdk.serde import serialize

from corpus_kit import CORPUS
from evergreen.judgement.events import Event, EventKind
from evergreen.judgement.notices import withdraw
from evergreen.settings import Settings
from evergreen.store import ArtifactStore, get_store
from evergreen_airflow.approval import ApprovalQuestion
from evergreen_airflow.approval_page import page
from evergreen_airflow.approval_trigger import ApprovalTrigger

DECIDED = Event.model_validate_json((CORPUS / "v2" / "Event" / "decided.json").read_text())
WHY = "version 2 came from newer"
SUPERSEDED = DECIDED.model_copy(update={"kind": EventKind.SUPERSEDED, "judgement": None, "why": WHY})


def obsolete() -> None:
    """Let a newer challenger supersede the one that is asked about."""
    withdraw(get_store(), SUPERSEDED)


class Airflow:
    """Stands in for what holds the question: a person may answer it just before it is withdrawn, or it may fail.

    What another task has returned is told to those who ask.
    """

    def __init__(self, *, answered_first: bool = False, failures: int = 0, other: dict[str, Any] | None = None) -> None:
        self.answered_first = answered_first
        self.other = other
        self.failures = failures
        self.asked = 0
        self.detail = HITLDetailResponse(response_received=False, responded_at=None, chosen_options=None)

    def send(self, msg: Any) -> HITLDetailResponse | XComResult:
        if isinstance(msg, GetXCom):
            assert (msg.dag_id, msg.run_id) == (f"{DECIDED.model}.train", DECIDED.training)
            told = self.other if msg.task_id == "approve_again" else None
            return XComResult(key=msg.key, value=serialize(told))
        self.asked += 1
        if self.asked <= self.failures:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"message": "away"}))
        if isinstance(msg, UpdateHITLDetail):
            if self.answered_first:
                self._answer(["Approve"], HITLUser(id="7", name="ada"))
                raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 409}))
            self._answer(msg.chosen_options, None)
        return self.detail

    def _answer(self, options: list[str], by: HITLUser | None) -> None:
        self.detail = HITLDetailResponse(
            response_received=True, responded_by_user=by, responded_at=datetime.now(UTC), chosen_options=options
        )


def trigger(hours: float = 1, **fields: Any) -> ApprovalTrigger:
    return ApprovalTrigger(
        model=DECIDED.model,
        training=DECIDED.training,
        partition=DECIDED.partition.isoformat(),
        ti_id=uuid.uuid4(),
        options=["Approve", "Reject"],
        params={},
        defaults=["Reject"],
        timeout_datetime=datetime.now(UTC) + timedelta(hours=hours),
        poke_interval=0.02,
        **fields,
    )


def question() -> ApprovalQuestion:
    return ApprovalQuestion(
        task_id="approve",
        model=DECIDED.model,
        subject="Promote?",
        options=["Approve", "Reject"],
        defaults="Reject",
        response_timeout=timedelta(hours=1),
    )


def wait(monkeypatch: pytest.MonkeyPatch, airflow: Airflow, asks: ApprovalTrigger) -> dict[str, Any]:
    """Run a trigger to its event, as the triggerer does."""
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", airflow, raising=False)

    async def first() -> Any:
        async for event in asks.run():
            return event.payload

    payload: dict[str, Any] = asyncio.run(asyncio.wait_for(first(), 30))
    return payload


def test_a_question_that_is_obsolete_is_withdrawn(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    obsolete()
    airflow = Airflow()
    event = wait(monkeypatch, airflow, trigger())
    assert event["superseded"] == WHY
    assert (airflow.detail.chosen_options, airflow.detail.responded_by_user) == (["Reject"], None)


def test_an_answer_in_the_moment_of_the_withdrawal_is_the_answer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    obsolete()
    event = wait(monkeypatch, Airflow(answered_first=True), trigger())
    assert "superseded" not in event
    assert (event["chosen_options"], event["responded_by_user"]["name"]) == (["Approve"], "ada")


@pytest.mark.usefixtures("settings")
def test_airflow_that_does_not_answer_ends_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    obsolete()
    assert wait(monkeypatch, Airflow(failures=3), trigger())["superseded"]


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
BOB = {"id": "8", "name": "bob"}


def other_said(option: str, at: datetime, by: dict[str, str] | None) -> dict[str, Any]:
    """What the task that asks somebody else has returned."""
    return {"chosen_options": [option], "responded_at": at, "responded_by_user": by, "shown": "d"}


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(("by", "who"), [(BOB, "bob"), (None, "nobody")])
def test_a_no_of_one_approver_withdraws_the_others_question(
    monkeypatch: pytest.MonkeyPatch, by: dict[str, str] | None, who: str
) -> None:
    airflow = Airflow(other=other_said("Reject", NOW, by))
    event = wait(monkeypatch, airflow, trigger(asked=NOW, others=["approve_again"]))
    assert event["rejected"] == f"{who} answered approve_again with Reject"
    assert "superseded" not in event
    assert (airflow.detail.chosen_options, airflow.detail.responded_by_user) == (["Reject"], None)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    "other",
    [
        None,
        other_said("Approve", NOW, BOB),
        other_said("Withdrawn", NOW, None),
        other_said("Reject", NOW - timedelta(seconds=1), BOB),  # before it was cleared
    ],
)
def test_nothing_else_of_the_other_withdraws_a_question(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, Any] | None
) -> None:
    asks = trigger(hours=1 / 3600, asked=NOW, others=["approve_again"])
    assert wait(monkeypatch, Airflow(other=other), asks)["timedout"]


def test_a_trigger_is_rebuilt_as_it_was() -> None:
    path, arguments = trigger(asked=NOW, others=["approve_again"]).serialize()
    assert path == "evergreen_airflow.approval_trigger.ApprovalTrigger"
    again = ApprovalTrigger(**arguments)
    assert (again.model, again.asked, again.others) == (DECIDED.model, NOW, ["approve_again"])


@pytest.mark.parametrize(
    ("event", "chosen"), [({}, ["Reject"]), ({"rejected": "bob answered approve with Reject"}, ["Withdrawn"])]
)
def test_a_question_that_was_withdrawn_ends_with_no_answer(event: dict[str, str], chosen: list[str]) -> None:
    given = {**other_said("Reject", NOW, None), "params_input": {}, **event}
    answer = question().execute_complete({}, given, shown="digest")  # type: ignore[typeddict-item]
    assert (answer["chosen_options"], answer["shown"]) == (chosen, "digest")


def test_a_notice_that_cannot_be_read_ends_no_question(settings: Settings) -> None:
    (path,) = (Path(settings.artifact_root, key) for key in (obsolete(), *get_store().keys("withdrawn/")) if key)
    right = path.read_bytes()
    path.write_text("{}")
    asks = trigger()
    assert asks._superseded() == ""
    path.write_bytes(right)
    assert asks._superseded() == WHY


def test_a_notice_about_another_challenger_withdraws_nothing(settings: Settings) -> None:
    for field, other in (("training", "another"), ("model", "other"), ("partition", "2013-01-01")):
        fields = {**SUPERSEDED.model_dump(mode="json"), field: other}
        withdraw(get_store(), Event.model_validate(fields))
    assert trigger()._superseded() == ""


@pytest.mark.usefixtures("settings")
def test_a_wait_costs_the_store_one_client_and_a_look_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ArtifactStore] = []
    looks: list[str] = []

    def counted() -> ArtifactStore:
        made.append(store := get_store())
        read = store.read
        store.read = lambda key: (looks.append(key), read(key))[1]  # type: ignore[method-assign]
        return store

    monkeypatch.setattr("evergreen_airflow.approval_trigger.get_store", counted)
    monkeypatch.setattr("evergreen_airflow.approval_trigger._LOOK_SECONDS", 0.2)
    assert wait(monkeypatch, Airflow(), trigger(hours=1 / 3600))["timedout"]
    assert len(made) == 1
    assert 2 <= len([key for key in looks if key.startswith("withdrawn/")]) <= 7


ROWS = {"rows": 26261, "verdict": "passed"}
CHECKS = [
    {"rule": "gate.limits", "subject": "auc", "value": 0.6936108530586018, "limit": 0.6, **ROWS},
    {"rule": "gate.slices", "subject": "origin=a|b", "rows": 12, "verdict": "not_judged", "why": "12 rows of 500"},
    {"rule": "windows", "subject": "challenger has not seen the window", **ROWS},
    {"rule": "gate.rules[].maximum", "subject": "ece", "value": 0.08, "limit": 0.05, "verdict": "warning"},
]


def test_who_approves_reads_every_check_and_first_what_has_not_passed() -> None:
    shown = page({"why": "better beyond noise; warnings: above", "checks": CHECKS}, "5")
    assert shown.splitlines() == [
        "better beyond noise; warnings: above",
        "",
        "| verdict | of what | value | limit | rows | asked by |",
        "|---|---|--:|--:|--:|---|",
        "| **not judged** | `origin=a\\|b` |  |  | 12 | `gate.slices` |",
        "| **warning** | `ece` | 0.08 | 0.05 |  | `gate.rules[].maximum` |",
        "| passed | `auc` | 0.693611 | 0.6 | 26261 | `gate.limits` |",
        "| passed | `challenger has not seen the window` |  |  | 26261 | `windows` |",
        "",
        "Version 5 in the registry.",
    ]


@pytest.mark.parametrize("value", ["[here](http://evil)", "<img src=x>", "`code`", "two\nlines", "# a | b"])
def test_a_value_from_the_data_stays_in_its_cell_and_is_no_markup(value: str) -> None:
    (row,) = page({"why": "", "checks": [{"rule": "r", "subject": value, "verdict": "passed"}]}, "5").splitlines()[4:-2]
    cells = re.split(r"(?<!\\)\|", row)
    assert len(cells) == 8
    assert re.fullmatch(r" `[^`]*` ", cells[2])


def test_nor_is_it_in_the_reason() -> None:
    shown = page({"why": "origin=[here](http://evil) <b>: log_loss worse"}, "5")
    assert shown.startswith("origin=\\[here\\](http://evil) \\<b\\>: log\\_loss worse\n")


def test_a_gate_of_before_the_checks_were_listed_has_its_reason() -> None:
    assert page({"why": "better"}, "5") == "better\n\nVersion 5 in the registry."


def test_the_question_is_asked_with_that_page(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Asked(Airflow):
        def send(self, msg: Any) -> HITLDetailResponse | XComResult:
            asked["body"] = getattr(msg, "body", None)
            return super().send(msg)

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Asked(), raising=False)
    told = {"gate": {"why": "better", "checks": CHECKS}, "register": {"version": "5"}}
    ti = SimpleNamespace(id=uuid.uuid4(), run_id="r", xcom_pull=lambda task_ids: told[task_ids])
    day = SimpleNamespace(partition_key=None, conf={"partition": "2013-05-31"}, logical_date=None, run_after=None)
    with pytest.raises(TaskDeferred):
        question().execute({"ti": ti, "task_instance": ti, "dag_run": day, "params": {"partition": "2013-05-31"}})  # type: ignore[typeddict-item]
    assert asked["body"] == page(told["gate"], "5")
