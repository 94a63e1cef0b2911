"""What a deferred step waits for: the end of its pod, told by the watch that all steps share."""

from __future__ import annotations

import asyncio
import math
import re
import time
from typing import Any

from aiohttp import ClientError
from airflow.providers.cncf.kubernetes.exceptions import KubernetesApiPermissionError
from airflow.providers.cncf.kubernetes.triggers.pod import ContainerState, KubernetesPodTrigger
from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import TaskSkippedEvent, TaskSuccessEvent, TriggerEvent
from kubernetes_asyncio.client import ApiException

from evergreen.contract import FailureClass, Manifest, RunIdentity, Status, StepError
from evergreen.store import get_store
from evergreen_airflow.ending import Ending
from evergreen_airflow.outcome import accept, read_task_manifest, xcom_value
from evergreen_airflow.pod import GRACE_SECONDS
from evergreen_airflow.pod_ending import Obstacle, ending_of, is_running, is_scheduled, obstacle_of, slow_start
from evergreen_airflow.pod_watch import PodView, PodWatch, watching

_STAMPED = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?\S* (.*)", re.DOTALL)
_OVERLAP = 5
"""Seconds that are read again, so that no line is missed; lines that were logged are known by their time."""
_NODE_LOST_SECONDS = 60


class StepPodTrigger(KubernetesPodTrigger):
    """The provider's trigger, waiting in its own way.

    It shares one watch with all others instead of polling; tells what became of the pod, which may be gone when the
    task resumes; gives up on a pod that cannot start; and logs the pod's lines and events while it runs, which shows
    them in the task's log without any worker.

    Parameters
    ----------
    stuck_seconds
        How long an obstacle that may go away (an image that cannot be pulled, a missing Secret) may last.
    conclusion
        Whose answer to look for when the pod has ended well; see `ClusterPodOperator.conclusion`. None: the task looks.
    arguments
        Those of the provider's trigger; ``schedule_timeout`` and ``startup_timeout`` bound the rest of the start.
    """

    def __init__(self, stuck_seconds: float = 120, conclusion: dict[str, Any] | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.stuck_seconds = stuck_seconds
        self.conclusion = conclusion
        self._began = time.monotonic()
        self._since: dict[str, float] = {}
        self._obstacle: Obstacle | None = None
        self._last_line = ""
        self._log_read: float | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the import path and arguments that rebuild this trigger in the triggerer."""
        _, arguments = super().serialize()
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            **arguments,
            "stuck_seconds": self.stuck_seconds,
            "conclusion": self.conclusion,
        }

    async def _wait_for_pod_start(self) -> ContainerState:
        return ContainerState.UNDEFINED  # start and end are one wait

    async def _wait_for_container_completion(self) -> TriggerEvent:
        async with watching(self.hook, self.pod_namespace, self.pod_name) as (watch, view):
            reading = asyncio.create_task(self._log_while_running(watch, view))
            try:
                status, ending = await self._wait(view)
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            complete = not view.gone and ending.ran and await self._log_lines(watch, at_once=True)
            for event in await view.changed(0):
                self.log.info("Pod event: %s", event)
            manifest = await self._answer(ending) if complete else None
            deleted = manifest is not None and await self._delete(watch)
        task_end = await self._end(manifest) if manifest is not None and deleted else None
        return task_end or self._event(status, ending, complete=complete, deleted=deleted)

    async def _wait(self, view: PodView) -> tuple[str, Ending]:
        """Wait until the pod has ended, or must be given up."""
        while True:
            if view.error:
                raise KubernetesApiPermissionError(f"the triggerer may not watch pods: {view.error.reason}")
            ending = ending_of(view.pod, gone=view.gone)
            if ending is not None:
                return "success" if ending.exit_code == 0 else "failed", ending
            limit, given_up = self._limit(view.pod)
            left = limit - time.monotonic()
            if left <= 0:
                return "timeout", given_up
            for event in await view.changed(None if left == math.inf else left):
                self.log.info("Pod event: %s", event)

    def _limit(self, pod: dict[str, Any]) -> tuple[float, Ending]:
        """Return when the pod is given up if nothing changes until then, and how the step has ended then."""
        deadline = self.trigger_kwargs.get("_execution_deadline")
        left = math.inf if deadline is None else deadline - time.time()
        overdue = Ending(None, "stopped at its deadline, the task's execution_timeout", FailureClass.TEMPORARY)
        limits = [(time.monotonic() + left, overdue)]
        if not pod:
            return limits[0]
        if pod["metadata"].get("deletionTimestamp"):
            lost = Ending(None, "its pod was deleted, and its node does not answer", FailureClass.TEMPORARY)
            grace = GRACE_SECONDS if self.termination_grace_period is None else self.termination_grace_period
            limits.append((self._first("deleted") + grace + _NODE_LOST_SECONDS, lost))
        elif not is_running(pod):
            limits.append(self._start_limit(pod))
        return min(limits, key=lambda limit: limit[0])

    def _start_limit(self, pod: dict[str, Any]) -> tuple[float, Ending]:
        obstacle = self._explained(obstacle_of(pod))
        if obstacle and obstacle.final:
            return self._began, obstacle.ending
        if obstacle and obstacle.scheduled:
            return self._first("stuck") + self.stuck_seconds, obstacle.ending
        if is_scheduled(pod):
            return self._first("scheduled") + self.startup_timeout, slow_start(pod, self.startup_timeout)
        ending = obstacle.ending if obstacle else slow_start(pod, self.schedule_timeout)
        return self._began + self.schedule_timeout, ending

    def _explained(self, obstacle: Obstacle | None) -> Obstacle | None:
        """Return an obstacle with its cause: a kubelet that backs off (before 1.32) says it only when it has tried."""
        if obstacle and obstacle.causeless and self._obstacle:
            return self._obstacle
        self._obstacle = obstacle
        return obstacle

    def _first(self, what: str) -> float:
        return self._since.setdefault(what, time.monotonic())

    # --- the end ------------------------------------------------------------------------------------------------

    async def _answer(self, ending: Ending) -> Manifest | None:
        """Return what the step answered; whatever else there is to say of its end, the task says it in a worker."""
        if self.conclusion is None or ending.exit_code != 0:
            return None
        run = RunIdentity(**self.conclusion["run"])
        expected = {name: self.conclusion[name] for name in ("attempt", "model", "step")}
        try:
            return await asyncio.to_thread(lambda: accept(read_task_manifest(get_store(), run), ending, **expected))
        except StepError as error:
            self.log.info("Left to the task: %s", error)
            return None

    async def _delete(self, watch: PodWatch) -> bool:
        """Delete the pod, which nobody needs any more; return whether that went well."""
        try:
            await watch.delete(self.pod_name)
        except (ApiException, ClientError, OSError, TimeoutError) as error:
            self.log.info("Left to the task: the pod cannot be deleted now: %r", error)
            return False
        return True

    async def _end(self, manifest: Manifest) -> TriggerEvent | None:
        """End the task here: the way through the scheduler to a worker would take longer than a light step.

        The event could carry the XCom, but Airflow 3.3.2 would encode it twice: whoever pulls it gets a text.
        """
        if self.conclusion is None or not self.conclusion["ends_task"]:
            return None
        run = manifest.run.model_dump(include={"dag_id", "run_id", "task_id"})  # nothing that a newer version adds
        try:
            await XCom.aset("return_value", xcom_value(manifest), **run)
        except AirflowRuntimeError as error:
            self.log.info("Left to the task: %s", error)
            return None
        self.log.info("The task ends: %s%s", manifest.status.value, f", {manifest.reason}" if manifest.reason else "")
        return TaskSkippedEvent() if manifest.status is Status.SKIPPED else TaskSuccessEvent()

    # --- the log ------------------------------------------------------------------------------------------------

    async def _log_while_running(self, watch: PodWatch, view: PodView) -> None:
        if not self.get_logs or not self.logging_interval:
            return
        while True:
            await asyncio.sleep(self.logging_interval)
            if is_running(view.pod):
                await self._log_lines(watch)

    async def _log_lines(self, watch: PodWatch, *, at_once: bool = False) -> bool:
        """Log the pod's lines that are new; return whether they could be read."""
        if not self.get_logs:
            return False
        now = time.monotonic()
        since = None if self._log_read is None else math.ceil(now - self._log_read) + _OVERLAP
        try:
            lines = await watch.read_log(self.pod_name, self.base_container_name, since, at_once=at_once)
        except (ApiException, ClientError, OSError, TimeoutError) as error:
            self.log.debug("The log of %s cannot be read now: %r", self.pod_name, error)
            return False
        self._log_read = now
        for text in lines:
            stamped = _STAMPED.match(text)
            stamp = f"{stamped[1]}{(stamped[2] or '.'):0<10}" if stamped else self._last_line
            if stamped is None or stamp > self._last_line:
                self.log.info("%s", stamped[3] if stamped else text)
            self._last_line = max(stamp, self._last_line)
        return True

    def _event(self, status: str, ending: Ending, *, complete: bool, deleted: bool) -> TriggerEvent:
        payload = {
            "status": status,
            "namespace": self.pod_namespace,
            "name": self.pod_name,
            "message": str(ending),
            "ending": ending.as_dict(),
            "log_is_complete": complete,
            "pod_is_deleted": deleted,
            **self.trigger_kwargs,
        }
        return TriggerEvent(payload)  # type: ignore[no-untyped-call]
