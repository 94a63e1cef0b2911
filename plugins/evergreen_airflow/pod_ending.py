"""What became of a pod, or keeps it from starting, in plain words and with its failure class.

Everything here reads the pod as the API serves it (a mapping), so that the triggerer needs no model classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evergreen.contract import EXIT_CODES, FailureClass
from evergreen_airflow.ending import Ending, LastWords
from evergreen_airflow.outcome import StepFailed

Pod = Mapping[str, Any]

BASE = "base"
"""The container of the step; the others, if an admission controller added any, do not count."""

_KILLED = EXIT_CODES[FailureClass.OUT_OF_MEMORY]
_DISRUPTIONS = {
    "PreemptionByScheduler": "a pod of higher priority took its place",
    "DeletionByTaintManager": "its node was lost, or tainted against it",
    "EvictionByEvictionAPI": "it was evicted, as when its node is drained",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node stopped it",
}
"""Reasons of the condition DisruptionTarget (Kubernetes documentation, Pod disruption conditions)."""
_REASONS = {
    "Evicted": "its node evicted it",
    "Preempting": "its node made room for a critical pod",
    "NodeShutdown": "its node is shutting down",
    "Shutdown": "its node is shutting down",
    "Terminated": "its node is shutting down",
    "NodeLost": "its node is lost",
    "NodeAffinity": "its node does not fit it any more",
    "DeadlineExceeded": "stopped at its deadline, the task's execution_timeout",
    "UnexpectedAdmissionError": "its node had no room for it",
}
"""Reasons that a kubelet or the control plane gives a failed pod."""
_OWN_LIMIT = ("ephemeral", "EmptyDir")
_CANNOT_START = frozenset({"StartError", "ContainerCannotRun"})
_IMAGE = {
    "InvalidImageName": "its image has no valid name",
    "ErrImageNeverPull": "its image is not on the node, and may not be pulled",
    "ErrImagePull": "its image cannot be pulled",
    "ImagePullBackOff": "its image cannot be pulled",
    "RegistryUnavailable": "its image cannot be pulled",
}
_CONTAINER = {
    "CreateContainerConfigError": "a Secret or ConfigMap that it needs is missing",
    "CreateContainerError": "its container cannot be made",
    "RunContainerError": "its container cannot be started",
}
_REFUSED = (
    "not found",
    "manifest unknown",
    "no match for platform",
    "denied",
    "unauthorized",
    "forbidden",
    "authorization failed",
    "x509: ",
    "server gave http response to https client",
)
_BUSY = (
    "too many requests",
    "toomanyrequests",
    "rate limit",
    "qps exceeded",
    "internal server error",
    "bad gateway",
    "service unavailable",
    "gateway timeout",
    "gateway time-out",
    "i/o timeout",
    "deadline exceeded",
)
"""What a registry or the way to it says in passing, whatever else is in the message."""
_PLACE = ("untolerated taint", "didn't match pod's node affinity")
_MOMENTARY = ("insufficient", "too many pods", "unschedulable", "node.kubernetes.io/", "volume", "topology")
_IMAGE_HINT = "Check EVERGREEN_STEP_IMAGE ({image}), and imagePullSecrets in EVERGREEN_POD_FILE."
_CAUSELESS = re.compile('back-off pulling image ("[^"]*")?$')
_ADMISSION = {
    "violates PodSecurity": "A step's own pod does not: see what a webhook, or EVERGREEN_POD_FILE, adds to the pods.",
    "usage per Container is": "Lower the step's profile, or raise the namespace's LimitRange (the chart's limitRange).",
    "usage per Pod is": "Lower the step's profile, or raise the namespace's LimitRange (the chart's limitRange).",
    "no PriorityClass": "Create it, or correct priorityClassName in EVERGREEN_POD_FILE.",
    "service account": "Create it, or correct EVERGREEN_POD_SERVICE_ACCOUNT.",
    "being terminated": "EVERGREEN_NAMESPACE is being deleted: create it again, with what was in it.",
    "admission webhook": "A policy of this cluster refuses it: the message names the webhook that knows which.",
}
"""What to do about the refusals of admission, by words of theirs."""
_PLACE_HINT = "Check nodeSelector and tolerations in EVERGREEN_POD_FILE, and the labels and taints of the nodes."


@dataclass(frozen=True)
class Obstacle:
    """What keeps a pending pod from starting; it may go away by itself."""

    ending: Ending
    """How the step ends if it does not."""
    scheduled: bool
    final: bool = False
    """It never goes away by itself."""
    causeless: bool = False
    """It does not say why: that was said before."""


def ending_of(pod: Pod, *, gone: bool = False) -> Ending | None:
    """Return how a pod ended, or None if it has not; ``gone`` says that this is the last that was seen of it."""
    status = pod.get("status") or {}
    terminated = _container(pod, "terminated")
    code = terminated.get("exitCode")
    if not (gone or terminated or status.get("phase") in {"Succeeded", "Failed"}):
        return None
    if terminated.get("reason") == "OOMKilled":
        return Ending(code, "out of memory: it used more than its limit", FailureClass.OUT_OF_MEMORY)
    if code == 0 or (status.get("phase") == "Succeeded" and not terminated):
        return Ending(0)
    if surroundings := _surroundings(pod, code):
        return surroundings
    if gone or (pod.get("metadata") or {}).get("deletionTimestamp"):
        return Ending(code, "its pod was deleted, and not by Airflow", FailureClass.TEMPORARY)
    if not terminated:
        return Ending(None, status.get("message") or f"phase {status.get('phase')}", FailureClass.TEMPORARY)
    return _container_ending(terminated)


def _container_ending(terminated: Mapping[str, Any]) -> Ending:
    code, reason = terminated.get("exitCode"), terminated.get("reason") or ""
    detail = _last_words(terminated.get("message") or "") or (reason if reason != "Error" else "")
    if reason in _CANNOT_START:
        return Ending(code, f"its container could not start: {detail}", FailureClass.CONFIGURATION)
    if reason == "ContainerStatusUnknown":
        return Ending(None, "its node lost track of it", FailureClass.TEMPORARY)
    if code == _KILLED:  # and not for its memory
        return Ending(code, detail or "killed", FailureClass.TEMPORARY)
    return Ending(code, detail)


def _surroundings(pod: Pod, code: int | None) -> Ending | None:
    """Return the ending that somebody else decided: a node, the scheduler, a deadline."""
    status = pod.get("status") or {}
    reason, message = status.get("reason") or "", status.get("message") or ""
    if reason and (status.get("phase") == "Failed" or reason in _REASONS):
        text = _REASONS.get(reason) or ("its node had no room for it" if reason.startswith("OutOf") else reason)
        detail = f"{text} ({reason}: {message.strip()})" if message else f"{text} ({reason})"
        if reason == "Evicted" and "exceed" in message and any(word in message for word in _OWN_LIMIT):
            return Ending(code, f"its disk is full: {detail}", FailureClass.CONFIGURATION)
        return Ending(code, detail, FailureClass.TEMPORARY)
    target = _condition(pod, "DisruptionTarget")
    if target.get("status") == "True":
        text = _DISRUPTIONS.get(target.get("reason", ""), "it was stopped")
        reported = ": ".join(filter(None, (target.get("reason"), (target.get("message") or "").strip())))
        return Ending(code, f"{text} ({reported})", FailureClass.TEMPORARY)
    return None


def obstacle_of(pod: Pod) -> Obstacle | None:
    """Return what keeps a pod from starting, or None if nothing does."""
    waiting = _container(pod, "waiting")
    reason, message = waiting.get("reason", ""), (waiting.get("message") or "").strip()
    if reason in _IMAGE:
        return _image_obstacle(reason, message, _status(pod).get("image") or "")
    if reason in _CONTAINER:
        ending = _never(_CONTAINER[reason], reason, message, FailureClass.CONFIGURATION, "Create what it names.")
        return Obstacle(ending, scheduled=True)
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return _unscheduled(scheduled)
    return None


def is_scheduled(pod: Pod) -> bool:
    """Tell whether a pod has a node."""
    return bool((pod.get("spec") or {}).get("nodeName")) or _condition(pod, "PodScheduled").get("status") == "True"


def is_running(pod: Pod) -> bool:
    """Tell whether the step's container runs."""
    return (_status(pod).get("state") or {}).get("running") is not None


def slow_start(pod: Pod, seconds: float) -> Ending:
    """Return the ending of a pod that did not start in time and says nothing about why."""
    where = "its node did not start it" if is_scheduled(pod) else "it found no node"
    return Ending(None, f"{where} within {seconds:.0f} s", FailureClass.TEMPORARY, ran=False)


def refusal(status: int | None, body: str) -> StepFailed:
    """Return the failure of a pod that the API server refused to create."""
    try:
        message = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        message = body.strip()
    if status == 403 and "exceeded quota" in message:
        text = f"the namespace's quota is used up: {message}."
        return StepFailed(FailureClass.TEMPORARY, text, "It is tried again; raise the quota if this lasts.")
    if status in {401, 403}:
        rights = "Check the rights of Airflow's service account, and the policies of EVERGREEN_NAMESPACE."
        hint = next((do for words, do in _ADMISSION.items() if words in message), rights)
        return StepFailed(FailureClass.CONFIGURATION, f"the cluster forbids the pod ({status}): {message}.", hint)
    if status in {400, 404, 422}:
        hint = "Check EVERGREEN_NAMESPACE and EVERGREEN_POD_FILE."
        return StepFailed(FailureClass.CONFIGURATION, f"the cluster refuses the pod ({status}): {message}.", hint)
    return StepFailed(FailureClass.TEMPORARY, f"the cluster did not take the pod ({status}): {message}.")


def _image_obstacle(reason: str, message: str, image: str) -> Obstacle:
    text, final = message.lower(), reason in {"InvalidImageName", "ErrImageNeverPull"}
    refused = final or any(word in text for word in _REFUSED)
    busy = any(word in text for word in _BUSY)
    failure_class = FailureClass.CONFIGURATION if refused and not busy else FailureClass.TEMPORARY
    ending = _never(_IMAGE[reason], reason, message, failure_class, _IMAGE_HINT.format(image=image))
    return Obstacle(ending, scheduled=True, final=final, causeless=bool(_CAUSELESS.match(text)) or not text)


def _unscheduled(condition: Mapping[str, Any]) -> Obstacle:
    reason, message = condition.get("reason") or "Unschedulable", (condition.get("message") or "").strip()
    why = message.partition("preemption:")[0].lower()  # what comes after says why eviction of others would not help
    nowhere = any(word in why for word in _PLACE) and not any(word in why for word in _MOMENTARY)
    failure_class = FailureClass.CONFIGURATION if nowhere else FailureClass.TEMPORARY
    text = "no node may take it" if nowhere else "no node has room for it"
    hint = _PLACE_HINT if nowhere else "It is tried again; add nodes, or lower the step's profile, if this lasts."
    return Obstacle(_never(text, reason, message, failure_class, hint), scheduled=False)


def _never(text: str, reason: str, message: str, failure_class: FailureClass, hint: str) -> Ending:
    reported = f"{reason}: {message}" if message else reason
    return Ending(None, f"{text} ({reported})", failure_class, ran=False, hint=hint)


def _status(pod: Pod) -> Mapping[str, Any]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((status for status in statuses if status.get("name") == BASE), {})


def _container(pod: Pod, state: str) -> Mapping[str, Any]:
    return (_status(pod).get("state") or {}).get(state) or {}


def _condition(pod: Pod, kind: str) -> Mapping[str, Any]:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == kind), {})


def _last_words(message: str) -> str:
    """Return the line that says most: the end of the log stands in for a termination message."""
    words = LastWords()
    for line in message.splitlines():
        words.read(line)
    return words.crash or str(words)
