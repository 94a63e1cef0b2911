"""The runner: wrong requests write nothing, started steps always leave a manifest with the right class."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evergreen import runner
from evergreen.catalog import load_model
from evergreen.contract import (
    ConfigurationError,
    DataError,
    FailureClass,
    Manifest,
    Output,
    Request,
    Result,
    RunIdentity,
    Status,
    StepError,
    TemporaryError,
    Window,
)
from evergreen.pipelines import STEPS
from evergreen.settings import PROJECT_ROOT, Settings, get_settings
from evergreen.spec import ModelSpec
from evergreen.store import get_store, read_manifest, write_manifest

DAY = Window(start=date(2013, 3, 1), end=date(2013, 3, 1))
RUN = RunIdentity(dag_id="flight_delay.ingest", run_id="one", task_id="ingest")
Step = Callable[[Request, ModelSpec], Any]


@pytest.fixture
def use_step(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Step], None]:
    """Put a function in the place of a step's module."""

    def use(name: str, function: Step) -> None:
        module = ModuleType(f"evergreen.steps.{name}")
        module.run = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return use


def execute(step: str = "ingest", window: Window = DAY, upstream: dict[str, str] | None = None) -> Manifest:
    request = runner.build_request(step, "flight_delay", window, RUN.sibling(step), upstream or {}, {"limit": 3})
    return runner.execute(request)


def written(settings: Settings) -> list[Path]:
    return [path for path in settings.state_dir.rglob("*") if path.is_file()]


def test_a_result_becomes_a_manifest(use_step: Callable[[str, Step], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_ATTEMPT", "2-abc")
    monkeypatch.setenv("EVERGREEN_IMAGE", "evergreen/step:1")
    use_step("ingest", lambda request, spec: Result(facts={"limit": request.params["limit"], "of": spec.name}))
    manifest = execute()
    assert manifest.status is Status.OK
    assert manifest.facts == {"limit": 3, "of": "flight_delay"}
    assert (manifest.attempt, manifest.image) == ("2-abc", "evergreen/step:1")
    assert manifest.started <= manifest.finished
    assert manifest.started.tzinfo is UTC
    assert len(manifest.config_digest) == 16
    assert manifest.code_version
    assert read_manifest(get_store(), RUN) == manifest
    assert runner.exit_code(manifest) == 0


@pytest.mark.parametrize("status", [Status.REFUSED, Status.SKIPPED])
def test_a_no_is_an_answer_and_not_a_failure(use_step: Callable[[str, Step], None], status: Status) -> None:
    use_step("ingest", lambda *_: Result.model_validate({"status": status, "reason": "too little evidence"}))
    manifest = execute()
    assert (manifest.status, manifest.reason) == (status, "too little evidence")
    assert runner.exit_code(manifest) == 0


class OutOfMemoryError(RuntimeError):
    """What torch, Ray and DuckDB each call theirs."""


@pytest.mark.parametrize(
    ("error", "failure_class", "code"),
    [
        (DataError("wrong rows", "look"), FailureClass.DATA, 65),
        (ConfigurationError("wrong field", "change it"), FailureClass.CONFIGURATION, 78),
        (TemporaryError("no answer", "wait"), FailureClass.TEMPORARY, 75),
        (StepError("odd"), FailureClass.BUG, 70),
        (ValueError("odd"), FailureClass.BUG, 70),
        (SystemExit(0), FailureClass.BUG, 70),
        (MemoryError(), FailureClass.OUT_OF_MEMORY, 137),
        (OutOfMemoryError("CUDA out of memory"), FailureClass.OUT_OF_MEMORY, 137),
        (OSError(errno.ENOSPC, "No space left on device"), FailureClass.CONFIGURATION, 78),
        (OSError(errno.EIO, "Input/output error"), FailureClass.BUG, 70),
        (runner.Stopped(), FailureClass.TEMPORARY, 75),
        (KeyboardInterrupt(), FailureClass.TEMPORARY, 75),
        (SystemExit(15), FailureClass.TEMPORARY, 75),
    ],
)
def test_whatever_a_step_raises_leaves_a_manifest_with_its_class(
    use_step: Callable[[str, Step], None], error: BaseException, failure_class: FailureClass, code: int
) -> None:
    def fail(request: Request, spec: ModelSpec) -> Result:
        raise error

    use_step("ingest", fail)
    manifest = execute()
    assert manifest.failure is not None
    assert manifest.failure.failure_class is failure_class
    assert runner.exit_code(manifest) == code
    assert read_manifest(get_store(), RUN) == manifest
    if isinstance(error, StepError):
        assert (manifest.failure.message, manifest.failure.hint) == (error.message, error.hint)


@pytest.mark.parametrize("value", [None, {}, "ok", True])
def test_a_step_that_returns_no_result_is_a_bug(use_step: Callable[[str, Step], None], value: object) -> None:
    use_step("ingest", lambda *_: value)
    manifest = execute()
    assert manifest.failure is not None
    assert manifest.failure.failure_class is FailureClass.BUG
    assert f"returned {type(value).__name__}, not a Result" in manifest.failure.message


def test_an_output_that_the_table_of_steps_does_not_name_is_a_bug(use_step: Callable[[str, Step], None]) -> None:
    def output(name: str) -> Output:
        return Output(name=name, uri="lake://x", version="1")

    use_step("ingest", lambda *_: Result(outputs=(output("raw_flights"),)))
    assert execute().failure is None
    use_step("ingest", lambda *_: Result(outputs=(output("raw_flights"), output("flights"))))
    manifest = execute()
    assert manifest.failure is not None
    assert manifest.failure.failure_class is FailureClass.BUG
    assert "evergreen.steps.ingest.run left flights: not in evergreen/pipelines.py" in manifest.failure.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_refused(use_step: Callable[[str, Step], None], value: float) -> None:
    use_step("ingest", lambda *_: Result(metrics={"auc": value, "brier": 0.1}))
    manifest = execute()
    assert manifest.failure is not None
    assert manifest.failure.message == f"metrics that are not finite: auc={value}."
    assert manifest.metrics == {}


def test_a_second_run_replaces_the_manifest_of_the_first(use_step: Callable[[str, Step], None]) -> None:
    def fail(request: Request, spec: ModelSpec) -> Result:
        raise TemporaryError("no answer")

    use_step("ingest", fail)
    assert execute().status is Status.FAILED
    use_step("ingest", lambda *_: Result())
    execute()
    manifest = read_manifest(get_store(), RUN)
    assert manifest is not None
    assert manifest.status is Status.OK


FUTURE = datetime.now(UTC).date() + timedelta(days=2)


@pytest.mark.parametrize(
    ("step", "model", "day", "error", "expected"),
    [
        ("ingst", "flight_delay", DAY.end, ConfigurationError, "There is no step 'ingst'. Did you mean ingest?"),
        ("fly", "flight_delay", DAY.end, ConfigurationError, "There is no step 'fly'. Steps: ingest, validate"),
        ("ingest", "nope", DAY.end, ConfigurationError, "There is no model 'nope'"),
        ("ingest", "flight_delay", date(2012, 12, 31), DataError, "partition 2012-12-31 is before the first"),
        ("ingest", "flight_delay", FUTURE, DataError, f"partition {FUTURE} is in the future: in UTC it is"),
    ],
)
def test_a_wrong_request_is_refused_and_nothing_is_written(
    settings: Settings, step: str, model: str, day: date, error: type[StepError], expected: str
) -> None:
    window = Window(start=day, end=day)
    with pytest.raises(error) as raised:
        runner.build_request(step, model, window, RUN, {}, {})
    assert expected in str(raised.value)
    if model == "flight_delay" and step == "ingest":  # also when it was not built here
        with pytest.raises(error):
            runner.execute(Request(step=step, model=model, window=window, run=RUN))
    assert written(settings) == []


def test_a_window_longer_than_the_model_allows_is_refused_and_nothing_is_written(settings: Settings) -> None:
    most = load_model("flight_delay").schedule.maximum_backfill_days
    longest = Window(start=date(2013, 1, 1), end=date(2013, 1, 1) + timedelta(days=most - 1))
    assert runner.build_request("ingest", "flight_delay", longest, RUN, {}, {}).window == longest
    longer = Window(start=longest.start, end=longest.end + timedelta(days=1))
    with pytest.raises(ConfigurationError, match=r"2013-01-01..2014-02-05 has 401 days; schedule.maximum_backfill"):
        runner.build_request("ingest", "flight_delay", longer, RUN, {}, {})
    with pytest.raises(ConfigurationError, match=r"allows 400. Take it in parts"):
        runner.execute(Request(step="ingest", model="flight_delay", window=longer, run=RUN))
    assert written(settings) == []


def test_a_wrong_model_yaml_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    shutil.copytree(PROJECT_ROOT / "include/models/flight_delay", tmp_path / "models/flight_delay")
    path = tmp_path / "models/flight_delay/model.yaml"
    path.write_text(path.read_text().replace("epochs: 5", "epochs: none"))
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    get_settings.cache_clear()
    with pytest.raises(ConfigurationError, match=r"training\.epochs"):
        runner.execute(Request(step="ingest", model="flight_delay", window=DAY, run=RUN))
    assert written(settings) == []


def upstream_manifest(settings: Settings, **changes: object) -> Manifest:
    now = datetime.now(UTC)
    fields: dict[str, object] = {
        "step": "ingest",
        "model": "flight_delay",
        "window": DAY,
        "run": RUN,
        "attempt": "1",
        "status": "ok",
        "code_version": "x",
        "config_digest": "x",
        "started": now,
        "finished": now,
    }
    manifest = Manifest.model_validate(fields | changes)
    write_manifest(get_store(), manifest)
    return manifest


def test_upstream_manifests_reach_the_step(settings: Settings, use_step: Callable[[str, Step], None]) -> None:
    ingested = upstream_manifest(settings)
    seen: list[Manifest] = []
    use_step("validate", lambda request, _: seen.append(request.upstream["ingest"]) or Result())
    assert execute("validate", upstream={"ingest": "ingest"}).status is Status.OK
    assert seen == [ingested]


def test_a_manifest_of_another_run_reaches_the_step_by_its_address(
    settings: Settings, use_step: Callable[[str, Step], None]
) -> None:
    other = RunIdentity(dag_id="flight_delay.backfill", run_id="a/b", task_id="ingest")
    ingested = upstream_manifest(settings, run=other)
    seen: list[Manifest] = []
    use_step("validate", lambda request, _: seen.append(request.upstream["ingest"]) or Result())
    assert execute("validate", upstream={"ingest": other.address}).status is Status.OK
    assert seen == [ingested]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "other"}, "model: it is the manifest of other, but this step needs that of flight_delay"),
        ({"step": "publish"}, "step: it is the manifest of publish, but this step needs that of ingest"),
        (
            {"window": Window(start=date(2013, 2, 1), end=date(2013, 2, 1))},
            "partition: it is the manifest of 2013-02-01, but this step needs that of 2013-03-01",
        ),
        (
            {"status": "failed", "failure": {"failure_class": "data", "message": "wrong rows"}},
            "the upstream task failed: wrong rows",
        ),
        (None, "the upstream manifest is missing"),
    ],
)
def test_the_wrong_upstream_is_refused_and_nothing_is_written(
    settings: Settings, changes: dict[str, object] | None, expected: str
) -> None:
    if changes is not None:
        upstream_manifest(settings, **changes)
    before = written(settings)
    with pytest.raises(DataError, match=expected) as raised:
        execute("validate", upstream={"ingest": "ingest"})
    assert str(settings.state_dir / "artifacts/runs/flight_delay.ingest/one/ingest/result.json") in str(raised.value)
    assert written(settings) == before


TOLD = {
    "outputs": [{"name": "raw_flights", "uri": "lake", "version": "4711", "digest": "d", "rows": 3}],
    "inputs": [{"name": "training", "uri": "datasets/x", "version": "v", "digest": "d"}],
    "metrics": {"challenger_auc": 0.71},
    "facts": {
        **{"rebuilt_through": "2013-03-04", "run_id": "abc", "training_start": "2013-01-01", "champion": None},
        **{"decision": "promote", "decision_key": "decision_log/m/000001.json", "rows": {"flights": 3}},
    },
    "reason": "well",
}
"""What a step tells those after it."""
CHANGES = [
    (("facts", "rebuilt_through"), "2013-03-09", "'2013-03-04'"),
    (("facts", "run_id"), "xyz", "'abc'"),
    (("facts", "training_start"), "2012-01-01", "'2013-01-01'"),
    (("facts", "champion"), "7", "None"),
    (("facts", "decision"), "first_champion", "'promote'"),
    (("facts", "decision_key"), None, "'decision_log/m/000001.json'"),
    (("facts", "rows", "flights"), 4, "3"),
    (("facts", "added"), 1, "nothing"),
    (("metrics", "challenger_auc"), 0.99, "0.71"),
    (("inputs", 0, "version"), "w", "'v'"),
    (("outputs", 0, "rows"), 4, "3"),
    (("config_digest",), "y", "'x'"),
    (("code_version",), "y", "'x'"),
    (("params",), {"dry": True}, "nothing"),
    (("status",), "skipped", "'ok'"),
]


def edit(settings: Settings, change: Callable[[Any], object]) -> None:
    """Change the manifest as a person with an editor does."""
    path = settings.state_dir / f"artifacts/{RUN.key}/result.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("place", "value", "before"), CHANGES, ids=lambda value: str(value))
def test_whatever_an_upstream_manifest_says_is_what_its_step_wrote(
    settings: Settings, place: tuple[Any, ...], value: object, before: str
) -> None:
    def change(content: Any) -> None:
        for part in place[:-1]:
            content = content[part]
        content[place[-1]] = value

    upstream_manifest(settings, **TOLD)
    edit(settings, change)
    field = "params.dry" if place == ("params",) else re.sub(r"\.(\d)", r"[\1]", ".".join(map(str, place)))
    with pytest.raises(DataError, match=re.escape(f"{RUN.key}/result.json: {field}: it says ")) as raised:
        execute("validate", upstream={"ingest": "ingest"})
    assert f"but its step wrote {before} (" in raised.value.message
    assert f"/manifests/{RUN.key.removeprefix('runs/')}/1.json)" in raised.value.message
    assert "Run the task 'ingest' of flight_delay.ingest (one) again." in raised.value.hint


def test_a_manifest_that_says_the_same_in_another_form_and_one_without_a_copy_pass(
    settings: Settings, use_step: Callable[[str, Step], None]
) -> None:
    use_step("validate", lambda *_: Result())
    told = upstream_manifest(settings, **TOLD)
    edit(settings, lambda content: content)
    assert execute("validate", upstream={"ingest": "ingest"}).status is Status.OK
    shutil.rmtree(settings.state_dir / "artifacts/manifests")  # as a version leaves it that kept none
    edit(settings, lambda content: content["metrics"].clear())
    assert execute("validate", upstream={"ingest": "ingest"}).status is Status.OK
    again = told.model_copy(update={"attempt": "2", "metrics": {}})
    write_manifest(get_store(), again)  # the next attempt has a copy of its own
    assert execute("validate", upstream={"ingest": "ingest"}).status is Status.OK


def test_a_wider_upstream_window_of_the_same_partition_is_accepted(settings: Settings) -> None:
    upstream_manifest(settings, window=Window(start=date(2013, 2, 1), end=DAY.end))
    request = runner.build_request("validate", "flight_delay", DAY, RUN.sibling("validate"), {"ingest": "ingest"}, {})
    assert request.upstream["ingest"].window.days == 29


@pytest.mark.parametrize("status", ["refused", "skipped"])
def test_what_follows_a_no_is_skipped_without_running(
    settings: Settings, use_step: Callable[[str, Step], None], status: str
) -> None:
    upstream_manifest(settings, status=status, reason="no rows")

    def never(request: Request, spec: ModelSpec) -> Result:
        raise AssertionError

    use_step("validate", never)
    manifest = execute("validate", upstream={"ingest": "ingest"})
    assert manifest.status is Status.SKIPPED
    assert manifest.reason == f"ingest was {status}: no rows"


def test_a_manifest_that_cannot_be_stored_is_an_error_with_a_class(
    settings: Settings, use_step: Callable[[str, Step], None]
) -> None:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    (settings.state_dir / "artifacts").write_bytes(b"a file where a folder belongs")
    use_step("ingest", lambda *_: Result())
    with pytest.raises(ConfigurationError, match="EVERGREEN_ARTIFACT_ROOT"):
        runner.execute(Request(step="ingest", model="flight_delay", window=DAY, run=RUN))


def test_steps_may_run_beside_the_main_thread(settings: Settings, use_step: Callable[[str, Step], None]) -> None:
    use_step("ingest", lambda *_: Result())
    found: list[Status] = []

    def work() -> None:
        with runner.stoppable():
            found.append(execute().status)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=30)
    assert found == [Status.OK]


def test_a_process_the_step_forked_leaves_the_manifest_alone() -> None:
    with runner.stoppable():
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                signal.pause()
            except BaseException:
                os._exit(1)  # it would have gone on to write the manifest
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM


def test_every_step_has_its_module() -> None:
    for name in STEPS:
        assert callable(runner.load_step(name))
