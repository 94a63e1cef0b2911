"""Deletes the step pods that nobody waits for any more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException
from kubernetes.client import models as k8s

from evergreen.settings import get_settings
from evergreen_airflow import predecessor
from evergreen_airflow.pod import DEADLINE, OWNER, SELECTOR

if TYPE_CHECKING:
    from airflow.sdk import Context

Task = tuple[str, str, str]
"""DAG, run and task."""
States = Mapping[Task, str | None]

_ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
_OVERDUE = timedelta(minutes=10)
"""Beyond its deadline a pod is its kubelet's to end, which may take its grace period."""
_PAGE, _RUNS = 500, 50
_LINES = 1_000
"""How much of a pod's log is kept in the reaper's."""
_LOG_SECONDS = 120.0
"""How long logs are read for: half a minute for each pod of a node that is lost, and the task has five minutes."""


class PodReaper(BaseOperator):
    """Deletes step pods whose task has ended, or is not known any more, or whose deadline is long over.

    Every pod is deleted by whoever waited for it. What is left is what the waiting died over: a worker that was
    killed between two requests, an API server that was down, a run that was deleted with its tasks. A pod whose task
    may still come back for it (queued, deferred, up for retry, cleared) is never touched.

    The parameter ``dry_run`` of the run says what would be deleted, and deletes nothing.

    Returns
    -------
    dict
        XCom: ``pods``, how many there are, and ``deleted``, their names with the reason.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Look at every step pod once; anything that cannot be asked fails the task before anything is deleted."""
        settings = get_settings()
        if settings.runtime != "kubernetes":
            raise AirflowSkipException("Steps run as processes here: they end with their tasks.")
        api = KubernetesHook(conn_id="kubernetes_default").core_v1_client
        pods = list(_step_pods(api, settings.namespace))
        states = _states({task_of(pod) for pod in pods} - {None}, context)
        now = datetime.now(UTC)
        orphans = [(pod, why) for pod in pods if (why := orphaned(pod, states, now))]
        until, dry_run = time.monotonic() + _LOG_SECONDS, context["params"]["dry_run"]
        for pod, why in orphans:
            owner = " / ".join(task_of(pod) or ())
            self.log.info("%s %s of %s: %s", "Would delete" if dry_run else "Deleting", pod.metadata.name, owner, why)
            if dry_run:
                continue
            if time.monotonic() < until:
                # of a task that has ended badly it may be the only one: its worker died before it read it
                predecessor.write(self.log, pod, "Left behind.", predecessor.last_lines(api, pod, _LINES))
            predecessor.delete_pod(api, pod)
        return {"pods": len(pods), "deleted": {pod.metadata.name: why for pod, why in orphans}}


def orphaned(pod: k8s.V1Pod, states: States, now: datetime) -> str:
    """Return why nobody waits for a pod, or nothing if somebody may.

    Parameters
    ----------
    pod
        A pod that a StepOperator has launched.
    states
        The states of all tasks that pods are of; a task that is missing does not exist.
    now
        The time to compare deadlines with.
    """
    task, annotations = task_of(pod), pod.metadata.annotations or {}
    if pod.metadata.deletion_timestamp or task is None:  # on its way out, or none of ours
        return ""
    if task not in states:
        return "its task does not exist any more"
    if states[task] in _ENDED:
        return f"its task has ended: {states[task]}"
    with suppress(ValueError):  # what somebody has written in its place must not keep other pods
        deadline = datetime.fromisoformat(annotations[DEADLINE])
        if deadline.tzinfo and now > deadline + _OVERDUE:
            return f"its deadline was {annotations[DEADLINE]}"
    return ""


def task_of(pod: k8s.V1Pod) -> Task | None:
    """Return whose pod it is; labels cannot tell, because they hold no more than 63 characters."""
    annotations = pod.metadata.annotations or {}
    if not {*OWNER, DEADLINE} <= set(annotations):
        return None
    dag, run, task = (annotations[name] for name in OWNER)
    return dag, run, task


def _step_pods(api: Any, namespace: str) -> Iterator[k8s.V1Pod]:
    token = None
    while token != "":
        page = api.list_namespaced_pod(namespace, label_selector=SELECTOR, limit=_PAGE, _continue=token)
        yield from page.items
        token = page.metadata._continue or ""


def _states(tasks: set[Any], context: Context) -> dict[Task, str | None]:
    """Ask Airflow for the states of tasks, a DAG and some runs at a time; those that do not exist are left out."""
    ti: Any = context["ti"]
    states: dict[Task, str | None] = {}
    for dag, group in groupby(sorted({(dag, run) for dag, run, _ in tasks}), key=itemgetter(0)):
        runs = [run for _, run in group]
        for first in range(0, len(runs), _RUNS):  # they go into an address, which has a length
            for run, by_task in ti.get_task_states(dag_id=dag, run_ids=runs[first : first + _RUNS]).items():
                states |= {(dag, run, task): state for task, state in by_task.items()}
    return states
