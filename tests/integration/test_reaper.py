"""The reaper deletes what nobody waits for, and nothing else: against a Kubernetes API over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from kubernetes.client.exceptions import ApiException

from evergreen.settings import Settings, get_settings
from evergreen_airflow.reaper import PodReaper
from kubernetes_kit import Api, Cluster, running_cluster
from operator_kit import Kit, task_context

pytestmark = pytest.mark.integration
RUN = "manual__2013-03-02T06:00:00+00:00_" + "x" * 100  # longer than a label may be
States = dict[str, dict[str, str | None]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Cluster, Api]]:
    with running_cluster() as (cluster, api):
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", cluster.connection(tmp_path / "kubeconfig"))
        monkeypatch.setenv("EVERGREEN_RUNTIME", "kubernetes")
        yield cluster, api


@pytest.fixture
def cluster(server: tuple[Cluster, Api], tmp_path: Path, settings: Settings) -> Cluster:
    """A cluster with the pod of one deferred step."""
    get_settings.cache_clear()
    kit = Kit(tmp_path, settings.state_dir)
    with pytest.raises(TaskDeferred):
        kit.operator().execute(task_context(run_id=RUN))
    assert len(server[0].pods()) == 1
    return server[0]


def reap(states: Mapping[str, Mapping[str, str | None]], *, dry_run: bool = False) -> dict[str, Any]:
    """Run the reaper in an Airflow that knows these states of the tasks of the DAG, by run."""
    asked: list[str] = []

    def get_task_states(dag_id: str, run_ids: list[str]) -> Mapping[str, Mapping[str, str | None]]:
        asked.append(dag_id)
        return {run: states[run] for run in run_ids if run in states}

    context = task_context(task_id="reap", params={"dry_run": dry_run})
    context["ti"].get_task_states = get_task_states
    found = PodReaper(task_id="reap").execute(context)  # type: ignore[arg-type]
    assert asked == ["tiny.ingest"] * bool(found["pods"])
    return found


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ({RUN: {"ingest": "success"}}, "its task has ended: success"),
        ({RUN: {"ingest": "failed"}}, "its task has ended: failed"),
        ({RUN: {"ingest": "removed"}}, "its task has ended: removed"),
        ({RUN: {"validate": "running"}}, "its task does not exist any more"),
        ({}, "its task does not exist any more"),
    ],
)
def test_a_pod_that_nobody_waits_for_is_deleted_and_its_log_kept(
    cluster: Cluster, capfd: pytest.CaptureFixture[str], states: States, why: str
) -> None:
    name = cluster.pod()["metadata"]["name"]
    assert reap(states, dry_run=True) == {"pods": 1, "deleted": {name: why}}
    assert len(cluster.pods()) == 1
    assert "a line of the pod's log" not in capfd.readouterr().out
    assert reap(states) == {"pods": 1, "deleted": {name: why}}
    assert cluster.pods() == []
    assert "try 1 | a line of the pod's log" in capfd.readouterr().out
    assert reap(states) == {"pods": 0, "deleted": {}}


def test_pods_are_deleted_though_their_logs_take_too_long(
    cluster: Cluster, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a node that is lost, whose kubelet is asked in vain for each."""
    monkeypatch.setattr("evergreen_airflow.reaper._LOG_SECONDS", 0.0)
    reap({})
    assert cluster.pods() == []
    assert "a line of the pod's log" not in capfd.readouterr().out


@pytest.mark.parametrize(
    "state", ["running", "deferred", "queued", "scheduled", "up_for_retry", "up_for_reschedule", "restarting", None]
)
def test_a_pod_whose_task_may_come_back_for_it_is_never_deleted(cluster: Cluster, state: str | None) -> None:
    assert reap({RUN: {"ingest": state}}) == {"pods": 1, "deleted": {}}
    assert len(cluster.pods()) == 1


@pytest.mark.parametrize(("late", "deleted"), [(timedelta(minutes=11), True), (timedelta(minutes=9), False)])
def test_a_pod_long_over_its_deadline_is_deleted_whatever_its_task(
    cluster: Cluster, late: timedelta, deleted: bool
) -> None:
    deadline = (datetime.now(UTC) - late).isoformat()
    cluster.report(cluster.pod(), metadata={"annotations": {"evergreen/deadline": deadline}})
    assert bool(reap({RUN: {"ingest": "deferred"}})["deleted"]) is deleted
    assert bool(cluster.pods()) is not deleted


@pytest.mark.parametrize("deadline", ["tomorrow", "", "2013-03-01T00:00:00"])
def test_a_deadline_that_is_none_keeps_its_pod_and_no_other(cluster: Cluster, deadline: str) -> None:
    cluster.report(cluster.pod(), metadata={"annotations": {"evergreen/deadline": deadline}})
    assert reap({RUN: {"ingest": "deferred"}}) == {"pods": 1, "deleted": {}}
    name = cluster.pod()["metadata"]["name"]
    assert reap({RUN: {"ingest": "failed"}})["deleted"] == {name: "its task has ended: failed"}


def test_pods_of_others_and_pods_on_their_way_out_are_left_alone(cluster: Cluster) -> None:
    leaving = {"deletionTimestamp": datetime.now(UTC).isoformat(), "finalizers": ["a/b"]}
    cluster.report(cluster.pod(), metadata=leaving)
    assert reap({}) == {"pods": 1, "deleted": {}}
    cluster.report(cluster.pod(), metadata={"labels": {"app.kubernetes.io/name": "another"}})
    assert reap({}) == {"pods": 0, "deleted": {}}


def test_nothing_is_deleted_when_airflow_cannot_be_asked(cluster: Cluster) -> None:
    def get_task_states(**_: Any) -> Any:
        raise RuntimeError("no answer")

    context = task_context(task_id="reap", params={"dry_run": False})
    context["ti"].get_task_states = get_task_states
    with pytest.raises(RuntimeError, match="no answer"):
        PodReaper(task_id="reap").execute(context)  # type: ignore[arg-type]
    assert len(cluster.pods()) == 1


def test_a_pod_that_went_meanwhile_is_no_error(cluster: Cluster, server: tuple[Cluster, Api]) -> None:
    server[1]["delete"] << 404
    assert reap({})["deleted"]


def test_a_refusal_to_delete_is_an_error(cluster: Cluster, server: tuple[Cluster, Api]) -> None:
    server[1]["delete"] << 403
    with pytest.raises(ApiException, match="403"):
        reap({})


def test_steps_that_are_processes_need_no_reaper(settings: Settings) -> None:
    with pytest.raises(AirflowSkipException, match="processes"):
        PodReaper(task_id="reap").execute(task_context())  # type: ignore[arg-type]
