"""What people have answered, as ``promote`` finds it in the artifact store."""

from __future__ import annotations

from pathlib import Path

import pytest

from decision_log_kit import decided, event
from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError, Output, Request, RunIdentity, Window
from evergreen.judgement.answers import about_another, answers_given
from evergreen.judgement.decisions import DecisionRecord, fold
from evergreen.judgement.events import Event
from evergreen.judgement.questions import Answer, questions_of, write_answer
from evergreen.settings import Settings
from evergreen.spec import ModelSpec
from evergreen.store import get_store

RUN = RunIdentity(dag_id="flight_delay.train", run_id="asked", task_id="promote")
WINDOW = Window.model_validate({"start": "2013-05-31", "end": "2013-05-31"})
YES = Answer(version="2", evaluation="e1", chosen="Approve", by="ada", by_id="7")
"""To the question about version 2 and the evaluation e1."""


def asks(people: int) -> ModelSpec:
    """Return a model that asks so many people."""
    spec = load_model("flight_delay")
    rule = {"required": people > 0, "approvers": max(people, 1)}
    return spec.model_copy(update={"approval": spec.approval.model_copy(update=rule)})


def given(people: int = 2) -> list[Answer]:
    request = Request(
        step="promote", model="flight_delay", window=WINDOW, run=RUN, params={"answers": [YES.model_dump()]}
    )
    return answers_given(request, asks(people))


def leave(task: str, answer: Answer, run: RunIdentity = RUN) -> None:
    write_answer(get_store(), run.sibling(task), answer)


def registered(version: str = "2") -> DecisionRecord:
    """Return a decision about the evaluation e1, whose challenger is registered; a data set has that name too."""
    outputs = [Output(name="evaluation", uri=digest, version=digest, digest=digest) for digest in ("e1", "d1")]
    judged = decided("asked")
    assert judged.judgement
    judgement = judged.judgement.model_copy(update={"evidence": tuple(outputs)})
    events: list[Event] = [judged.model_copy(update={"judgement": judgement})]
    (record,) = fold([*events, event("registered", "asked", version=version)])
    return record


@pytest.mark.parametrize(("people", "tasks"), [(0, ()), (1, ("approve",)), (2, ("approve", "approve_again"))])
def test_as_many_are_asked_as_the_model_says(people: int, tasks: tuple[str, ...]) -> None:
    assert questions_of(asks(people)) == tasks


@pytest.mark.usefixtures("settings")
def test_the_answers_are_those_of_the_run_in_the_order_of_the_questions() -> None:
    no = YES.model_copy(update={"chosen": "Reject"})
    leave("approve_again", no)
    leave("approve", YES)
    assert given() == [YES, no]
    assert given(1) == [YES]
    assert given(0) == []


@pytest.mark.usefixtures("settings")
def test_a_task_that_was_marked_as_a_success_has_not_answered() -> None:
    leave("approve", YES)
    leave("approve_again", YES, RUN.model_copy(update={"run_id": "another"}))
    with pytest.raises(ConfigurationError, match="approvers: nobody has answered approve_again about this promotion"):
        given()
    leave("approve_again", Answer(version="2", evaluation="e1"))  # it was asked
    with pytest.raises(ConfigurationError, match="nobody has answered approve_again") as caught:
        given()
    assert "Clear approve_again and answer it" in caught.value.hint
    leave("approve_again", YES)
    assert given() == [YES, YES]


def test_what_is_no_answer_is_said(settings: Settings) -> None:
    leave("approve", YES)
    (key,) = get_store().keys(f"{RUN.sibling('approve').key}/")
    Path(settings.artifact_root, key).write_text('{"chosen": ["Approve"]}')
    with pytest.raises(ConfigurationError, match=r"approve/answer.json: not an answer: chosen: ") as caught:
        given(1)
    assert caught.value.hint == "Clear approve: it then asks again."


def test_an_answer_is_to_the_version_and_the_evaluation_that_were_shown() -> None:
    assert about_another([YES, YES], registered(), "2") == ""


@pytest.mark.parametrize(
    ("changed", "record", "version", "why"),
    [
        ({"version": "3"}, registered(), "2", "approve_again was answered about version 3: clear approve_again"),
        ({}, registered("4"), "4", "approve was answered about version 2: clear approve"),
        ({}, registered("4"), "2", "approve was answered about version 2: clear approve"),
        ({}, registered(), "4", "approve was answered about version 2: clear approve"),
        ({"evaluation": "e2"}, registered(), "2", "approve_again was answered about the evaluation e2, and e1 was"),
        ({"evaluation": "d1"}, registered(), "2", "approve_again was answered about the evaluation d1, and e1 was"),
        ({"evaluation": ""}, registered(), "2", "approve_again was answered about the evaluation unknown, and e1 was"),
    ],
)
def test_and_to_no_other(changed: dict[str, str], record: DecisionRecord, version: str, why: str) -> None:
    assert about_another([YES, YES.model_copy(update=changed)], record, version).startswith(why)
