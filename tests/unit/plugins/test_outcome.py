"""How a step's end becomes a task's end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from evergreen.contract import ConfigurationError, FailureClass, Manifest, RunIdentity, Status, Window
from evergreen.store import LocalStore
from evergreen_airflow.attempts import Attempts
from evergreen_airflow.ending import Ending
from evergreen_airflow.outcome import (
    StepFailed,
    accept,
    airflow_error,
    read_task_manifest,
    xcom_value,
)
from operator_kit import task_context

RUN = RunIdentity(dag_id="d", run_id="r", task_id="t")
EXPECTED = {"attempt": "1-a", "model": "tiny", "step": "ingest"}


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "step": "ingest",
        "model": "tiny",
        "window": Window.model_validate({"start": "2013-03-01", "end": "2013-03-01"}),
        "run": RUN,
        "attempt": "1-a",
        "status": "ok",
        "code_version": "1",
        "config_digest": "2",
        "started": "2013-03-02T00:00:00Z",
        "finished": "2013-03-02T00:00:01Z",
    }
    return Manifest.model_validate({**fields, **changes})


def refusal(found: Manifest | None, ending: Ending) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        accept(found, ending, **EXPECTED)
    return caught.value


def test_answer_is_accepted_even_when_the_pod_is_gone() -> None:
    assert accept(manifest(), Ending(0), **EXPECTED) == manifest()
    assert accept(manifest(), Ending(None, "its pod is gone"), **EXPECTED) == manifest()


@pytest.mark.parametrize(
    ("found", "ending", "expected", "message"),
    [
        (None, Ending(0), FailureClass.BUG, "ended with exit code 0 but left no manifest"),
        (manifest(attempt="0-z"), Ending(0), FailureClass.BUG, "only the manifest of another attempt, 0-z"),
        (manifest(model="other"), Ending(0), FailureClass.BUG, "is of step ingest of other, not of ingest of tiny"),
        (manifest(step="train"), Ending(0), FailureClass.BUG, "is of step train of tiny"),
        (None, Ending(None, "its pod is gone"), FailureClass.TEMPORARY, "ended (its pod is gone) and left no manifest"),
        (None, Ending(65, "error: no rows"), FailureClass.DATA, "exit code 65 (error: no rows)"),
        (None, Ending(78), FailureClass.CONFIGURATION, "exit code 78"),
        (None, Ending(75), FailureClass.TEMPORARY, "exit code 75"),
        (None, Ending(70), FailureClass.BUG, "exit code 70"),
        (None, Ending(1), FailureClass.BUG, "exit code 1"),
        (None, Ending(137), FailureClass.OUT_OF_MEMORY, "exit code 137"),
        (None, Ending(143), FailureClass.TEMPORARY, "exit code 143"),
        (None, Ending(139), FailureClass.TEMPORARY, "exit code 139, SIGSEGV and left no manifest"),
        (None, Ending(-11), FailureClass.TEMPORARY, "exit code -11, SIGSEGV"),
        (None, Ending(135), FailureClass.TEMPORARY, "SIGBUS"),
        (None, Ending(134), FailureClass.TEMPORARY, "SIGABRT"),
        (None, Ending(132), FailureClass.TEMPORARY, "SIGILL"),
        (None, Ending(136), FailureClass.BUG, "exit code 136"),  # SIGFPE: the same sum fails again
        (None, Ending(127), FailureClass.CONFIGURATION, "exit code 127"),
        (None, Ending(137, "Evicted", FailureClass.TEMPORARY), FailureClass.TEMPORARY, "Evicted"),
        (manifest(), Ending(139), FailureClass.TEMPORARY, "stored its result, then ended with exit code 139"),
        (manifest(), Ending(137), FailureClass.OUT_OF_MEMORY, "stored its result, then"),
    ],
)
def test_everything_else_is_a_failure(
    found: Manifest | None, ending: Ending, expected: FailureClass, message: str
) -> None:
    error = refusal(found, ending)
    assert error.failure_class is expected
    assert message in error.message


@pytest.mark.parametrize("failure_class", list(FailureClass))
def test_reported_failure_keeps_class_message_and_hint(failure_class: FailureClass) -> None:
    failure = {"failure_class": failure_class, "message": "It broke.", "hint": "Mend it."}
    error = refusal(manifest(status="failed", failure=failure), Ending(1))
    assert (error.failure_class, str(error)) == (failure_class, f"{failure_class}: It broke. Mend it.")


@pytest.mark.parametrize(
    ("failure_class", "larger", "retried"),
    [
        (FailureClass.TEMPORARY, False, True),
        (FailureClass.OUT_OF_MEMORY, True, True),
        (FailureClass.OUT_OF_MEMORY, False, False),
        (FailureClass.DATA, True, False),
        (FailureClass.CONFIGURATION, True, False),
        (FailureClass.BUG, True, False),
    ],
)
def test_airflow_retries_what_a_retry_can_help(failure_class: FailureClass, larger: bool, retried: bool) -> None:
    error = airflow_error(StepFailed(failure_class, "It broke."), larger_profile_left=larger)
    assert isinstance(error, AirflowException)
    assert isinstance(error, AirflowFailException) is not retried
    assert str(error).startswith("It broke.")


@pytest.mark.parametrize(
    ("failure_class", "crash", "crashed_before", "retried"),
    [
        (FailureClass.TEMPORARY, "SIGSEGV", False, True),
        (FailureClass.TEMPORARY, "SIGSEGV", True, False),
        (FailureClass.TEMPORARY, "", True, True),
        (FailureClass.DATA, "SIGSEGV", False, False),
        (FailureClass.BUG, "SIGSEGV", False, False),
    ],
)
def test_a_crash_is_tried_once_more(
    failure_class: FailureClass, crash: str, crashed_before: bool, retried: bool
) -> None:
    error = airflow_error(StepFailed(failure_class, "It broke."), crash=crash, crashed_before=crashed_before)
    assert isinstance(error, AirflowFailException) is not retried


def test_xcom_cannot_lose_the_status() -> None:
    value = xcom_value(manifest(status="refused", reason="no", facts={"rows": 3, "status": "x"}, metrics={"auc": 0.5}))
    assert value == {"rows": 3, "auc": 0.5, "status": "refused", "reason": "no"}


def test_attempts_are_remembered(tmp_path: Path) -> None:
    attempts = Attempts(LocalStore(tmp_path), RUN)
    assert not attempts.ran_out_of_memory()
    attempts.record(1, "1-a", "small", StepFailed(FailureClass.TEMPORARY, "no answer"))
    assert not attempts.ran_out_of_memory()
    attempts.record(2, "2-b", "small", StepFailed(FailureClass.OUT_OF_MEMORY, "too much"))
    assert attempts.ran_out_of_memory()
    assert not attempts.crashed()
    attempts.record(3, "3-c", "small", StepFailed(FailureClass.TEMPORARY, "it crashed"), "SIGSEGV")
    assert attempts.crashed()
    assert json.loads((tmp_path / "runs/d/r/t/attempts/2.json").read_text())["schema_version"] == 2


@pytest.mark.parametrize("later", [{"node": "n1"}, {"failure_class": "preempted"}, {"schema_version": 3}])
def test_the_record_of_an_attempt_that_a_newer_airflow_left_is_read_as_far_as_it_can_be(
    tmp_path: Path, later: dict[str, Any]
) -> None:
    attempts = Attempts(LocalStore(tmp_path), RUN)
    attempts.record(1, "1-a", "small", StepFailed(FailureClass.OUT_OF_MEMORY, "too much"), "SIGSEGV")
    key = f"{RUN.key}/attempts/1.json"
    attempts.store.write(key, json.dumps({**json.loads(attempts.store.read(key) or b""), **later}).encode())
    assert attempts.ran_out_of_memory() is ("node" in later)
    assert attempts.crashed() is ("schema_version" not in later)


@pytest.mark.parametrize("content", [b"{", b"[]", b"1", b"{}", b"\xff"])
def test_a_damaged_record_of_an_attempt_hides_no_failure(tmp_path: Path, content: bytes) -> None:
    attempts = Attempts(LocalStore(tmp_path), RUN)
    attempts.store.write(f"{RUN.key}/attempts/1.json", content)
    assert not attempts.ran_out_of_memory()
    attempts.record(2, "2-b", "small", StepFailed(FailureClass.OUT_OF_MEMORY, "too much"))
    assert attempts.ran_out_of_memory()


def test_an_ending_told_by_a_triggerer_of_another_version_is_understood() -> None:
    told = Ending(139, "in getenv", FailureClass.TEMPORARY).as_dict()
    assert Ending.from_dict({**told, "node": "n1"}) == Ending(139, "in getenv", FailureClass.TEMPORARY)
    assert Ending.from_dict({"exit_code": 0}) == Ending(0)


def test_unreadable_manifest_is_the_steps_defect(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write(f"{RUN.key}/result.json", b"{}")
    with pytest.raises(StepFailed, match="not a valid manifest") as caught:
        read_task_manifest(store, RUN)
    assert caught.value.failure_class is FailureClass.BUG


def test_context_stand_in_has_what_airflows_has() -> None:
    """The contexts of these tests are stand-ins; every name must be one of the real one's."""
    from airflow.sdk import Context
    from airflow.sdk.api.datamodels._generated import DagRun
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    context = task_context()
    assert set(context) <= set(Context.__annotations__)
    assert set(vars(context["dag_run"])) <= set(DagRun.model_fields)
    ti = set(vars(context["ti"])) - {"pushed"}
    assert {name for name in ti if name not in RuntimeTaskInstance.model_fields} == {"xcom_pull", "xcom_push"}
    assert callable(RuntimeTaskInstance.xcom_push)
    assert callable(RuntimeTaskInstance.xcom_pull)


class Later:
    """A step image that is a version ahead of Airflow: it writes what this code has never heard of."""

    def __init__(self, store: LocalStore) -> None:
        self.store = store

    def leave(self, **changes: Any) -> None:
        content = json.loads(manifest().model_dump_json())
        output = {"name": "raw", "uri": "x", "version": "1", "signature": "s"}
        content |= {"carbon": {"grams": 3}, "outputs": [output], **changes}
        self.store.write(f"{RUN.key}/result.json", json.dumps(content).encode())

    def accepted(self, exit_code: int = 0) -> Manifest:
        found = read_task_manifest(self.store, RUN)
        return accept(found, Ending(exit_code), **EXPECTED)


def test_what_a_newer_step_image_adds_does_not_matter(tmp_path: Path) -> None:
    later = Later(LocalStore(tmp_path))
    later.leave(run={**RUN.model_dump(), "cluster": "west"})
    accepted = later.accepted()
    assert accepted.status is Status.OK
    assert accepted.outputs[0].version == "1"
    assert xcom_value(accepted)["status"] == "ok"


def test_a_status_that_airflow_does_not_know_is_no_success(tmp_path: Path) -> None:
    later = Later(LocalStore(tmp_path))
    later.leave(status="held")
    with pytest.raises(ConfigurationError, match=r"status: 'held' is none of ok, refused.*Update Evergreen") as caught:
        later.accepted()
    assert isinstance(airflow_error(caught.value), AirflowFailException)


def test_a_failure_class_that_airflow_does_not_know_is_a_failure_without_a_retry(tmp_path: Path) -> None:
    later = Later(LocalStore(tmp_path))
    failure = {"failure_class": "preempted", "message": "the node went.", "hint": "Wait.", "node": "n1"}
    later.leave(status="failed", failure=failure)
    with pytest.raises(StepFailed, match=r"preempted: the node went. Wait. No retry: .*Update its image") as caught:
        later.accepted(exit_code=76)
    assert isinstance(airflow_error(caught.value), AirflowFailException)
    Attempts(later.store, RUN).record(1, "1-a", "small", caught.value)
    assert not Attempts(later.store, RUN).ran_out_of_memory()


def test_a_newer_schema_says_what_to_do(tmp_path: Path) -> None:
    later = Later(LocalStore(tmp_path))
    later.leave(schema_version=99)
    with pytest.raises(ConfigurationError, match=r"result.json: written by a newer version of Evergreen: .*99.*Update"):
        later.accepted()
