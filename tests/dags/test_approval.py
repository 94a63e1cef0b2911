"""What a question about a challenger waits for: an answer, or the event that makes it obsolete."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.api.datamodels._generated import HITLDetailResponse, HITLUser
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, ErrorType, TaskDeferred
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ErrorResponse, GetXCom, UpdateHITLDetail, XComResult
from airflow.sdk.serde import serialize

from corpus_kit import CORPUS
from decision_log_kit import evaluation
from evergreen.contract import DataError, Output, RunIdentity
from evergreen.handover import store_output
from evergreen.judgement.events import Event, EventKind
from evergreen.judgement.evidence import SliceScore
from evergreen.judgement.notices import withdraw
from evergreen.settings import Settings
from evergreen.store import ArtifactStore, get_store, write_manifest
from evergreen_airflow.approval import ApprovalQuestion
from evergreen_airflow.approval_evidence import Evidence, evidence_of
from evergreen_airflow.approval_page import page
from evergreen_airflow.approval_trigger import ApprovalTrigger
from manifest_kit import a_manifest

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


def question(model: str = DECIDED.model) -> ApprovalQuestion:
    return ApprovalQuestion(
        task_id="approve",
        model=model,
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


EVALUATE = RunIdentity(dag_id="raced.train", run_id="manual__2026-01-01T00:00:00+00:00 (again)", task_id="evaluate")


def evidence(slices: Sequence[SliceScore] = (), **pictures: str) -> Evidence:
    found = evaluation().model_copy(update={"slices": tuple(slices)})
    return Evidence(found, "e" * 64, EVALUATE, pictures)


def part(value: str, improvement: float | None, column: str = "origin") -> SliceScore:
    bounds = {} if improvement is None else {"low": improvement - 0.01, "high": improvement + 0.01}
    scores = {"champion": 0.7, "challenger": None if improvement is None else 0.7 + improvement}
    return SliceScore(column=column, value=value, rows=900, improvement=improvement, **scores, **bounds)


def test_who_approves_reads_every_check_and_first_what_has_not_passed() -> None:
    shown = page({"why": "better beyond noise; warnings: above", "checks": CHECKS}, "5", evidence())
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
        f"Version 5 in the registry. Its evaluation has the SHA-256 `{'e' * 64}`.",
    ]


def test_and_the_slices_the_worst_first() -> None:
    shown = page({"why": ""}, "5", evidence([part("EWR", 0.02), part("JFK", None), part("LGA", -0.05)]))
    assert shown.splitlines()[2:8] == [
        "**auc by slice, the worst first; above 0 the challenger is better**",
        "",
        "| slice | rows | champion | challenger | improvement | interval |",
        "|---|--:|--:|--:|--:|---|",
        "| `origin=LGA` | 900 | 0.7000 | 0.6500 | -0.0500 | -0.0600 to -0.0400 |",
        "| `origin=EWR` | 900 | 0.7000 | 0.7200 | +0.0200 | +0.0100 to +0.0300 |",
    ]
    assert "| `origin=JFK` | 900 | 0.7000 |  |  |  |" in shown
    assert "more in" not in shown
    alone = evaluation(None).model_copy(update={"slices": (part("JFK", None),)})
    first = page({"why": ""}, "1", Evidence(alone, "e" * 64, EVALUATE))
    assert "**auc by slice, there is no champion yet**" in first


def test_many_slices_are_counted_and_the_worst_of_them_shown() -> None:
    shown = page({"why": ""}, "5", evidence([part(f"{number:02}", number / 100) for number in range(23, 0, -1)]))
    assert [f"`origin={number:02}`" in shown for number in (1, 20, 21, 23)] == [True, True, False, False]
    assert "3 more in `evaluation.json`." in shown


def test_and_the_pictures_each_by_an_address_that_names_its_content() -> None:
    shown = page({"why": ""}, "5", evidence(roc_curve="a" * 64, calibration="b" * 64, metric_by_day="c" * 64))
    where = "evergreen/evaluations/raced.train/roc_curve?run_id=manual__2026-01-01T00%3A00%3A00%2B00%3A00%20%28again%29"
    address = f"{where}&sha256={'a' * 64}"
    assert f"[![ROC curve]({address})]({address})" in shown
    assert [line.count("[![") for line in shown.splitlines() if line.startswith("| [![")] == [2, 1]
    assert "![" not in page({"why": ""}, "5", evidence())


@pytest.mark.parametrize("value", ["[here](http://evil)", "<img src=x>", "`code`", "two\nlines", "# a | b", "![i](x)"])
def test_a_value_from_the_data_stays_in_its_cell_and_is_no_markup(value: str) -> None:
    checked = {"why": "", "checks": [{"rule": "r", "subject": value, "verdict": "passed"}]}
    lines = page(checked, "5", evidence([part(value, 0.1)])).splitlines()
    for (row,), place in (([lines[4]], 2), ([lines[10]], 1)):
        cells = re.split(r"(?<!\\)\|", row)
        assert len(cells) == 8
        assert re.fullmatch(r" `[^`]*` ", cells[place])


def test_nor_is_it_in_the_reason() -> None:
    shown = page({"why": "origin=[here](http://evil) <b>: log_loss worse"}, "5", evidence())
    assert shown.startswith("origin=\\[here\\](http://evil) \\<b\\>: log\\_loss worse\n")


def test_a_gate_of_before_the_checks_were_listed_has_its_reason() -> None:
    shown = page({"why": "better"}, "5", evidence())
    assert shown == f"better\n\nVersion 5 in the registry. Its evaluation has the SHA-256 `{'e' * 64}`."


def left(name: str, content: bytes) -> Output:
    return store_output(name, f"{EVALUATE.key}/{name}", content, rows=1)


def leave(*outputs: Output) -> None:
    """Leave the manifest of an evaluation."""
    write_manifest(get_store(), a_manifest(EVALUATE).model_copy(update={"outputs": outputs}))


@pytest.fixture
def evaluated(settings: Settings) -> str:
    """Leave an evaluation with a picture; returns the digest that the gate is told."""
    document = left("evaluation", evaluation().model_dump_json().encode())
    leave(document, left("roc_curve", b"roc"), left("something_else", b"of a newer version"))
    return document.digest


def test_what_is_shown_is_what_the_gate_has_judged(evaluated: str) -> None:
    found = evidence_of(EVALUATE, evaluated)
    assert (found.evaluation, found.pictures) == (evaluation(), {"roc_curve": sha256(b"roc").hexdigest()})
    assert found.digest.startswith(evaluated)
    assert evidence_of(EVALUATE, "") == found, "a gate of before it told one"
    with pytest.raises(DataError, match=r"the gate has judged '0{16}'\. It was evaluated again since: clear gate"):
        evidence_of(EVALUATE, "0" * 16)


@pytest.mark.parametrize("name", ["evaluation", "roc_curve"])
@pytest.mark.parametrize(("content", "said"), [(b"forged", "digest is "), (None, "the file is gone")])
def test_nothing_is_shown_that_was_changed_since(
    settings: Settings, evaluated: str, name: str, content: bytes | None, said: str
) -> None:
    path = Path(settings.artifact_root, EVALUATE.key, name)
    path.unlink()
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        evidence_of(EVALUATE, evaluated)


def test_without_an_evaluation_nobody_is_asked(settings: Settings) -> None:
    with pytest.raises(DataError, match=r"result.json is gone: nobody can be shown the evaluation. Clear evaluate."):
        evidence_of(EVALUATE, "")


def ask(monkeypatch: pytest.MonkeyPatch, digest: str) -> tuple[dict[str, Any], str | None]:
    """Ask, as the worker does; returns what the gate has told, and the text that Airflow was given."""
    asked: dict[str, str | None] = {}

    class Asked(Airflow):
        def send(self, msg: Any) -> HITLDetailResponse | XComResult:
            asked["body"] = getattr(msg, "body", None)
            return super().send(msg)

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Asked(), raising=False)
    told = {"gate": {"why": "better", "checks": CHECKS, "evaluation_digest": digest}, "register": {"version": "5"}}
    ti = SimpleNamespace(id=uuid.uuid4(), run_id=EVALUATE.run_id, xcom_pull=lambda task_ids: told[task_ids])
    day = SimpleNamespace(partition_key=None, conf={"partition": "2013-05-31"}, logical_date=None, run_after=None)
    context: Any = {"ti": ti, "task_instance": ti, "dag_run": day, "params": {"partition": "2013-05-31"}}
    with pytest.raises(TaskDeferred):
        question("raced").execute(context)
    return told["gate"], asked["body"]


def test_the_question_is_asked_with_that_page(evaluated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, body = ask(monkeypatch, evaluated)
    assert body == page(gate, "5", evidence_of(EVALUATE, evaluated))


@pytest.mark.usefixtures("evaluated")
def test_and_not_asked_again_and_again_when_there_is_nothing_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowFailException, match="It was evaluated again since: clear gate"):
        ask(monkeypatch, "0" * 16)
