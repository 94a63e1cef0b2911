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
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRuntimeError,
    AirflowSkipException,
    ErrorType,
    TaskDeferred,
)
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import (
    CreateHITLDetailPayload,
    ErrorResponse,
    GetHITLDetailResponse,
    UpdateHITLDetail,
)

from corpus_kit import CORPUS
from decision_log_kit import evaluation
from evergreen.contract import DataError, Output, RunIdentity
from evergreen.handover import store_output
from evergreen.judgement.events import Event, EventKind
from evergreen.judgement.evidence import SliceScore
from evergreen.judgement.notices import withdraw
from evergreen.judgement.questions import Answer, read_answer, write_answer
from evergreen.settings import Settings
from evergreen.store import ArtifactStore, get_store, read_manifest, write_manifest
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
    """Stands in for what holds the question: a person may answer it just before it is withdrawn, or it may fail."""

    def __init__(self, *, answered_first: bool = False, failures: int = 0) -> None:
        self.answered_first = answered_first
        self.failures = failures
        self.asked = 0
        self.detail = HITLDetailResponse(response_received=False, responded_at=None, chosen_options=None)

    def send(self, msg: Any) -> HITLDetailResponse:
        assert isinstance(msg, GetHITLDetailResponse | UpdateHITLDetail | CreateHITLDetailPayload), msg
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
EVALUATION = "e1"


def other_said(chosen: str = "Reject", at: datetime | None = NOW, **fields: str) -> None:
    """Leave the answer of the task that asks somebody else, to the same question unless otherwise."""
    run = RunIdentity(dag_id=f"{DECIDED.model}.train", run_id=DECIDED.training, task_id="approve_again")
    fields = {"version": "2", "evaluation": EVALUATION, "by": "bob", "by_id": "8", **fields}
    write_answer(get_store(), run, Answer.model_validate({"chosen": chosen, "at": at, **fields}))


def one_of_two(hours: float = 1) -> ApprovalTrigger:
    return trigger(hours, asked=NOW, others=["approve_again"], version="2", evaluation=EVALUATION)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("late", [0, 3600])  # this one may have had to wait for a worker
@pytest.mark.parametrize(("by", "who"), [("bob", "bob"), ("", "nobody")])
def test_a_no_of_one_approver_withdraws_the_others_question(
    monkeypatch: pytest.MonkeyPatch, by: str, who: str, late: int
) -> None:
    other_said(at=NOW + timedelta(seconds=late), by=by)
    airflow = Airflow()
    event = wait(monkeypatch, airflow, one_of_two())
    assert event["rejected"] == f"{who} answered approve_again with Reject"
    assert "superseded" not in event
    assert (airflow.detail.chosen_options, airflow.detail.responded_by_user) == (["Reject"], None)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    "other",
    [
        None,
        {"chosen": "Approve"},
        {"chosen": "Withdrawn"},
        {"chosen": "", "at": None},
        {"at": NOW - timedelta(seconds=1)},  # before both were cleared
        {"version": "1"},
        {"evaluation": "e2"},
    ],
)
def test_nothing_else_of_the_other_withdraws_a_question(
    monkeypatch: pytest.MonkeyPatch, other: dict[str, Any] | None
) -> None:
    if other is not None:
        other_said(**other)
    assert wait(monkeypatch, Airflow(), one_of_two(hours=1 / 3600))["timedout"]


def test_an_answer_that_cannot_be_read_ends_no_question(settings: Settings) -> None:
    other_said()
    (key,) = get_store().keys("runs/")
    path = Path(settings.artifact_root, key)
    right = path.read_bytes()
    asks = one_of_two()
    for wrong in (b"[]", b'{"chosen": 1}', b"", b'{"schema_version": 99}'):
        path.write_bytes(wrong)
        assert asks._obsolete() == {}
    path.write_bytes(right)
    assert asks._obsolete() == {"rejected": "bob answered approve_again with Reject"}


def test_a_trigger_is_rebuilt_as_it_was() -> None:
    path, arguments = one_of_two().serialize()
    assert path == "evergreen_airflow.approval_trigger.ApprovalTrigger"
    again = ApprovalTrigger(**arguments)
    assert (again.model, again.asked, again.others) == (DECIDED.model, NOW, ["approve_again"])
    assert (again.version, again.evaluation) == ("2", EVALUATION)


ABOUT = {"version": "2", "evaluation": EVALUATION, "shown": "digest"}
ASKED = RunIdentity(dag_id=f"{DECIDED.model}.train", run_id=DECIDED.training, task_id="approve")


def complete(event: dict[str, Any], **about: str) -> dict[str, Any]:
    """End a question as the worker does, which the triggerer has told of an event; returns what Airflow is told."""
    given = {"chosen_options": ["Reject"], "params_input": {}, "responded_at": NOW, "responded_by_user": None, **event}
    context: Any = {"ti": SimpleNamespace(run_id=DECIDED.training)}
    told: dict[str, Any] = question().execute_complete(context, given, **about)
    return told


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("event", "answer"),
    [
        (
            {"chosen_options": ["Approve"], "responded_by_user": {"id": "8", "name": "bob"}},
            Answer(chosen="Approve", by="bob", by_id="8", at=NOW, **ABOUT),  # type: ignore[arg-type]
        ),
        ({"timedout": True}, Answer(chosen="Reject", at=NOW, **ABOUT)),  # type: ignore[arg-type]
        ({"rejected": "bob answered approve with Reject"}, Answer(chosen="Withdrawn", at=NOW, **ABOUT)),  # type: ignore[arg-type]
    ],
)
def test_the_answer_is_in_the_store_with_what_it_is_about(event: dict[str, Any], answer: Answer) -> None:
    assert complete(event, **ABOUT)["chosen_options"] == [answer.chosen]
    assert read_answer(get_store(), ASKED) == answer


@pytest.mark.usefixtures("settings")
def test_a_superseded_question_leaves_no_answer() -> None:
    with pytest.raises(AirflowSkipException, match="superseded: version 2 came from newer"):
        complete({"superseded": WHY}, **ABOUT)
    assert read_answer(get_store(), ASKED) is None


@pytest.mark.usefixtures("settings")
def test_what_was_asked_before_answers_told_what_they_are_about_is_about_nothing() -> None:
    complete({"chosen_options": ["Approve"]}, shown="digest")
    answer = read_answer(get_store(), ASKED)
    assert answer
    assert (answer.chosen, answer.version, answer.evaluation) == ("Approve", "", "")


def test_a_notice_that_cannot_be_read_ends_no_question(settings: Settings) -> None:
    (path,) = (Path(settings.artifact_root, key) for key in (obsolete(), *get_store().keys("withdrawn/")) if key)
    right = path.read_bytes()
    path.write_text("{}")
    asks = trigger()
    assert asks._obsolete() == {}
    path.write_bytes(right)
    assert asks._obsolete() == {"superseded": WHY}


def test_a_notice_about_another_challenger_withdraws_nothing(settings: Settings) -> None:
    for field, other in (("training", "another"), ("model", "other"), ("partition", "2013-01-01")):
        fields = {**SUPERSEDED.model_dump(mode="json"), field: other}
        withdraw(get_store(), Event.model_validate(fields))
    assert trigger()._obsolete() == {}


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
    found = evaluation().model_copy(update={"slices": tuple(slices), "pictures": pictures})
    return Evidence(found, "e" * 64, EVALUATE)


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
    assert "![" not in page({"why": ""}, "5", evidence(of_a_newer_version="d" * 64))


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


def leave(*outputs: Output, step: str = "evaluate", **facts: Any) -> None:
    """Leave the manifest of a step."""
    manifest = a_manifest(EVALUATE.sibling(step))
    write_manifest(get_store(), manifest.model_copy(update={"outputs": outputs, "facts": facts}))


EVALUATED = evaluation().model_copy(update={"pictures": {"roc_curve": sha256(b"roc").hexdigest(), "newer": "0" * 64}})


@pytest.fixture
def evaluated(settings: Settings) -> str:
    """Leave an evaluation with a picture; returns the digest that the gate is told."""
    document = left("evaluation", EVALUATED.model_dump_json().encode())
    leave(document, left("roc_curve", b"roc"), left("calibration", b"not of the evaluation"))
    return document.digest


def test_what_is_shown_is_what_the_gate_has_judged(evaluated: str) -> None:
    found = evidence_of(EVALUATE, evaluated)
    assert (found.evaluation, found.pictures) == (EVALUATED, {"roc_curve": sha256(b"roc").hexdigest()})
    assert found.digest.startswith(evaluated)
    for other in ("", "0" * 16):
        with pytest.raises(
            DataError, match=rf"the gate has judged '{other}'\. It was evaluated again since: clear gate"
        ):
            evidence_of(EVALUATE, other)


def test_a_picture_that_was_changed_with_its_manifest_is_not_that_of_the_evaluation(evaluated: str) -> None:
    manifest = read_manifest(get_store(), EVALUATE)
    assert manifest
    forged = left("roc_curve", b"forged")
    leave(manifest.output("evaluation"), forged)
    with pytest.raises(
        DataError, match=rf"SHA-256 {sha256(b'forged').hexdigest()}, and the evaluation says .*: clear ev"
    ):
        evidence_of(EVALUATE, evaluated)


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
    with pytest.raises(DataError, match=r"result.json is gone: nobody can be asked about it. Clear evaluate."):
        evidence_of(EVALUATE, "")


GATE = {"why": "better", "checks": CHECKS}
APPROVE = EVALUATE.sibling("approve")


def ask(monkeypatch: pytest.MonkeyPatch, digest: str) -> tuple[str, TaskDeferred]:
    """Ask, as the worker does; returns the text that Airflow was given, and what it waits for."""
    asked: dict[str, str] = {}

    class Asked(Airflow):
        def send(self, msg: Any) -> HITLDetailResponse:
            asked["body"] = getattr(msg, "body", "")
            return super().send(msg)

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Asked(), raising=False)
    leave(step="gate", **GATE, evaluation_digest=digest)
    leave(step="register", version="5")
    ti = SimpleNamespace(id=uuid.uuid4(), run_id=EVALUATE.run_id)  # nobody asks it what other tasks have returned
    run = SimpleNamespace(partition_key=None, start_date=NOW)
    context: Any = {"ti": ti, "task_instance": ti, "dag_run": run, "params": {"partition": "2013-05-31"}}
    with pytest.raises(TaskDeferred) as waits:
        question("raced").execute(context)
    return asked["body"], waits.value


def test_the_question_is_asked_with_that_page(evaluated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body, waits = ask(monkeypatch, evaluated)
    assert body == page(GATE, "5", evidence_of(EVALUATE, evaluated))
    shown = sha256(f"Promote?\n\n{body}".encode()).hexdigest()
    assert waits.kwargs == {"version": "5", "evaluation": evaluated, "shown": shown}
    assert isinstance(waits.trigger, ApprovalTrigger)
    assert (waits.trigger.version, waits.trigger.evaluation, waits.trigger.asked) == ("5", evaluated, NOW)


def test_what_was_answered_before_counts_no_more_once_it_is_asked_again(
    evaluated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_answer(get_store(), APPROVE, Answer(version="5", evaluation=evaluated, chosen="Approve", by="ada", by_id="7"))
    _, waits = ask(monkeypatch, evaluated)
    assert waits.kwargs
    assert read_answer(get_store(), APPROVE) == Answer(**waits.kwargs)
    assert not Answer(**waits.kwargs).chosen


@pytest.mark.usefixtures("evaluated")
def test_and_not_asked_again_and_again_when_there_is_nothing_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowFailException, match="It was evaluated again since: clear gate"):
        ask(monkeypatch, "0" * 16)
