"""Two ways to run the loop's pipelines: through the real scheduler, or as plain function calls in this process."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping
from datetime import date
from typing import Protocol

from pydantic import AwareDatetime, JsonValue

from evergreen.contract import (
    ConfigurationError,
    DataError,
    FailureClass,
    Manifest,
    RunIdentity,
    Status,
    StepError,
    TemporaryError,
    Window,
)
from evergreen.environment import complete
from evergreen.monitoring.proposal import addresses_of, proposal_of
from evergreen.pipelines import CASCADE, PIPELINES, PUBLISHERS, STEPS, Step, dag_id, training_run, upstream_of
from evergreen.runner import build_request, execute
from evergreen.store import get_store, read_manifest
from evergreen_airflow.replay.summary import PeriodRuns
from evergreen_airflow.rest_api import AirflowApi, DagRun

log = logging.getLogger(__name__)

Report = Callable[[str], None]
"""Told which task is running now."""

POLL_SECONDS = 0.25
POLLS_A_REPORT = 4
"""Asking for the state of a run is one cheap request; naming its tasks, for a person to read, is a dear one."""
PARSE_SECONDS = 180.0
"""How long the first parse of the DAG files may take."""
CASCADE_SECONDS = 180.0
"""How long the scheduler may take to start a downstream run after its asset event."""


class Driver(Protocol):
    """Runs pipelines of one model. Every call returns when all that it started has ended well, else raises."""

    def backfill(self, run_id: str, window: Window) -> PeriodRuns:
        """Bring a window into the lake, the features and the online store."""
        ...

    def train(self, run_id: str, partition: date) -> PeriodRuns:
        """Train, judge and, where it pays, promote."""
        ...

    def day(self, run_id: str, partition: date) -> PeriodRuns:
        """Ingest one day the daily way, with everything that follows from it."""
        ...

    def check_rollout(self, run_id: str, window: Window) -> None:
        """Look once at the rollout that is under way."""
        ...


class AirflowDriver:
    """Through the scheduler: starts runs over REST, waits for them and for the asset cascade."""

    def __init__(self, api: AirflowApi, model: str, report: Report) -> None:
        self.api, self.model, self.report = api, model, report

    def prepare(self) -> None:
        """Wait until Airflow has parsed the model's DAGs, and unpause them.

        Raises
        ------
        ConfigurationError
            If they do not appear; the message says what stops them from loading.
        """
        for pipeline in PIPELINES:
            dag = dag_id(self.model, pipeline)
            self._await_dag(dag)
            self.api.unpause(dag)

    def _await_dag(self, dag: str) -> None:
        """Wait until Airflow has a DAG: it is gone for a moment when its file is broken, or deployed anew."""
        deadline = time.monotonic() + PARSE_SECONDS
        while not self.api.dag_is_known(dag):
            self.report(f"waiting for Airflow to parse {dag}")
            if time.monotonic() > deadline:
                errors = "; ".join(self.api.import_errors()) or "no import error is reported"
                raise ConfigurationError(f"Airflow does not know the DAG {dag}: {errors}.")
            time.sleep(POLL_SECONDS)

    def backfill(self, run_id: str, window: Window) -> PeriodRuns:
        """Start ``<model>.backfill`` and wait for it."""
        self._run("backfill", run_id, {"start": str(window.start), "end": str(window.end)})
        return PeriodRuns(backfill=run_id)

    def train(self, run_id: str, partition: date) -> PeriodRuns:
        """Start ``<model>.train`` and wait for it."""
        self._run("train", run_id, {"partition": str(partition)})
        return PeriodRuns(train=run_id)

    def day(self, run_id: str, partition: date) -> PeriodRuns:
        """Start ``<model>.ingest`` for a partition; wait for features, monitor, retrain and a training."""
        self._run("ingest", run_id, {}, partition_key=str(partition))
        runs = {"ingest": run_id}
        for before, pipeline in itertools.pairwise(CASCADE):
            emitted = self._emitted(before, runs[before], PUBLISHERS[before])
            if emitted is None:
                return PeriodRuns(**runs)
            runs[pipeline] = self._cascaded(pipeline, partition, emitted)
        run = RunIdentity(dag_id=dag_id(self.model, "retrain"), run_id=runs["retrain"], task_id="guard")
        guard = read_manifest(get_store(), run)
        if guard is not None and guard.status is Status.OK:
            training = self.api.find_run(dag_id(self.model, "train"), _training_run(guard))
            if training:
                self._finish(training)
                runs["train"] = training.dag_run_id
        return PeriodRuns(**runs)

    def check_rollout(self, run_id: str, window: Window) -> None:
        """Start ``<model>.deliver`` and wait for it."""
        self._run("deliver", run_id, {})

    def _run(self, pipeline: str, run_id: str, conf: Mapping[str, JsonValue], partition_key: str | None = None) -> None:
        dag = dag_id(self.model, pipeline)
        self._await_dag(dag)
        run = self.api.start_run(dag, run_id, dict(conf), partition_key)
        if dict(run.conf or {}) != dict(conf) or run.partition_key != partition_key:
            raise ConfigurationError(
                f"{dag}: the run {run_id} exists for {run.conf or run.partition_key}, not for {conf or partition_key}.",
                "Use the same --history-start, --start and --step as before, or begin anew with `make clean`.",
            )
        self._finish(run)

    def _finish(self, run: DagRun) -> None:
        """Wait for a run; one that had failed before this loop began is cleared first."""
        if run.state == "failed":
            self.api.clear_failed(run.dag_id, run.dag_run_id)
        if run.state != "success":
            self._wait(run.dag_id.removeprefix(f"{self.model}."), run.dag_run_id)

    def _emitted(self, pipeline: str, run_id: str, task_id: str) -> AwareDatetime | None:
        """Return when a task published its asset event, or None if it was skipped and so published nothing."""
        for task in self.api.tasks(dag_id(self.model, pipeline), run_id):
            if task.task_id == task_id and task.state == "success":
                return task.end_date
        return None

    def _cascaded(self, pipeline: str, partition: date, emitted: AwareDatetime) -> str:
        """Wait for the run that an asset event starts, then for its end; returns its id."""
        dag = dag_id(self.model, pipeline)
        deadline = time.monotonic() + CASCADE_SECONDS
        self.report(f"{dag}: waiting for the scheduler")
        while True:
            run = self.api.newest_run_of(dag, str(partition))
            if run is not None and run.run_after >= emitted:
                self._finish(run)
                return run.dag_run_id
            if time.monotonic() > deadline:
                raise TemporaryError(
                    f"{dag}: no run of {partition} started within {CASCADE_SECONDS:.0f} s of its asset event.",
                    "See that the DAG is not paused and the scheduler is up (`evergreen status`); clear the run of the "
                    "upstream pipeline to publish the event again.",
                )
            time.sleep(POLL_SECONDS)

    def _wait(self, pipeline: str, run_id: str) -> None:
        """Wait for the end of a run; one that failed for a temporary cause has one more go after its retries."""
        dag, again = dag_id(self.model, pipeline), False
        for poll in itertools.count():
            run = self.api.find_run(dag, run_id)
            if run is None:
                raise DataError(f"{dag}: the run {run_id} was deleted while it ran.")
            if run.state == "success":
                return
            if run.state == "failed":
                tasks = self.api.tasks(dag, run_id)
                failure = self._failure(dag, run_id, {t.task_id: t.try_number for t in tasks if t.state == "failed"})
                if again or failure.failure_class is not FailureClass.TEMPORARY:
                    raise failure
                again = True
                log.warning("%s; once more", failure.message)
                self.api.clear_failed(dag, run_id)
                continue
            if poll % POLLS_A_REPORT == 0:
                tasks = self.api.tasks(dag, run_id)
                busy = [f"{task.task_id} ({task.state})" for task in tasks if task.state not in _QUIET]
                self.report(f"{dag}: {', '.join(busy) or 'scheduling'}")
            time.sleep(POLL_SECONDS)

    def _failure(self, dag: str, run_id: str, failed: Mapping[str, int]) -> StepError:
        task_id, try_number = next(iter(failed.items()), ("", 0))
        where = f"Log: {self.api.url}/dags/{dag}/runs/{run_id}/tasks/{task_id}?try_number={try_number}"
        manifest = read_manifest(get_store(), RunIdentity(dag_id=dag, run_id=run_id, task_id=task_id or "none"))
        if manifest is None or manifest.failure is None:
            return StepError(f"{dag} {run_id}: task {task_id or '?'} failed and left no manifest.", where)
        return failure_of(manifest, where)


_QUIET = {None, "success", "skipped", "removed", "upstream_failed"}


class InProcessDriver:
    """As plain function calls in this process: the same steps with the same requests, no Airflow."""

    def __init__(self, model: str, report: Report) -> None:
        self.model, self.report = model, report
        complete(sorted({secret for row in STEPS.values() for secret in row.secrets}))  # this process is every step

    def backfill(self, run_id: str, window: Window) -> PeriodRuns:
        """Run the steps of ``<model>.backfill``."""
        self._pipeline("backfill", run_id, window)
        return PeriodRuns(backfill=run_id)

    def train(self, run_id: str, partition: date) -> PeriodRuns:
        """Run the steps of ``<model>.train``; stops where a step says no, as the operator does."""
        self._pipeline("train", run_id, Window(start=partition, end=partition))
        return PeriodRuns(train=run_id)

    def day(self, run_id: str, partition: date) -> PeriodRuns:
        """Run the daily pipelines one after another, and a training if it is proposed and allowed."""
        window = Window(start=partition, end=partition)
        runs: dict[str, str] = {}
        for pipeline in ("ingest", "features"):
            runs[pipeline] = run_id
            if not self._pipeline(pipeline, run_id, window):
                return PeriodRuns(**runs)
        runs["monitor"] = runs["retrain"] = run_id
        # none waits for another's yes
        checks = {step.name: self._step("monitor", step, run_id, window) for step in PIPELINES["monitor"]}
        if proposal_of(checks["check_drift"], checks["check_performance"]).retrain:
            guard = self._step("retrain", STEPS["guard"], run_id, window, addresses_of(checks.values()))
            if guard.status is Status.OK:
                runs["train"] = _training_run(guard)
                self._pipeline("train", runs["train"], window)
        return PeriodRuns(**runs)

    def check_rollout(self, run_id: str, window: Window) -> None:
        """Run the step of ``<model>.deliver``."""
        self._pipeline("deliver", run_id, window)

    def _pipeline(self, pipeline: str, run_id: str, window: Window) -> bool:
        """Run a pipeline's steps in order, up to the first that does not say ok; returns whether all did."""
        return all(self._step(pipeline, step, run_id, window).status is Status.OK for step in PIPELINES[pipeline])

    def _step(
        self, pipeline: str, step: Step, run_id: str, window: Window, upstream: Mapping[str, str] | None = None
    ) -> Manifest:
        run = RunIdentity(dag_id=dag_id(self.model, pipeline), run_id=run_id, task_id=step.name)
        self.report(f"{run.dag_id}: {step.name}")
        upstream = upstream_of(step, pipeline) | dict(upstream or {})
        manifest = execute(build_request(step.name, self.model, window, run, upstream, {}))
        if manifest.failure:
            raise failure_of(manifest, "")
        return manifest


def _training_run(guard: Manifest) -> str:
    """Return the run of ``<model>.train`` that follows from the report a guard has let pass."""
    return training_run(str(guard.facts["report_id"]))


_ERRORS: Mapping[FailureClass, type[StepError]] = {
    FailureClass.DATA: DataError,
    FailureClass.CONFIGURATION: ConfigurationError,
    FailureClass.TEMPORARY: TemporaryError,
}


def failure_of(manifest: Manifest, where: str) -> StepError:
    """Return a step's recorded failure as the error of its class, with the place of its log."""
    failure = manifest.failure
    assert failure is not None  # noqa: S101  # only failed manifests come here
    message = f"{manifest.run.dag_id} {manifest.run.run_id}: task {manifest.run.task_id} failed: {failure.message}"
    error = _ERRORS.get(failure.failure_class, StepError)(message, f"{failure.hint} {where}".strip())
    error.failure_class = failure.failure_class
    return error
