"""Every request to the Kubernetes API is one that the chart's Roles allow, and they allow no other.

Operator, trigger, reaper and Airflow's executor really make their requests, each with a token that names the
ServiceAccount of the pod that it runs in.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tenacity
import yaml
from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager
from airflow.sdk.exceptions import AirflowException
from chart_policies import schema_errors
from chart_rendering import objects, pick
from chart_rights import Right, asked, disagreements

from deferral_kit import launch, quick, resume, watch
from evergreen.settings import Settings, get_settings
from evergreen_airflow.reaper import PodReaper
from kubernetes_kit import NAMESPACE, Api, Cluster, running_cluster
from operator_kit import Kit, task_context
from pod_policy import restricted_violations

pytestmark = pytest.mark.integration
Asked = dict[str, set[Right]]
SCHEDULER, TRIGGERER, API_SERVER = "evergreen-scheduler", "evergreen-triggerer", "evergreen-api-server"
WORKER = "evergreen-worker"


class Caller:
    """Whose token the next requests carry."""

    def __init__(self, cluster: Cluster, kubeconfig: Path) -> None:
        self.cluster, self.kubeconfig = cluster, kubeconfig
        self.connection = cluster.connection(kubeconfig)

    def is_now(self, account: str) -> None:
        config = yaml.safe_load(self.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": account}
        self.kubeconfig.write_text(yaml.safe_dump(config))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Caller, Api]]:
    with running_cluster() as (cluster, api):
        api.resources["v1/pods"] = {"kind": "Pod", "namespaced": True, "verbs": ["list"]}  # Airflow's executor asks
        yield Caller(cluster, tmp_path / "kubeconfig"), api


@pytest.fixture
def kit(tmp_path: Path, settings: Settings, server: tuple[Caller, Api], monkeypatch: pytest.MonkeyPatch) -> Kit:
    kit = Kit(tmp_path, settings.state_dir)
    monkeypatch.setenv("EVERGREEN_RUNTIME", "kubernetes")
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", server[0].connection)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(PodManager.create_pod.retry, "wait", tenacity.wait_none())  # the provider's 15 s
    get_settings.cache_clear()
    return kit


def run_steps(kit: Kit, caller: Caller, launcher: str) -> None:
    """Let steps succeed, fail, be found again, be killed and be lost, and what is left be reaped."""
    cluster = caller.cluster
    fail(kit, caller, launcher)
    lose(kit, caller, launcher)

    caller.is_now(launcher)
    context = task_context(run_id="found again")
    launch(quick(kit, durable=False), context)
    found = launch(quick(kit, durable=False), context)
    caller.is_now(TRIGGERER)
    watch(found, lambda: cluster.set_status(cluster.pod(), "Running"), kill=True)
    assert cluster.pods() == []

    caller.is_now(launcher)
    killed = quick(kit)
    launch(killed, task_context(run_id="killed"))
    killed.on_kill()
    assert cluster.pods() == []

    launch(quick(kit), task_context(run_id="forgotten"))
    reap = task_context(task_id="reap", params={"dry_run": False})
    reap["ti"].get_task_states = lambda **_: {}
    PodReaper(task_id="reap").execute(reap)  # type: ignore[arg-type]
    assert cluster.pods() == []


def fail(kit: Kit, caller: Caller, launcher: str) -> None:
    """A step that fails, with events and a log; the task reads what the trigger could not."""
    caller.is_now(launcher)
    context = task_context(run_id="fails")
    deferred = launch(quick(kit), context)
    caller.is_now(TRIGGERER)

    def meanwhile() -> None:
        caller.cluster.wait_until_watched()
        caller.cluster.tell(caller.cluster.pod(), "Reason", "an event of the pod")
        caller.cluster.set_status(caller.cluster.pod(), "Failed", exit_code=1)

    event = watch(deferred, meanwhile)
    assert event["log_is_complete"]
    event["log_is_complete"] = False
    caller.is_now(launcher)
    with pytest.raises(AirflowException, match="exit code 1"):
        resume(quick(kit), deferred, event, context)
    assert caller.cluster.pods() == []


def lose(kit: Kit, caller: Caller, launcher: str) -> None:
    """A pod that is gone before anybody watches it."""
    caller.is_now(launcher)
    context = task_context(run_id="lost")
    deferred = launch(quick(kit), context)
    caller.cluster.lose()
    caller.is_now(TRIGGERER)
    event = watch(deferred)
    caller.is_now(launcher)
    with pytest.raises(AirflowException, match="deleted"):
        resume(quick(kit), deferred, event, context)


EXECUTOR = """
import json, sys, time, uuid
from types import SimpleNamespace
from pathlib import Path
import yaml
from airflow.executors.workloads import ExecuteTask, TaskInstance
from airflow.executors.workloads.base import BundleInfo
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.providers.cncf.kubernetes.executors.kubernetes_executor import KubernetesExecutor
from airflow.utils.state import TaskInstanceState

KUBECONFIG = Path(sys.argv[1])

def become(account):
    config = yaml.safe_load(KUBECONFIG.read_text())
    config["users"][0]["user"] = {"token": account}
    KUBECONFIG.write_text(yaml.safe_dump(config))

class Executor(KubernetesExecutor):  # what it asks of Airflow's database is answered here
    def _should_create_pod_for_job(self, task):
        return True

    def _get_task_instance_state(self, key, *, session):
        return TaskInstanceState.RUNNING

    def _alive_other_scheduler_job_ids(self):
        return set()

def started(job):
    executor = Executor()
    executor.job_id = job
    executor.start()
    return executor

def task(name):
    return TaskInstance(id=uuid.uuid4(), dag_version_id=uuid.uuid4(), task_id=name, dag_id="tiny.ingest", run_id="r",
        try_number=1, map_index=-1, pool_slots=1, queue="default", priority_weight=1)

def queue(executor, ti):
    workload = ExecuteTask(token="t", ti=ti, dag_rel_path="d.py", bundle_info=BundleInfo(name="b"), log_path="l")
    executor.queue_workload(workload, session=None)

def until(executor, condition):
    deadline = time.monotonic() + 60
    while True:
        executor.heartbeat()
        if condition():
            return
        assert time.monotonic() < deadline, executor.running
        time.sleep(0.1)

def stored(ti, job):
    key = TaskInstanceKey(ti.dag_id, ti.task_id, ti.run_id, ti.try_number, ti.map_index)
    more = {"key": key, "queued_by_job_id": job, "hostname": "", "executor_config": {}}
    return SimpleNamespace(**ti.model_dump() | more)

become("evergreen-scheduler")
first = started(7)
succeeds, fails, hangs = task("succeeds"), task("fails"), task("hangs")
for ti in (succeeds, fails, hangs):
    queue(first, ti)
until(first, lambda: first.running == {hangs.key})
become("evergreen-api-server")
messages, lines = Executor().get_task_log(stored(hangs, 7), 1)
assert "Found logs through kube API" in str(messages), messages
become("evergreen-scheduler")
second = started(8)
adopted = second.try_adopt_task_instances([stored(hangs, 7)])
assert adopted == [], adopted
second.revoke_task(ti=stored(hangs, 8))
for one in (first, second):
    one.end()
print("done")
"""


def run_executor(caller: Caller, folder: Path) -> list[dict[str, Any]]:
    """Run Airflow's executor over three tasks, and another one after it; return the pods that were made."""
    script, template, log = folder / "executor.py", folder / "pod.yaml", folder / "executor.log"
    script.write_text(EXECUTOR)
    template.write_text(pick(objects("kubernetes-executor"), "ConfigMap", "evergreen-worker")["data"]["pod.yaml"])
    options = {"IN_CLUSTER": "False", "CONFIG_FILE": str(caller.kubeconfig), "NAMESPACE": NAMESPACE}
    options |= {"POD_TEMPLATE_FILE": str(template)}
    environment = {**os.environ, **{f"AIRFLOW__KUBERNETES_EXECUTOR__{name}": one for name, one in options.items()}}
    ends = {"succeeds": ("Succeeded", 0), "fails": ("Failed", 1), "hangs": ("Running", None)}
    made: dict[str, dict[str, Any]] = {}
    with log.open("wb") as out:
        command = [sys.executable, str(script), str(caller.kubeconfig)]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            deadline = time.monotonic() + 300
            while process.poll() is None:
                assert time.monotonic() < deadline, log.read_text()
                for pod in caller.cluster.pods():
                    task = pod["metadata"]["annotations"]["task_id"]
                    if task not in made:
                        made[task] = pod
                        caller.cluster.set_status(pod, ends[task][0], exit_code=ends[task][1])
                time.sleep(0.05)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(30) == 0, log.read_text()
    return list(made.values())


def test_roles_allow_what_is_asked_and_nothing_else(kit: Kit, server: tuple[Caller, Api]) -> None:
    caller, api = server
    run_steps(kit, caller, SCHEDULER)
    needed = asked(list(api))
    assert set(needed) == {SCHEDULER, TRIGGERER}
    for case in ("trial", "production"):
        assert disagreements(objects(case), needed) == []
    assert_a_verb_less_or_more_is_seen(needed)


def assert_a_verb_less_or_more_is_seen(needed: Asked) -> None:
    less, more = objects("trial"), objects("trial")
    pick(less, "Role", "evergreen-step-launcher")["rules"][0]["verbs"].remove("patch")
    pick(more, "Role", "evergreen-step-watcher")["rules"][0]["verbs"].append("create")
    assert disagreements(less, needed) == [f"{SCHEDULER} may not patch pods"]
    assert disagreements(more, needed) == [f"{TRIGGERER} need not create pods"]


def test_roles_with_the_kubernetes_executor_as_well(kit: Kit, server: tuple[Caller, Api], tmp_path: Path) -> None:
    caller, api = server
    run_steps(kit, caller, WORKER)
    pods = run_executor(caller, tmp_path)
    needed = asked(list(api))
    assert set(needed) == {SCHEDULER, TRIGGERER, API_SERVER, WORKER}
    assert disagreements(objects("kubernetes-executor"), needed) == []
    assert [pod["metadata"]["annotations"]["task_id"] for pod in pods] == ["succeeds", "fails", "hangs"]
    for pod in pods:
        sent = {name: value for name, value in pod.items() if name != "status"}
        assert (schema_errors([sent], "1.36"), restricted_violations(sent)) == ([], [])
