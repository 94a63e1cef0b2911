"""The contract: identities that never collide, windows that count right, manifests that cannot lie."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from evergreen.contract import (
    EXIT_CODES,
    ConfigurationError,
    DataError,
    Failure,
    FailureClass,
    Manifest,
    Output,
    Result,
    RunIdentity,
    Status,
    StepError,
    TemporaryError,
    Window,
    failure_class_of,
)

PARTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300) | st.sampled_from(
    [".", "..", "a/b", "%2E", "~", "manual__2013-03-01T00:00:00+00:00", "x" * 300]
)
DAYS = st.dates(min_value=date(2000, 1, 1), max_value=date(2100, 1, 1))


def a_manifest(**changes: object) -> Manifest:
    now = datetime(2013, 3, 2, 6, tzinfo=UTC)
    fields: dict[str, object] = {
        "step": "ingest",
        "model": "demo",
        "window": Window(start=date(2013, 3, 1), end=date(2013, 3, 1)),
        "run": RunIdentity(dag_id="demo.ingest", run_id="one", task_id="ingest"),
        "attempt": "1",
        "status": Status.OK,
        "code_version": "abc",
        "config_digest": "0" * 16,
        "started": now,
        "finished": now,
    }
    return Manifest.model_validate(fields | changes)


@given(st.tuples(PARTS, PARTS, PARTS), st.tuples(PARTS, PARTS, PARTS))
@example(("a", "b/c", "d"), ("a/b", "c", "d"))
@example((".", "..", "x"), ("%2E", "%2E.", "x"))
@example(("x" * 300, "r", "t"), ("x" * 301, "r", "t"))
def test_the_keys_of_different_runs_differ(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    first, second = (RunIdentity(dag_id=dag, run_id=run, task_id=task) for dag, run, task in (one, other))
    assert (first.key == second.key) == (one == other)


@given(PARTS, PARTS, PARTS)
def test_a_key_is_safe_on_every_store(dag: str, run: str, task: str) -> None:
    parts = RunIdentity(dag_id=dag, run_id=run, task_id=task).key.split("/")
    assert len(parts) == 4
    assert parts[0] == "runs"
    for part in parts:
        assert part
        assert not part.startswith(".")
        assert len(part.encode()) <= 255
        assert part.isascii()
        assert part.isprintable()


def test_a_failure_can_be_written_whatever_it_is_about() -> None:
    """PostgreSQL takes no NUL, UTF-8 no half of a character: Airflow's DAG processor died of either, for all models."""
    error = ConfigurationError("b\udcff: a\0b\x1b[2J\tc\nd", "é \0")
    assert str(error) == "b\\udcff: a\\x00b\\x1b[2J\tc\nd é \\x00"
    assert error.args == (error.message,)


def test_an_ordinary_run_keeps_its_readable_key() -> None:
    run = RunIdentity(dag_id="demo.ingest", run_id="scheduled__2013-03-01T06:00:00+00:00", task_id="ingest")
    assert run.key == "runs/demo.ingest/scheduled__2013-03-01T06:00:00+00:00/ingest"
    assert run.sibling("publish").key == "runs/demo.ingest/scheduled__2013-03-01T06:00:00+00:00/publish"


@given(PARTS, PARTS, PARTS)
@example("a/b", "..", "%2F")
@example("x" * 300, "scheduled__2013-03-01T06:00:00+00:00", "=")
def test_an_address_leads_back_to_its_task(dag: str, run: str, task: str) -> None:
    there, here = RunIdentity(dag_id=dag, run_id=run, task_id=task), RunIdentity(dag_id="d", run_id="r", task_id="t")
    assert here.resolve(there.address) == there
    assert there.address.isascii()


def test_a_reference_without_a_slash_is_a_task_of_the_same_run() -> None:
    here = RunIdentity(dag_id="m.train", run_id="r", task_id="gate")
    assert here.resolve("%2F") == here.sibling("%2F")
    for wrong in ("a/b", "a/b/c/d", "a//c", "/"):
        with pytest.raises(ConfigurationError, match=r"names no task\. .*<dag id>/<run id>/<task id>"):
            here.resolve(wrong)


def test_an_identity_has_no_empty_part() -> None:
    with pytest.raises(ValidationError):
        RunIdentity(dag_id="demo", run_id="", task_id="ingest")


@given(DAYS, st.integers(0, 4000))
def test_a_window_counts_both_its_ends(start: date, length: int) -> None:
    end = start + timedelta(days=length)
    assert Window(start=start, end=end).days == length + 1
    if length:
        with pytest.raises(ValidationError, match="after it ends"):
            Window(start=end, end=start)


def test_contract_values_cannot_be_changed_nor_answers_misspelt() -> None:
    window = Window(start=date(2013, 3, 1), end=date(2013, 3, 2))
    with pytest.raises(ValidationError):
        window.start = date(2013, 1, 1)  # type: ignore[misc]
    with pytest.raises(ValidationError, match="reasons"):
        Result.model_validate({"reasons": "none"})


@pytest.mark.parametrize(
    ("error", "code"), [(DataError, 65), (ConfigurationError, 78), (TemporaryError, 75), (StepError, 70)]
)
def test_every_error_has_the_exit_code_of_its_class(error: type[StepError], code: int) -> None:
    assert EXIT_CODES[error.failure_class] == code
    assert failure_class_of(code) is error.failure_class
    assert str(error("What happened.", "What to do.")) == "What happened. What to do."
    assert str(error("What happened.")) == "What happened."


def test_an_unknown_exit_code_is_a_bug_and_137_is_memory() -> None:
    assert failure_class_of(1) is FailureClass.BUG
    assert failure_class_of(137) is FailureClass.OUT_OF_MEMORY
    assert set(EXIT_CODES) == set(FailureClass)


@pytest.mark.parametrize("status", [Status.REFUSED, Status.SKIPPED])
def test_a_no_needs_a_reason(status: Status) -> None:
    with pytest.raises(ValidationError, match="needs a reason"):
        Result.model_validate({"status": status})
    assert Result.model_validate({"status": status, "reason": "because"}).reason == "because"


def test_a_function_cannot_return_a_failure() -> None:
    with pytest.raises(ValidationError):
        Result.model_validate({"status": "failed", "reason": "because"})


def test_a_manifest_fails_exactly_when_it_carries_a_failure() -> None:
    failure = Failure(failure_class=FailureClass.DATA, message="wrong")
    assert a_manifest(status=Status.FAILED, failure=failure).failure == failure
    with pytest.raises(ValidationError, match="exactly when"):
        a_manifest(status=Status.FAILED)
    with pytest.raises(ValidationError, match="exactly when"):
        a_manifest(failure=failure)


def test_a_manifest_survives_its_way_through_json() -> None:
    output = Output(name="raw_flights", uri="file:///x", version="42", rows=3)
    manifest = a_manifest(outputs=(output,), facts={"rows": {"a": 1}}, metrics={"auc": 0.7})
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_a_missing_output_is_a_data_error_that_names_what_there_is() -> None:
    manifest = a_manifest(outputs=(Output(name="raw", uri="file:///x", version="1"),))
    assert manifest.output("raw").version == "1"
    with pytest.raises(DataError, match=r"runs/demo.ingest/one/ingest/result.json: no output 'other' \(it has: raw\)"):
        manifest.output("other")
