"""The runtime "kubernetes" in a whole Airflow, against a stand-in for the Kubernetes API and a kubelet of our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from installation import installed
from isolation import inside
from kubernetes_kit import Cluster, kubelet, running_cluster
from person_kit import MODEL, Person, until
from small_model import scaled_models

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

DAY = "2013-01-01"


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[tuple[Person, Cluster]]:
    with running_cluster() as (cluster, api):
        cluster.connection(tmp_path / "kubeconfig")
        variables = {"EVERGREEN_RUNTIME": "kubernetes", "KUBECONFIG": str(tmp_path / "kubeconfig")}
        with installed(scaled_models, variables) as made, inside(made.environment), kubelet(cluster, api):
            yield Person(made, "admin"), cluster


def test_tasks_end_in_the_triggerer_and_what_follows_them_runs(installation: tuple[Person, Cluster]) -> None:
    """Success with its XCom, a skip with its reason, events of assets: as from a worker, with one start of it less."""
    person, cluster = installation
    for pipeline in ("ingest", "features", "monitor"):
        person.http.patch(f"/api/v2/dags/{MODEL}.{pipeline}", json={"is_paused": False}).raise_for_status()
    body = {"logical_date": None, "dag_run_id": "day", "partition_key": DAY}
    person.http.post(f"/api/v2/dags/{MODEL}.ingest/dagRuns", json=body).raise_for_status()
    until(
        lambda: [run["state"] for run in person.runs("monitor").values()] == ["success"],
        600,
        lambda: (person.tasks("ingest", "day"), person.runs("features"), person.runs("monitor")),
    )

    assert person.runs("ingest")["day"]["state"] == "success"
    (monitored,) = person.runs("monitor")
    states = {name: task["state"] for name, task in person.tasks("monitor", monitored).items()}
    assert states == {"check_drift": "success", "check_performance": "skipped", "done": "success"}
    xcom = f"/api/v2/dags/{MODEL}.{{}}/dagRuns/{{}}/taskInstances/{{}}/xcomEntries/return_value?stringify=false"
    assert person.get(xcom.format("ingest", "day", "validate"))["value"]["status"] == "ok"
    assert person.get(xcom.format("monitor", monitored, "check_performance"))["value"]["reason"]
    tasks = [*person.tasks("ingest", "day").values(), *person.tasks("monitor", monitored).values()]
    assert all(task["try_number"] == 1 and task["end_date"] for task in tasks)
    assert cluster.pods() == []
    assert ended_by(person, "ingest", "day", "validate") == "trigger"
    assert ended_by(person, "ingest", "day", "publish") == "worker", "an end in the triggerer publishes no event"


def ended_by(person: Person, pipeline: str, run: str, task: str) -> str:
    """Return which process ended a task, by its log."""
    log = person.get(f"/api/v2/dags/{MODEL}.{pipeline}/dagRuns/{run}/taskInstances/{task}/logs/1?full_content=true")
    return "trigger" if "The task ends: ok" in str(log["content"]) else "worker"
