"""Runs one step: builds its request, calls its function, stores its manifest, names its exit code."""

from __future__ import annotations

import importlib
import logging
import math
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from pydantic import JsonValue

from evergreen.catalog import config_digest, load_model
from evergreen.contract import (
    EXIT_CODES,
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
    Window,
    utc_now,
)
from evergreen.settings import PROJECT_ROOT, get_settings
from evergreen.spec import ModelSpec
from evergreen.store import get_store, read_manifest, write_manifest

log = logging.getLogger(__name__)

STEPS = (
    "ingest",
    "validate",
    "publish",
    "build_features",
    "materialize",
    "assemble",
    "train",
    "evaluate",
    "gate",
    "register",
    "promote",
    "check_drift",
    "check_performance",
    "guard",
)
"""Every step there is: module ``evergreen.steps.<name>`` with a function ``run(request, spec) -> Result``."""

StepFunction = Callable[[Request, ModelSpec], Result]


def load_step(name: str) -> StepFunction:
    """Return the function of a step.

    Raises
    ------
    ConfigurationError
        If there is no such step.
    """
    if name not in STEPS:
        raise ConfigurationError(f"There is no step {name!r}.", f"Steps: {', '.join(STEPS)}.")
    module = importlib.import_module(f"evergreen.steps.{name}")
    function: StepFunction = module.run
    return function


def build_request(
    step: str,
    model: str,
    window: Window,
    run: RunIdentity,
    upstream: Mapping[str, str],
    params: Mapping[str, JsonValue],
) -> Request:
    """Build the request of a step; ``upstream`` maps step names to task ids of the same run.

    Raises
    ------
    DataError
        If an upstream task left no manifest, or that of another model.
    """
    store = get_store()
    manifests: dict[str, Manifest] = {}
    for name, task_id in upstream.items():
        sibling = run.sibling(task_id)
        manifest = read_manifest(store, sibling)
        if manifest is None:
            raise DataError(
                f"{store.uri(sibling.key)}/result.json: the upstream manifest is missing.",
                f"Run task {task_id!r} of {run.dag_id} ({run.run_id}) first.",
            )
        if manifest.model != model:
            raise DataError(
                f"{store.uri(sibling.key)}/result.json: model: {manifest.model!r}, but this step is for {model!r}.",
                "Pass the run of the right model.",
            )
        manifests[name] = manifest
    return Request(
        step=step,
        model=model,
        window=window,
        run=run,
        upstream=manifests,
        params=dict(params),
        attempt=os.environ.get("EVERGREEN_ATTEMPT", "1"),
    )


def execute(request: Request) -> Manifest:
    """Run a step in this process and store its manifest, whatever happens; returns the manifest."""
    started = utc_now()
    result: Result | None = None
    failure: Failure | None = None
    digest = ""
    try:
        spec = load_model(request.model)
        digest = config_digest(spec)
        function = load_step(request.step)
        _check_partition(request, spec)
        result = function(request, spec)
        _check_finite(result)
    except StepError as error:
        failure = Failure(failure_class=error.failure_class, message=error.message, hint=error.hint)
    except MemoryError as error:
        failure = Failure(failure_class=FailureClass.OUT_OF_MEMORY, message=f"out of memory: {error}")
    except Exception as error:  # the contract's last line: anything unforeseen is a bug, and leaves a manifest too
        log.exception("step %s of %s failed", request.step, request.model)
        failure = Failure(
            failure_class=FailureClass.BUG,
            message=f"{type(error).__name__}: {error}",
            hint="This is a defect: report it with the log above.",
        )
    outcome = result or Result()
    manifest = Manifest(
        step=request.step,
        model=request.model,
        window=request.window,
        run=request.run,
        attempt=request.attempt,
        params=request.params,
        status=Status.FAILED if failure else outcome.status,
        reason=outcome.reason,
        outputs=outcome.outputs,
        inputs=outcome.inputs,
        metrics=outcome.metrics,
        facts=outcome.facts,
        failure=failure,
        code_version=code_version(),
        config_digest=digest,
        image=os.environ.get("EVERGREEN_IMAGE", ""),
        started=started,
        finished=utc_now(),
    )
    write_manifest(get_store(), manifest)
    return manifest


def exit_code(manifest: Manifest) -> int:
    """Return the exit code that stands for a manifest: 0 for every answer, sysexits for failures."""
    return EXIT_CODES[manifest.failure.failure_class] if manifest.failure else 0


def _check_partition(request: Request, spec: ModelSpec) -> None:
    if request.window.start < spec.schedule.start:
        raise DataError(
            f"partition {request.window.start} is before the first partition of {spec.name}, {spec.schedule.start}.",
            f"Use a later partition, or change schedule.start in {spec.folder / 'model.yaml'}.",
        )


def _check_finite(result: Result) -> None:
    wrong = [name for name, value in result.metrics.items() if not math.isfinite(value)]
    if wrong:
        raise DataError(f"metrics that are not finite: {', '.join(wrong)}.", "Leave out what cannot be computed.")


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the version of the code: the image's, or the checkout's commit (``+dirty`` when it has changes)."""
    if version := get_settings().code_version:
        return version
    git: Sequence[str] = ("git", "-C", str(PROJECT_ROOT), "describe", "--always", "--dirty=+dirty", "--abbrev=12")
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        from evergreen import __version__

        return __version__
