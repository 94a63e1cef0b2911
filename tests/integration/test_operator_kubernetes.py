"""The kubernetes runtime: a Kubernetes API over real HTTP, Airflow's real trigger runner, and pods that really run.

A trigger is serialized and made anew, and a task re-enters in a new operator, as they do in another process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tenacity
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.triggers.base import TaskSkippedEvent, TaskSuccessEvent
from kubernetes.config import kube_config

from deferral_kit import Ended, launch, quick, resume, watch
from evergreen.settings import Settings, get_settings
from kubernetes_kit import NAMESPACE, Api, Cluster, matches, running_cluster
from operator_kit import Kit, task_context
from pod_policy import restricted_violations, schema_errors, unbounded

pytestmark = pytest.mark.integration
Context = dict[str, Any]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, Api]]:
    with running_cluster() as (cluster, api):
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", cluster.connection(tmp_path / "kubeconfig"))
        monkeypatch.delenv("KUBECONFIG", raising=False)
        yield cluster, api


@pytest.fixture
def cluster(server: tuple[Cluster, Api]) -> Cluster:
    return server[0]


@pytest.fixture
def kit(tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Kit:
    kit = Kit(tmp_path, settings.state_dir)
    monkeypatch.setenv("EVERGREEN_RUNTIME", "kubernetes")
    get_settings.cache_clear()
    return kit


def test_success(kit: Kit, cluster: Cluster) -> None:
    operator, context = quick(kit, 'return Result(facts={"rows": 3})'), task_context()
    deferred = launch(operator, context)
    pod = cluster.pod()
    sent = {name: value for name, value in pod.items() if name != "status"}
    assert (schema_errors(sent), restricted_violations(sent), unbounded(sent)) == ([], [], [])
    event = watch(deferred, cluster.run)
    value = resume(quick(kit), deferred, event, context)
    assert value == {"rows": 3, "status": "ok", "reason": ""}
    assert context["ti"].pushed["return_value"] == value
    assert cluster.pods() == []


def test_the_trigger_ends_what_succeeds(kit: Kit, cluster: Cluster) -> None:
    deferred = launch(quick(kit, 'return Result(facts={"rows": 3})'), task_context())
    ended = watch(deferred, cluster.run)
    assert isinstance(ended.event, TaskSuccessEvent)
    assert ended.xcoms == {"return_value": {"rows": 3, "status": "ok", "reason": ""}}
    assert cluster.pods() == []

    deferred = launch(quick(kit, 'return Result(status="skipped", reason="no data")'), task_context())
    ended = watch(deferred, cluster.run)
    assert isinstance(ended.event, TaskSkippedEvent)
    assert ended.xcoms == {"return_value": {"status": "skipped", "reason": "no data"}}
    assert cluster.pods() == []


def test_the_trigger_ends_a_step_of_a_newer_image_which_says_more_of_its_run(kit: Kit, cluster: Cluster) -> None:
    deferred = launch(quick(kit, 'request.run.__pydantic_extra__["cell"] = "eu"; return Result()'), task_context())
    ended = watch(deferred, cluster.run)
    assert isinstance(ended.event, TaskSuccessEvent)
    assert cluster.pods() == []


@pytest.mark.parametrize("told", ["outlets", "on_success_callback", "on_skipped_callback"])
def test_a_task_that_somebody_is_told_of_ends_in_a_worker_which_asks_the_cluster_for_nothing(
    kit: Kit, server: tuple[Cluster, Api], told: str
) -> None:
    """An end in the triggerer publishes no event of an asset, and calls no callback of a skip."""
    cluster, api = server
    options: dict[str, Any] = {told: [Asset("tiny.published") if told == "outlets" else print]}
    context = task_context(partition_key=None, params={"partition": "2013-03-01"})
    deferred = launch(quick(kit, 'return Result(facts={"rows": 3, "snapshot": 7})', **options), context)
    event = watch(deferred, cluster.run)
    assert (event["status"], event["pod_is_deleted"]) == ("success", True)
    assert cluster.pods() == []
    api["get"] << 500
    assert resume(quick(kit, **options), deferred, event, context)["rows"] == 3
    if told == "outlets":
        assert context["outlet_events"][Asset("tiny.published")].partition_keys == {"2013-03-01"}


@pytest.mark.parametrize("body", ["os._exit(0)", 'raise DataError("No rows.", "Load them.")'])
def test_the_trigger_ends_nothing_that_has_no_answer(kit: Kit, cluster: Cluster, body: str) -> None:
    event = watch(launch(quick(kit, body), task_context()), cluster.run)
    assert not event["pod_is_deleted"]
    assert len(cluster.pods()) == 1


def test_pod_is_the_rendered_one(kit: Kit, cluster: Cluster) -> None:
    import jinja2
    import yaml

    operator, context = quick(kit), task_context()
    operator.render_template_fields(context, jinja2.Environment())
    launch(operator, context)
    rendered, sent = yaml.safe_load(operator.rendered_pod), cluster.pod()
    assert sent["spec"] == rendered["spec"]
    assert sent["metadata"]["name"] == rendered["metadata"]["name"]


@pytest.mark.parametrize(
    ("body", "expected", "message"),
    [
        ('raise DataError("No rows.", "Load them.")', AirflowFailException, "data: No rows. Load them."),
        ('raise TemporaryError("No answer.", "Wait.")', AirflowException, "temporary: No answer. Wait."),
        ('return Result(status="skipped", reason="nothing there")', AirflowSkipException, "nothing there"),
        ("os._exit(0)", AirflowFailException, "exit code 0 but left no manifest"),
        ("os._exit(65)", AirflowFailException, "exit code 65"),
    ],
)
def test_end_follows_from_the_manifest(
    kit: Kit, cluster: Cluster, body: str, expected: type[Exception], message: str
) -> None:
    context = task_context()
    deferred = launch(quick(kit, body), context)
    event = watch(deferred, cluster.run)
    with pytest.raises(expected, match=message) as caught:
        resume(quick(kit), deferred, event, context)
    assert type(caught.value) is expected
    assert cluster.pods() == []


def test_failed_pod_is_no_success_whatever_the_event_says(kit: Kit, cluster: Cluster) -> None:
    """apache/airflow #41867."""
    context = task_context()
    deferred = launch(quick(kit, "os._exit(70)"), context)
    event = watch(deferred, cluster.run)
    with pytest.raises(AirflowFailException, match="exit code 70"):
        resume(quick(kit), deferred, {**event, "status": "success"}, context)


def test_pod_that_is_gone_on_reentry_is_judged_by_its_manifest(kit: Kit, cluster: Cluster) -> None:
    """apache/airflow #66715: garbage-collected between the event and the re-entry."""
    context = task_context()
    deferred = launch(quick(kit, 'return Result(facts={"rows": 1})', on_finish_action="keep_pod"), context)
    event = watch(deferred, cluster.run)
    cluster.lose()
    assert resume(quick(kit), deferred, event, context)["rows"] == 1

    context = task_context(try_number=2)
    deferred = launch(quick(kit, "os._exit(0)"), context)
    event = watch(deferred, cluster.run)
    cluster.lose()
    assert event["status"] == "success"  # which the provider alone would believe
    with pytest.raises(AirflowException, match="only the manifest of another attempt"):
        resume(quick(kit), deferred, event, context)


def test_lost_pod_is_a_temporary_failure(kit: Kit, cluster: Cluster) -> None:
    context = task_context()
    deferred = launch(quick(kit), context)
    cluster.set_status(cluster.pod(), "Running")
    event = watch(deferred, cluster.lose)
    with pytest.raises(AirflowException, match="left no manifest") as caught:
        resume(quick(kit), deferred, event, context)
    assert not isinstance(caught.value, AirflowFailException)


@pytest.mark.parametrize("kill", [True, False])
def test_pod_is_deleted_when_the_deferred_task_is_marked_failed(kit: Kit, cluster: Cluster, kill: bool) -> None:
    """apache/airflow #62398, #44014. The twin: without the mark the pod stays and the trigger waits for it."""
    deferred = launch(quick(kit), task_context())

    def meanwhile() -> None:
        cluster.set_status(cluster.pod(), "Running")
        cluster.wait_until_watched()
        if not kill:
            cluster.set_status(cluster.pod(), "Succeeded", exit_code=0)

    event = watch(deferred, meanwhile, kill=kill)
    assert (event is None, cluster.pods() == []) == (kill, kill)


def test_pod_is_deleted_when_the_launching_task_is_killed(kit: Kit, cluster: Cluster) -> None:
    operator = quick(kit)
    launch(operator, task_context())
    operator.on_kill()
    assert cluster.pods() == []


def test_restarted_operator_adopts_the_pod_and_its_attempt(kit: Kit, cluster: Cluster) -> None:
    """apache/airflow #35676: the worker died after launching; the next try must not start a second pod."""
    first = task_context()
    launch(quick(kit, 'return Result(facts={"rows": 5})'), first)
    name = cluster.pod()["metadata"]["name"]
    cluster.set_status(cluster.pod(), "Running")

    second = task_context(try_number=2)
    deferred = launch(quick(kit), second)
    assert cluster.pod()["metadata"]["name"] == name
    event = watch(deferred, cluster.run)
    assert resume(quick(kit), deferred, event, second)["rows"] == 5
    manifest = kit.manifest(second)
    assert manifest is not None
    assert manifest.attempt == f"1-{first['ti'].id}"


def test_pod_whose_creation_was_not_answered_is_found_again(
    kit: Kit, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API server carried a request out but its answer was lost: the repeated request meets a conflict."""
    monkeypatch.setattr(PodManager.create_pod.retry, "wait", tenacity.wait_none())  # the provider's 15 s
    context = task_context()
    operator = quick(kit, durable=False)
    launch(operator, context)
    again = quick(kit, durable=False)
    again.cmds = operator.cmds
    deferred = launch(again, context)
    assert len(cluster.pods()) == 1
    assert resume(quick(kit), deferred, watch(deferred, cluster.run), context)["status"] == "ok"


# --- a worker died, and its pod is left ---------------------------------------------------------------------------


@pytest.mark.parametrize("exit_code", [0, 1, 137])
def test_log_of_a_pod_that_ended_unseen_is_in_the_next_try(
    kit: Kit, cluster: Cluster, capfd: pytest.CaptureFixture[str], exit_code: int
) -> None:
    """Its worker died before it could wait: the provider deletes such a pod, and its log with it."""
    launch(quick(kit), task_context())
    left = cluster.pod()["metadata"]["name"]
    cluster.set_status(cluster.pod(), "Failed" if exit_code else "Succeeded", exit_code=exit_code)
    capfd.readouterr()
    again = task_context(try_number=2)
    deferred = launch(quick(kit, "return Result()"), again)
    logged = capfd.readouterr().out
    assert f"An earlier try has left a pod, which ended with exit code {exit_code}" in logged
    assert f"Log of pod {left} of try 1" in logged
    assert "try 1 | a line of the pod's log" in logged
    assert cluster.pod()["metadata"]["name"] != left
    assert resume(quick(kit), deferred, watch(deferred, cluster.run), again)["status"] == "ok"


def test_pod_that_was_told_to_end_is_waited_for_and_not_adopted(
    kit: Kit, cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """A try that adopted it would fail with it, as if somebody else had deleted its pod."""
    launch(quick(kit), task_context())
    left = cluster.pod()
    with cluster.slow_to_end(left):
        cluster.lose()
        again = task_context(try_number=2)
        deferred = launch(quick(kit), again)
        launched = [pod["metadata"]["name"] for pod in cluster.pods()]
    assert left["metadata"]["name"] not in launched, "two pods of one step"
    assert f"try 1 | the last line of {left['metadata']['name']}" in capfd.readouterr().out
    assert resume(quick(kit), deferred, watch(deferred, cluster.run), again)["status"] == "ok"


def test_of_two_pods_that_run_one_is_adopted_and_the_other_ended(kit: Kit, cluster: Cluster) -> None:
    """The provider fails where it finds two."""
    launch(quick(kit), task_context())
    first = cluster.pod()
    times = {name: f"{year}-01-01T00:00:00Z" for name, year in (("older", 2029), ("newer", 2030))}
    cluster.report(first, metadata={"creationTimestamp": times["older"]})
    second = {**first, "metadata": {**first["metadata"], "name": "newer", "creationTimestamp": times["newer"]}}
    cluster.create({name: value for name, value in second.items() if name != "status"})
    with cluster.slow_to_end(first):
        launch(quick(kit), task_context(try_number=2))
    assert cluster.pod()["metadata"]["name"] == "newer"


def test_pod_on_a_lost_node_does_not_hold_the_next_try_for_ever(
    kit: Kit, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("evergreen_airflow.predecessor._PATIENCE", 1)
    launch(quick(kit), task_context())
    deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["test/kept"]}
    cluster.report(cluster.pod(), phase="Running", metadata=deleted)
    launch(quick(kit), task_context(try_number=2))
    assert len(cluster.pods()) == 2
    assert "does not end: its node does not answer" in capfd.readouterr().out


def test_pod_that_goes_before_it_is_taken_over_is_replaced(kit: Kit, server: tuple[Cluster, Api]) -> None:
    """Somebody (a node's drain, the reaper) deletes it after the next try has listed it."""
    cluster, api = server
    launch(quick(kit), task_context())
    cluster.set_status(left := cluster.pod(), "Running")
    api["patch"] << 404
    launch(quick(kit), task_context(try_number=2))
    assert len([pod for pod in cluster.pods() if pod["metadata"]["name"] != left["metadata"]["name"]]) == 1


def test_worker_that_comes_back_from_the_dead_leaves_the_pod_to_the_try_that_took_it_over(
    kit: Kit, cluster: Cluster
) -> None:
    """Its heartbeat was lost, not its life: told at last that it was given up, it cleans up after itself."""
    dead, adopter = quick(kit), quick(kit)
    launch(dead, task_context())
    adopter.cmds = dead.cmds
    deferred = launch(adopter, again := task_context(try_number=2))
    dead.on_kill()
    assert len(cluster.pods()) == 1
    assert resume(quick(kit), deferred, watch(deferred, cluster.run), again)["status"] == "ok"


def test_worker_that_is_killed_deletes_the_pod_it_launched_or_adopted(kit: Kit, cluster: Cluster) -> None:
    """The twin."""
    for try_number, launched in ((1, False), (2, True)):
        if launched:
            launch(quick(kit), task_context())
        operator = quick(kit)
        launch(operator, task_context(try_number=try_number))
        operator.on_kill()
        assert cluster.pods() == []


@pytest.mark.parametrize(
    "theirs", [{"name": "base"}, {"name": "other", "env": [{"name": "EVERGREEN_ATTEMPT", "value": "1"}]}]
)
def test_somebody_else_s_pod_of_the_same_name_is_refused_and_left_alone(
    kit: Kit, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, theirs: dict[str, Any]
) -> None:
    monkeypatch.setattr(PodManager.create_pod.retry, "wait", tenacity.wait_none())
    context = task_context()
    name = quick(kit).build_pod_request_obj(context, dry_run=True).metadata.name
    cluster.create({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"containers": [theirs]}})
    with pytest.raises(AirflowFailException, match=f"Pod {NAMESPACE}/{name} is not a step's"):
        quick(kit).execute(context)
    assert cluster.pod()["metadata"]["name"] == name


def test_refused_request_is_not_taken_for_a_conflict(kit: Kit, server: tuple[Cluster, Api]) -> None:
    _, api = server
    api["post"] << 403
    with pytest.raises(AirflowFailException, match=r"the cluster forbids the pod \(403\)"):
        quick(kit).execute(task_context())


def test_reentry_survives_an_api_server_that_is_down(kit: Kit, server: tuple[Cluster, Api]) -> None:
    cluster, api = server
    context = task_context()
    deferred = launch(quick(kit, 'return Result(facts={"rows": 2})'), context)
    api["delete"] << 403
    event = watch(deferred, cluster.run)
    assert not event["pod_is_deleted"]
    api["get"] << 403
    assert resume(quick(kit), deferred, event, context)["rows"] == 2


def test_kubeconfig_variable_beside_the_connection(
    kit: Kit, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both say where the cluster is; the provider's trigger fails with "mutually exclusive"."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    context = task_context()
    deferred = launch(quick(kit), context)
    event = watch(deferred, cluster.run)
    assert isinstance(event, Ended), event
    assert resume(quick(kit), deferred, event, context)["status"] == "ok"


def test_kubeconfig_variable_alone(kit: Kit, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    # the client reads the variable once, when it is imported
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    deferred = launch(quick(kit), task_context())
    monkeypatch.delenv("KUBECONFIG")  # the triggerer is another process
    assert isinstance(watch(deferred, cluster.run), Ended)


def test_deadline_is_the_pods_and_the_triggers(kit: Kit, cluster: Cluster) -> None:
    """apache/airflow #67227: execution_timeout alone does not bind a deferred task."""
    from datetime import timedelta

    context = task_context()
    operator = quick(kit, execution_timeout=timedelta(seconds=2))
    deferred = launch(operator, context)
    assert cluster.pod()["spec"]["activeDeadlineSeconds"] == 2
    cluster.set_status(cluster.pod(), "Running")
    event = watch(deferred)
    assert event["status"] == "timeout"
    with pytest.raises(AirflowException, match="deadline") as caught:
        resume(quick(kit), deferred, event, context)
    assert not isinstance(caught.value, AirflowFailException)
    assert cluster.pods() == []


def test_lines_are_logged_once_and_while_the_pod_runs(
    kit: Kit, cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """By the trigger, under its id, by which Airflow shows them in the log of the task; no worker is held."""
    context, logged = task_context(), []
    deferred = launch(quick(kit, logging_interval=0.1), context)

    def logged_lines(text: str) -> list[str]:
        logged.extend(capfd.readouterr().out.splitlines())
        return [line for line in logged if text in line]

    def meanwhile() -> None:
        cluster.set_status(cluster.pod(), "Running")
        cluster.write("the first line")
        deadline = time.monotonic() + 60
        while not logged_lines("the first line"):  # though the pod has not ended
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cluster.write("the last line")
        cluster.set_status(cluster.pod(), "Succeeded", exit_code=0)

    event = watch(deferred, meanwhile)
    with pytest.raises(AirflowFailException, match="left no manifest"):
        resume(quick(kit), deferred, event, context)
    for text in ("a line of the pod's log", "the first line", "the last line"):
        (line,) = logged_lines(text)
        assert "trigger_id=1" in line


def test_lines_the_trigger_could_not_read_are_logged_by_the_task(
    kit: Kit, cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    context = task_context()
    deferred = launch(quick(kit, on_finish_action="keep_pod"), context)
    event = watch(deferred, cluster.run)
    event["log_is_complete"] = False
    capfd.readouterr()
    resume(quick(kit), deferred, event, context)
    assert "a line of the pod's log" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("status", "retried", "message"),
    [
        ({"exit_code": 137, "container_reason": "OOMKilled"}, True, "next larger resource profile"),
        ({"exit_code": 137, "reason": "Evicted", "message": "The node was low on memory."}, True, "Evicted: The node"),
        ({"exit_code": 143, "reason": "DeadlineExceeded"}, True, "DeadlineExceeded"),
        ({"exit_code": 137}, True, "exit code 137"),
        ({"exit_code": 139}, True, "exit code 139, SIGSEGV.* After a crash it is tried once more"),
        ({"exit_code": 70}, False, "exit code 70"),
        ({"exit_code": 1}, False, "exit code 1"),
    ],
)
def test_cluster_decides_why_a_container_was_killed(
    kit: Kit, cluster: Cluster, status: dict[str, Any], retried: bool, message: str
) -> None:
    context = task_context()
    deferred = launch(quick(kit), context)
    event = watch(deferred, lambda: cluster.set_status(cluster.pod(), "Failed", **status))
    with pytest.raises(AirflowException, match=message) as caught:
        resume(quick(kit), deferred, event, context)
    assert isinstance(caught.value, AirflowFailException) is not retried


def unscheduled(message: str) -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


def waiting(reason: str, message: str) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    container = {"name": "base", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    scheduled = {"type": "PodScheduled", "status": "True"}
    return {"phase": "Pending", "conditions": [scheduled], "containerStatuses": [container]}


CANNOT_START = {
    "image pull back-off": (waiting("ImagePullBackOff", "dial tcp: i/o timeout"), True, "its image cannot be pulled"),
    "no such image": (
        waiting("ErrImagePull", "step:9: not found"),
        False,
        r"its image cannot be pulled .*step:9: not found.*Check EVERGREEN_STEP_IMAGE \(i\), and imagePullSecrets",
    ),
    "busy registry": (waiting("ErrImagePull", "toomanyrequests: denied"), True, "its image cannot be pulled"),
    "image name": (waiting("InvalidImageName", "couldn't parse image"), False, "its image has no valid name"),
    "missing secret": (
        waiting("CreateContainerConfigError", 'secret "evergreen-secrets" not found'),
        False,
        'a Secret or ConfigMap that it needs is missing .*secret "evergreen-secrets" not found',
    ),
    "no room": (
        unscheduled("0/3 nodes are available: 3 Insufficient cpu."),
        True,
        "no node has room .*Insufficient cpu",
    ),
    "taint": (
        unscheduled("0/1 nodes are available: 1 node(s) had untolerated taint {a: b}."),
        False,
        "no node may take",
    ),
    "silent node": (
        {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]},
        True,
        "its node did",
    ),
    "silent scheduler": ({"phase": "Pending"}, True, "found no node within 5 s"),
}


@pytest.mark.parametrize("cause", CANNOT_START)
def test_pod_that_cannot_start_is_given_up_with_its_cause(
    kit: Kit, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], cause: str
) -> None:
    """Not after the task's timeout, an hour, but after the time the settings give such a pod; and it is deleted."""
    # counted from the trigger's start: long enough to report what is wrong meanwhile
    for name, seconds in (("SCHEDULE", "5"), ("START", "1"), ("STUCK", "1")):
        monkeypatch.setenv(f"EVERGREEN_POD_{name}_SECONDS", seconds)
    get_settings.cache_clear()
    status, retried, message = CANNOT_START[cause]
    context = task_context()
    deferred = launch(quick(kit), context)

    def meanwhile() -> None:
        cluster.wait_until_watched()
        cluster.tell(cluster.pod(), "Reason", "an event of the pod")
        cluster.report(cluster.pod(), **status)

    event = watch(deferred, meanwhile)
    with pytest.raises(AirflowException, match=f"step ingest of tiny never started .*{message}") as caught:
        resume(quick(kit), deferred, event, context)
    assert isinstance(caught.value, AirflowFailException) is not retried
    assert cluster.pods() == []
    assert "Pod event: Warning Reason: an event of the pod" in capfd.readouterr().out


@pytest.mark.parametrize(("cause", "retried"), [("step:9: not found", False), ("503 Service Unavailable", True)])
def test_kubelet_that_backs_off_has_said_why_before(
    kit: Kit, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, cause: str, retried: bool
) -> None:
    monkeypatch.setenv("EVERGREEN_POD_STUCK_SECONDS", "2")
    get_settings.cache_clear()
    context = task_context()
    deferred = launch(quick(kit), context)

    def meanwhile() -> None:
        cluster.wait_until_watched()
        cluster.report(cluster.pod(), **waiting("ErrImagePull", cause))
        time.sleep(0.5)  # the trigger sees both
        cluster.report(cluster.pod(), **waiting("ImagePullBackOff", 'Back-off pulling image "step:9"'))

    event = watch(deferred, meanwhile)
    with pytest.raises(AirflowException, match=cause) as caught:
        resume(quick(kit), deferred, event, context)
    assert isinstance(caught.value, AirflowFailException) is not retried


def test_pod_that_overcomes_its_obstacle_runs(kit: Kit, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: what goes away in time does no harm."""
    monkeypatch.setenv("EVERGREEN_POD_STUCK_SECONDS", "60")
    get_settings.cache_clear()
    context = task_context()
    deferred = launch(quick(kit), context)

    def meanwhile() -> None:
        cluster.wait_until_watched()
        cluster.report(cluster.pod(), **waiting("ImagePullBackOff", "dial tcp: i/o timeout"))
        cluster.run()

    assert resume(quick(kit), deferred, watch(deferred, meanwhile), context)["status"] == "ok"


def disrupted(reason: str) -> list[dict[str, Any]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "as it is"}]


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (disrupted("EvictionByEvictionAPI"), "evicted, as when its node is drained"),
        (disrupted("PreemptionByScheduler"), "a pod of higher priority took its place"),
        (disrupted("DeletionByTaintManager"), "its node was lost"),
        ([], "its pod was deleted, and not by Airflow"),
    ],
)
def test_pod_that_is_taken_away_says_by_whom_although_it_is_gone(
    kit: Kit, cluster: Cluster, conditions: list[dict[str, Any]], message: str
) -> None:
    context = task_context()
    deferred = launch(quick(kit), context)

    def meanwhile() -> None:
        cluster.wait_until_watched()
        cluster.set_status(cluster.pod(), "Running", conditions=conditions)
        cluster.lose()

    event = watch(deferred, meanwhile)
    with pytest.raises(AirflowException, match=message) as caught:
        resume(quick(kit), deferred, event, context)
    assert not isinstance(caught.value, AirflowFailException)


def test_pod_on_a_node_that_does_not_answer_is_given_up(
    kit: Kit, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays Terminating for ever: nobody is there who could say that its container has ended."""
    monkeypatch.setattr("evergreen_airflow.pod_trigger._NODE_LOST_SECONDS", 0.5)
    context = task_context()
    operator = quick(kit, termination_grace_period=0)
    deferred = launch(operator, context)

    def meanwhile() -> None:
        deleted = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["test/kept"]}
        cluster.report(cluster.pod(), phase="Running", metadata=deleted)

    event = watch(deferred, meanwhile)
    assert "its node does not answer" in event["message"]
    with pytest.raises(AirflowException, match="its node does not answer") as caught:
        resume(quick(kit), deferred, event, context)
    assert not isinstance(caught.value, AirflowFailException)


@pytest.mark.parametrize(
    ("message", "expected", "said"),
    [
        (
            "pods is forbidden: exceeded quota: steps, requested: limits.memory=2Gi",
            AirflowException,
            "quota is used up",
        ),
        ("pods is forbidden: User x cannot create resource pods", AirflowFailException, "the cluster forbids the pod"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', AirflowFailException, "see what a webhook"),
    ],
)
def test_refused_pod_says_why(
    kit: Kit, server: tuple[Cluster, Api], message: str, expected: type[Exception], said: str
) -> None:
    _, api = server
    api["post"] << {"status": 403, "kind": "Status", "message": message} << 403
    with pytest.raises(AirflowException, match=said) as caught:
        quick(kit).execute(task_context())
    assert type(caught.value) is expected


def test_out_of_memory_pod_comes_back_larger(kit: Kit, cluster: Cluster) -> None:
    context = task_context()
    deferred = launch(quick(kit), context)
    oom = {"exit_code": 137, "container_reason": "OOMKilled"}
    event = watch(deferred, lambda: cluster.set_status(cluster.pod(), "Failed", **oom))
    with pytest.raises(AirflowException, match="next larger"):
        resume(quick(kit), deferred, event, context)
    launch(quick(kit), task_context(try_number=2))
    limits = cluster.pod()["spec"]["containers"][0]["resources"]["limits"]
    assert limits["memory"] == "6Gi"


def test_crashed_pod_comes_back_once(kit: Kit, cluster: Cluster) -> None:
    for try_number, expected in ((1, AirflowException), (2, AirflowFailException)):
        context = task_context(try_number=try_number)
        deferred = launch(quick(kit), context)
        event = watch(deferred, lambda: cluster.set_status(cluster.pod(), "Failed", exit_code=139))
        with pytest.raises(AirflowException, match="SIGSEGV") as caught:
            resume(quick(kit), deferred, event, context)
        assert type(caught.value) is expected


def test_refused_upstream_skips_without_a_pod(kit: Kit, cluster: Cluster) -> None:
    context = task_context(task_id="gate")
    deferred = launch(quick(kit, 'return Result(status="refused", reason="not better")', step="gate"), context)
    event = watch(deferred, cluster.run)
    assert resume(quick(kit, step="gate"), deferred, event, context)["status"] == "refused"
    with pytest.raises(AirflowSkipException, match="gate: not better"):
        quick(kit, step="register", upstream={"gate": "gate"}).execute(task_context(task_id="register"))
    assert cluster.pods() == []


def test_label_selectors_of_the_stand_in() -> None:
    labels = {"a": "1", "b": "2"}
    assert matches(labels, "a=1,b!=1,!c,a")
    for selector in ("a=2", "b!=2", "!a", "c", "a=1,c=1"):
        assert not matches(labels, selector)
