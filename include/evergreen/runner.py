"""Runs one step: builds its request, calls its function, stores its manifest, names its exit code."""

from __future__ import annotations

import difflib
import importlib
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from zoneinfo import ZoneInfo

from pydantic import JsonValue

from evergreen.catalog import config_digest, load_model
from evergreen.contract import (
    ConfigurationError,
    DataError,
    Failure,
    FailureClass,
    Manifest,
    Request,
    Result,
    RunIdentity,
    Status,
    StepError,
    Stopped,
    Window,
    described,
    exit_code_of,
    is_stop,
    printable,
    utc_now,
)
from evergreen.pipelines import STEPS, outputs_of
from evergreen.spec import ModelSpec
from evergreen.store import ArtifactStore, check_unchanged, get_store, manifest_uri, read_manifest, write_manifest
from evergreen.store.base import FULL
from evergreen.version import code_version

log = logging.getLogger(__name__)

_LONGEST_MESSAGE = 10_000
"""Characters: room for every mistake of a model.yaml, and little enough for a log, an XCom and a mail."""

StepFunction = Callable[[Request, ModelSpec], Result]


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn the first SIGTERM into `Stopped`, so that a running step leaves a manifest; ignore those that follow.

    What sends it (kubelet, guardian) kills the process anyway when its grace is over.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python delivers signals to the main thread only
        return

    step = os.getpid()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if os.getpid() != step:  # a process the step forked: the manifest is not its to write
            os._exit(128 + signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_step(name: str) -> None:
    """Refuse the name of a step that does not exist.

    Raises
    ------
    ConfigurationError
        If there is no such step.
    """
    if name not in STEPS:
        close = difflib.get_close_matches(name, STEPS, n=1)
        raise ConfigurationError(
            f"There is no step {name!r}.", f"Did you mean {close[0]}?" if close else f"Steps: {', '.join(STEPS)}."
        )


def load_step(name: str) -> StepFunction:
    """Return the function of a step.

    Raises
    ------
    ConfigurationError
        If there is no such step.
    """
    check_step(name)
    function: StepFunction = importlib.import_module(f"evergreen.steps.{name}").run
    return function


def build_request(
    step: str,
    model: str,
    window: Window,
    run: RunIdentity,
    upstream: Mapping[str, str],
    params: Mapping[str, JsonValue],
) -> Request:
    """Build the request of a step.

    ``upstream`` maps step names to where their manifests are: task ids of the same run, or addresses of tasks.

    Raises
    ------
    ConfigurationError
        If there is no such step or model, its model.yaml is wrong, the window is longer than it allows, the step does
        not read what is handed to it, or a reference names no task.
    DataError
        If the window lies outside the model's data, or an upstream task left no manifest, a failed one, or that of
        another model, step or partition, or one that was changed.
    """
    _admit(step, model, window)
    reads = STEPS[step].reads
    if unread := ", ".join(name for name in upstream if name not in reads):
        raise ConfigurationError(
            f"{step} does not read {unread}.", f"It reads {', '.join(reads) or 'no manifest'}: evergreen/pipelines.py."
        )
    store = get_store()
    return Request(
        step=step,
        model=model,
        window=window,
        run=run,
        upstream={name: _upstream(store, run.resolve(task), name, model, window) for name, task in upstream.items()},
        params=dict(params),
        attempt=os.environ.get("EVERGREEN_ATTEMPT", "1"),
    )


def _upstream(store: ArtifactStore, run: RunIdentity, step: str, model: str, window: Window) -> Manifest:
    manifest = read_manifest(store, run)
    uri = manifest_uri(store, run)
    rerun = f"Run task {run.task_id!r} of {run.dag_id} ({run.run_id}) first."
    if manifest is None:
        raise DataError(f"{uri}: the upstream manifest is missing.", rerun)
    for field, actual, expected in (
        ("model", manifest.model, model),
        ("step", manifest.step, step),
        ("partition", manifest.window.end, window.end),
    ):
        if actual != expected:
            raise DataError(
                f"{uri}: {field}: it is the manifest of {actual}, but this step needs that of {expected}.",
                f"Pass the right task of the right run, or run task {run.task_id!r} again.",
            )
    check_unchanged(store, manifest)
    if manifest.failure:
        raise DataError(f"{uri}: the upstream task failed: {manifest.failure.message}", rerun)
    return manifest


def execute(request: Request) -> Manifest:
    """Run a step in this process and store its manifest; returns the manifest.

    A request that is wrong in itself (unknown step or model, wrong model.yaml, a partition outside the data) is
    refused before anything starts: it raises, and nothing is written. Once the step has started a manifest is
    stored however it ends, also when it is stopped by SIGTERM (a temporary failure).

    Raises
    ------
    ConfigurationError, DataError
        If the request is refused.
    TemporaryError
        If the manifest cannot be stored, e.g. because the disk is full, or a newer attempt of this task has stored
        its own.
    """
    spec = _admit(request.step, request.model, request.window)
    store, started = get_store(), utc_now()
    manifest = _manifest(request, spec, _attempt(request, spec), started)
    write_manifest(store, manifest)
    return manifest


def _manifest(request: Request, spec: ModelSpec, ending: Result | Failure, started: datetime) -> Manifest:
    failure = ending if isinstance(ending, Failure) else None
    result = Result() if isinstance(ending, Failure) else ending
    return Manifest(
        step=request.step,
        model=request.model,
        window=request.window,
        run=request.run,
        attempt=request.attempt,
        params=request.params,
        status=Status.FAILED if failure else result.status,
        reason=result.reason,
        outputs=result.outputs,
        inputs=result.inputs,
        metrics=result.metrics,
        facts=result.facts,
        failure=failure,
        code_version=code_version(),
        config_digest=config_digest(spec),
        image=os.environ.get("EVERGREEN_IMAGE", ""),
        started=started,
        finished=utc_now(),
    )


def _attempt(request: Request, spec: ModelSpec) -> Result | Failure:
    """Call the step's function; whatever comes out of it becomes a result or a failure with a class."""
    for manifest in request.upstream.values():
        if manifest.status is not Status.OK:  # what follows a "no" does not happen
            reason = f"{manifest.run.task_id} was {manifest.status}: {manifest.reason}"
            return Result(status=Status.SKIPPED, reason=reason)
    try:
        return _checked(request.step, spec, load_step(request.step)(request, spec))
    except StepError as error:
        # a reader raises them too, and may put anything in
        message, hint = (printable(str(text or ""), _LONGEST_MESSAGE) for text in (error.message, error.hint))
        return Failure(failure_class=error.failure_class, message=message, hint=hint)
    except BaseException as error:  # the contract's last line: anything unforeseen leaves a manifest too
        if is_stop(error):
            return _stopped("Ctrl-C" if isinstance(error, KeyboardInterrupt) else "SIGTERM")
        return _unforeseen(request, error)


def _stopped(by: str) -> Failure:
    return Failure(
        failure_class=FailureClass.TEMPORARY,
        message=f"stopped by {by} before it had finished.",
        hint="Run it again: it begins anew.",
    )


def _unforeseen(request: Request, error: BaseException) -> Failure:
    """Name the class of an exception that is no StepError."""
    text = described(error)
    # DuckDB, torch and Ray each have an OutOfMemoryError of their own
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return Failure(failure_class=FailureClass.OUT_OF_MEMORY, message=f"out of memory: {text}")
    if isinstance(error, OSError) and error.errno in FULL:
        hint = "Free space on the disk, then clear the task."
        return Failure(failure_class=FailureClass.CONFIGURATION, message=f"the disk is full: {text}", hint=hint)
    log.error("step %s of %s failed", request.step, request.model, exc_info=error)
    hint = "This is a defect: report it with the log above."
    return Failure(failure_class=FailureClass.BUG, message=text, hint=hint)


def exit_code(manifest: Manifest) -> int:
    """Return the exit code that stands for a manifest: 0 for every answer, sysexits for failures."""
    return exit_code_of(manifest.failure.failure_class) if manifest.failure else 0


def _admit(step: str, model: str, window: Window) -> ModelSpec:
    """Return the model of a request, or refuse the request."""
    check_step(step)
    spec = load_model(model)
    first, zone = spec.schedule.start, spec.schedule.timezone
    if window.start < first:
        raise DataError(
            f"partition {window.start} is before the first partition of {model}, {first}.",
            f"Use a later partition, or change schedule.start in {spec.folder / 'model.yaml'}.",
        )
    most = spec.schedule.maximum_backfill_days
    if window.days > most:
        raise ConfigurationError(
            f"{window} has {window.days} days; schedule.maximum_backfill_days of {model} allows {most}.",
            f"Take it in parts, or raise the limit in {spec.folder / 'model.yaml'}.",
        )
    today = datetime.now(ZoneInfo(zone)).date()
    if window.end > today:
        raise DataError(
            f"partition {window.end} is in the future: in {zone} it is {today}.", "Use a day that has happened."
        )
    return spec


def _checked(step: str, spec: ModelSpec, result: object) -> Result:
    if not isinstance(result, Result):
        raise TypeError(f"evergreen.steps.{step}.run returned {type(result).__name__}, not a Result")
    known = outputs_of(step, *(tuple(part.name for part in parts) for parts in (spec.sources, spec.features.views)))
    if unknown := {output.name for output in result.outputs} - known:
        raise TypeError(f"evergreen.steps.{step}.run left {', '.join(sorted(unknown))}: not in evergreen/pipelines.py")
    wrong = [f"{name}={value}" for name, value in result.metrics.items() if not math.isfinite(value)]
    if wrong:
        raise DataError(f"metrics that are not finite: {', '.join(wrong)}.", "Leave out what cannot be computed.")
    return result
