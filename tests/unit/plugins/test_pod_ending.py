"""What became of a pod: every cause with its class, in plain words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evergreen.contract import FailureClass
from evergreen_airflow.ending import Ending
from evergreen_airflow.pod_ending import ending_of, is_running, obstacle_of, refusal, slow_start

TEMPORARY, CONFIGURATION, MEMORY = FailureClass.TEMPORARY, FailureClass.CONFIGURATION, FailureClass.OUT_OF_MEMORY


def pod(phase: str = "Running", *, metadata: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    state = {name: status.pop(name) for name in ("running", "waiting", "terminated") if name in status}
    containers = [{"name": "sidecar", "state": {"running": {}}}, {"name": "base", "state": state}]
    if condition := status.pop("condition", None):
        status["conditions"] = [{"type": "Ready", "status": "False"}, condition]
    return {
        "metadata": metadata or {},
        "spec": {},
        "status": {"phase": phase, "containerStatuses": containers if state else None, **status},
    }


def terminated(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, "message": message}


def disrupted(reason: str, message: str = "") -> dict[str, Any]:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


CRASH = """Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "/venv/site-packages/ray/worker.py", line 5 in connect
  File "/app/evergreen/training/private_ray.py", line 9 in private_ray"""

ENDINGS = {
    "success": (pod("Succeeded", terminated=terminated(0, "Completed")), None, "ended with exit code 0"),
    "success, of which only the phase is left": (pod("Succeeded"), None, "ended with exit code 0"),
    "own failure": (
        pod("Failed", terminated=terminated(65, message="INFO x\nerror: no rows. Load them.\n\n")),
        None,
        "exit code 65 (error: no rows. Load them.)",
    ),
    "own limit of memory": (pod("Failed", terminated=terminated(137, "OOMKilled")), MEMORY, "out of memory"),
    "killed, and not for its memory": (pod("Failed", terminated=terminated(137)), TEMPORARY, "137 (killed)"),
    "crash, with faulthandler's report": (
        pod("Failed", terminated=terminated(139, message=f"{CRASH}\n\nExtension modules: a, b (total: 2)\n")),
        None,
        "exit code 139, SIGSEGV (Segmentation fault, called from ray/worker.py:5 in connect)",
    ),
    "crash, of whose report the end is left": (
        pod("Failed", terminated=terminated(134, message="les: a, b (total: 2)\n")),
        None,
        "ended with exit code 134, SIGABRT",
    ),
    "eviction": (
        pod("Failed", reason="Evicted", message="The node was low on resource: memory. ", terminated=terminated(137)),
        TEMPORARY,
        "its node evicted it (Evicted: The node was low on resource: memory.)",
    ),
    "eviction for the step's own disk": (
        pod("Failed", reason="Evicted", message='Usage of EmptyDir volume "tmp" exceeds the limit "20Gi". '),
        CONFIGURATION,
        "its disk is full",
    ),
    "deadline": (
        pod("Failed", reason="DeadlineExceeded", message="Pod was active on the node longer than the deadline"),
        TEMPORARY,
        "stopped at its deadline, the task's execution_timeout",
    ),
    "node shutdown": (
        pod("Failed", reason="Terminated", message="Pod was terminated in response to imminent node shutdown."),
        TEMPORARY,
        "its node is shutting down",
    ),
    "node lost, told by its status": (pod("Unknown", reason="NodeLost", terminated=terminated(1)), TEMPORARY, "lost"),
    "node lost, told by its container": (
        pod("Failed", terminated=terminated(137, "ContainerStatusUnknown")),
        TEMPORARY,
        "its node lost track of it",
    ),
    "refused by its node": (pod("Failed", reason="OutOfcpu", message="Node didn't have enough"), TEMPORARY, "no room"),
    "unknown reason": (pod("Failed", reason="SomethingNew", message="Who knows"), TEMPORARY, "SomethingNew: Who knows"),
    "drain": (
        pod("Failed", condition=disrupted("EvictionByEvictionAPI", "evicting"), terminated=terminated(143)),
        TEMPORARY,
        "it was evicted, as when its node is drained",
    ),
    "preemption": (
        pod("Failed", condition=disrupted("PreemptionByScheduler"), terminated=terminated(143)),
        TEMPORARY,
        "a pod of higher priority took its place",
    ),
    "lost node's pod, deleted by the control plane": (
        pod(
            condition=disrupted("DeletionByTaintManager"), metadata={"deletionTimestamp": "t"}, terminated=terminated(1)
        ),
        TEMPORARY,
        "its node was lost, or tainted against it",
    ),
    "deleted by hand": (
        pod("Failed", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}, terminated=terminated(143)),
        TEMPORARY,
        "its pod was deleted, and not by Airflow",
    ),
    "image without the command": (
        pod("Failed", terminated=terminated(128, "StartError", 'exec: "python": not found')),
        CONFIGURATION,
        'its container could not start: exec: "python": not found',
    ),
    "failed before any container": (pod("Failed", message="something"), TEMPORARY, "ended (something)"),
}


@pytest.mark.parametrize("cause", ENDINGS)
def test_every_end_has_its_class_and_says_its_cause(cause: str) -> None:
    found, failure_class, said = ENDINGS[cause]
    ending = ending_of(found)
    assert ending is not None
    assert ending.failure_class is failure_class
    assert said in str(ending)
    assert Ending.from_dict(json.loads(json.dumps(ending.as_dict()))) == ending


@pytest.mark.parametrize(
    "found",
    [
        {},
        pod("Pending"),
        pod("Running", running={}),
        pod("Running", running={}, metadata={"deletionTimestamp": "t"}),  # within its grace
        pod("Running", running={}, condition=disrupted("EvictionByEvictionAPI")),
        pod("Unknown", running={}, reason="NodeLost"),  # it may come back
        pod("Pending", waiting={"reason": "ImagePullBackOff"}),
    ],
)
def test_what_has_not_ended_has_no_end(found: dict[str, Any]) -> None:
    assert ending_of(found) is None


def test_the_last_that_was_seen_of_a_pod_tells_its_end() -> None:
    assert ending_of(pod("Succeeded", terminated=terminated(0)), gone=True) == Ending(0)
    for last in ({}, pod("Running", running={})):
        ending = ending_of(last, gone=True)
        assert ending is not None
        assert (ending.failure_class, ending.detail) == (TEMPORARY, "its pod was deleted, and not by Airflow")
    drained = ending_of(pod("Running", running={}, condition=disrupted("EvictionByEvictionAPI")), gone=True)
    assert drained is not None
    assert "drained" in drained.detail


OBSTACLES = {
    "no valid image": (
        {"reason": "InvalidImageName", "message": "couldn't parse"},
        CONFIGURATION,
        "no valid name",
        True,
    ),
    "image that does not exist": (
        {"reason": "ErrImagePull", "message": "manifest unknown: step:9 not found"},
        CONFIGURATION,
        "its image cannot be pulled (ErrImagePull: manifest unknown",
        False,
    ),
    "image that may not be read": (
        {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x": pull access denied'},
        CONFIGURATION,
        "its image cannot be pulled",
        False,
    ),
    "registry that is down": (
        {"reason": "ImagePullBackOff", "message": "dial tcp: i/o timeout"},
        TEMPORARY,
        "its image cannot be pulled",
        False,
    ),
    "registry that is busy": (
        {"reason": "ErrImagePull", "message": "denied: toomanyrequests: rate limit exceeded"},
        TEMPORARY,
        "its image cannot be pulled",
        False,
    ),
    "registry whose certificate nobody trusts": (
        {"reason": "ErrImagePull", "message": "tls: failed to verify certificate: x509: signed by unknown authority"},
        CONFIGURATION,
        "its image cannot be pulled",
        False,
    ),
    "image for another architecture": (
        {"reason": "ErrImagePull", "message": "no match for platform in manifest: not found"},
        CONFIGURATION,
        "its image cannot be pulled",
        False,
    ),
    "registry that fails": (
        {"reason": "ErrImagePull", "message": "failed to authorize: unauthorized: 503 Service Unavailable"},
        TEMPORARY,
        "its image cannot be pulled",
        False,
    ),
    "missing secret": (
        {"reason": "CreateContainerConfigError", "message": 'secret "evergreen-secrets" not found'},
        CONFIGURATION,
        'a Secret or ConfigMap that it needs is missing (CreateContainerConfigError: secret "evergreen-secrets"',
        False,
    ),
}


@pytest.mark.parametrize("cause", OBSTACLES)
def test_every_obstacle_to_a_container_has_its_class(cause: str) -> None:
    waiting, failure_class, said, final = OBSTACLES[cause]
    obstacle = obstacle_of(pod("Pending", waiting=waiting))
    assert obstacle is not None
    assert (obstacle.ending.failure_class, obstacle.final, obstacle.scheduled) == (failure_class, final, True)
    assert str(obstacle.ending).startswith("never started (")
    assert said in str(obstacle.ending)
    assert obstacle.ending.hint


@pytest.mark.parametrize(
    ("message", "failure_class", "said"),
    [
        (
            "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available: 3 No preemption victims "
            "found for incoming pod.",
            TEMPORARY,
            "no node has room",
        ),
        ("0/3 nodes are available: 3 node(s) had untolerated taint {gpu: yes}.", CONFIGURATION, "no node may take it"),
        ("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.", CONFIGURATION, "no node may"),
        (
            "0/3 nodes are available: 1 node(s) had untolerated taint {gpu: yes}, 2 Insufficient memory.",
            TEMPORARY,
            "no node has room",
        ),
        (
            "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }.",
            TEMPORARY,
            "room",
        ),
        ("0/1 nodes are available: 1 node(s) were unschedulable.", TEMPORARY, "no node has room"),
        ("0/1 nodes are available: 1 Too many pods.", TEMPORARY, "no node has room"),
    ],
)
def test_a_pod_without_a_node_says_why(message: str, failure_class: FailureClass, said: str) -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    obstacle = obstacle_of(pod("Pending", condition=condition))
    assert obstacle is not None
    assert (obstacle.ending.failure_class, obstacle.scheduled) == (failure_class, False)
    assert said in str(obstacle.ending)
    assert message[:40] in str(obstacle.ending)


def test_a_pod_that_starts_has_no_obstacle() -> None:
    scheduled = {"type": "PodScheduled", "status": "True"}
    assert obstacle_of({}) is None
    assert obstacle_of(pod("Pending", condition=scheduled)) is None
    assert obstacle_of(pod("Pending", condition=scheduled, waiting={"reason": "ContainerCreating"})) is None
    assert is_running(pod(running={}))
    assert not is_running(pod(waiting={}))
    assert "found no node within 600 s" in str(slow_start(pod("Pending"), 600))
    assert "its node did not start it" in str(slow_start(pod("Pending", condition=scheduled), 600))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', "webhook"),
        ('pods "x" is forbidden: maximum memory usage per Container is 8Gi, but limit is 16Gi', "LimitRange"),
        ('pods "x" is forbidden: no PriorityClass with name steps was found', "priorityClassName"),
        ('pods "x" is forbidden: error looking up service account a/b: not found', "EVERGREEN_POD_SERVICE_ACCOUNT"),
        ("unable to create new content in namespace a because it is being terminated", "is being deleted"),
        ('admission webhook "policy.example.com" denied the request: no registry but ours', "names the webhook"),
        ("pods is forbidden: User cannot create resource pods", "rights of Airflow's service account"),
    ],
)
def test_a_refusal_of_admission_says_what_to_do(message: str, said: str) -> None:
    error = refusal(403, json.dumps({"kind": "Status", "message": message}))
    assert error.failure_class is CONFIGURATION
    assert said in error.hint


@pytest.mark.parametrize(
    ("status", "message", "failure_class"),
    [
        (403, "pods is forbidden: exceeded quota: steps, requested: limits.memory=2Gi, used: 8Gi", TEMPORARY),
        (403, "pods is forbidden: User cannot create resource pods", CONFIGURATION),
        (403, 'pods "x" is forbidden: violates PodSecurity "restricted:latest"', CONFIGURATION),
        (404, 'namespaces "evergreen-steps" not found', CONFIGURATION),
        (422, "Pod is invalid: spec.tolerations", CONFIGURATION),
        (500, "etcdserver: request timed out", TEMPORARY),
        (None, "", TEMPORARY),
    ],
)
def test_a_refused_pod_has_its_class(status: int | None, message: str, failure_class: FailureClass) -> None:
    error = refusal(status, json.dumps({"kind": "Status", "message": message}))
    assert error.failure_class is failure_class
    assert message in str(error)
    assert "not json" in str(refusal(status, "not json"))
