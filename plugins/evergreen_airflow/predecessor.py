"""The pods that earlier tries of a task have left, because the workers of those tries died.

A worker that dies between the launch of its pod and the deferral, or while it concludes, leaves a pod that nobody waits
for and whose log nobody reads. The next try finds it: one that runs is waited for as if this try had launched it; any
other is ended, and what it wrote goes into this try's log, before there is another pod. One step, one pod.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from kubernetes.client import ApiClient
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from evergreen_airflow.ending import Ending
from evergreen_airflow.pod import GRACE_SECONDS
from evergreen_airflow.pod_api import CONFLICT, LOG_BYTES, LOG_LINES, NOT_FOUND, suppress_status, text_lines
from evergreen_airflow.pod_ending import BASE, ending_of

ADOPTED = "evergreen/adopted-by"
"""Annotation: the attempt that waits for a pod which another one has launched."""
_LOOK_SECONDS = 1.0
_PATIENCE = GRACE_SECONDS + 15
"""How long a pod may take to end that was told to: its grace period, and what its node needs beside it."""


def adopt(pods: Sequence[k8s.V1Pod]) -> k8s.V1Pod | None:
    """Return the pod that is still worth waiting for: the newest that runs, or may yet, and was not told to end."""
    alive = [pod for pod in pods if not pod.metadata.deletion_timestamp and ending(pod) is None]
    return max(alive, key=lambda pod: pod.metadata.creation_timestamp, default=None)


def mark(api: Any, pod: k8s.V1Pod, attempt: str) -> bool:
    """Say on a pod who waits for it now: a worker that comes back from the dead must not end it.

    Return whether it is still there.
    """
    body = {"metadata": {"annotations": {ADOPTED: attempt}}}
    with suppress_status(NOT_FOUND):
        api.patch_namespaced_pod(pod.metadata.name, pod.metadata.namespace, body)
        return True
    return False


def end(api: Any, pod: k8s.V1Pod, log: Any, *, delete: Callable[[k8s.V1Pod], object] | None = None) -> None:
    """End a pod, wait until it has, and log what it wrote.

    Parameters
    ----------
    api
        The Kubernetes API.
    pod
        The pod, as it was listed.
    log
        Where its log goes.
    delete
        What to do with one that has ended, instead of deleting it.
    """
    ended, last, lines = ending(pod), pod, last_lines(api, pod)
    if ended is None and not pod.metadata.deletion_timestamp:
        delete_pod(api, pod)
    deadline = time.monotonic() + _PATIENCE
    while ended is None:
        time.sleep(_LOOK_SECONDS)
        current = _read(api, pod)
        if current is None:
            break
        if time.monotonic() > deadline:
            log.warning("Pod %s does not end: its node does not answer. Going on without it.", pod.metadata.name)
            break
        last, ended, lines = current, ending(current), last_lines(api, pod) or lines
    write(log, last, f"An earlier try has left a pod, which {ended or 'is gone'}.", lines)
    if ended is not None and delete is not None:
        delete(last)
    elif ended is not None:
        delete_pod(api, last)
        # its name must be free: a try that is started twice launches its pod under the same one
        while _read(api, pod) is not None and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)


def ending(pod: k8s.V1Pod) -> Ending | None:
    """Return how a pod ended, None if it has not."""
    return ending_of(ApiClient().sanitize_for_serialization(pod))


def _read(api: Any, pod: k8s.V1Pod) -> k8s.V1Pod | None:
    with suppress_status(NOT_FOUND):
        current = api.read_namespaced_pod(pod.metadata.name, pod.metadata.namespace)
        return current if current.metadata.uid == pod.metadata.uid else None
    return None


def delete_pod(api: Any, pod: k8s.V1Pod) -> None:
    """Delete a pod, which may have gone by itself; a new one of the same name is another one's, and stays."""
    options = k8s.V1DeleteOptions(preconditions=k8s.V1Preconditions(uid=pod.metadata.uid))
    with suppress_status(NOT_FOUND, CONFLICT):
        api.delete_namespaced_pod(pod.metadata.name, pod.metadata.namespace, body=options)


def last_lines(api: Any, pod: k8s.V1Pod, limit: int = LOG_LINES) -> list[str]:
    """Return the last lines of a pod's log; none if there is no reading it, e.g. because it never started."""
    try:
        answer = api.read_namespaced_pod_log(
            pod.metadata.name,
            pod.metadata.namespace,
            container=BASE,
            tail_lines=limit,
            limit_bytes=LOG_BYTES,
            _preload_content=False,  # bytes: the client takes a text for JSON, and makes something else of it
            _request_timeout=(10, 60),
        )
    except (ApiException, HTTPError):
        return []
    return text_lines(answer.data)


def write(log: Any, pod: k8s.V1Pod, heading: str, lines: list[str]) -> None:
    """Log what a pod wrote, so that nobody takes it for the lines of the task that logs it."""
    number = (pod.metadata.labels or {}).get("try_number", "?")
    log.info("%s Log of pod %s of try %s, %s lines:", heading, pod.metadata.name, number, len(lines))
    for line in lines:
        log.info("try %s | %s", number, line)
    log.info("End of the log of pod %s.", pod.metadata.name)
