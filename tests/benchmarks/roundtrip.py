"""``make bench BENCH="--only=roundtrip"``: what a task in a cluster takes beside its pod.

A whole installation with the runtime "kubernetes" against a stand-in for the Kubernetes API, one run after the other. A
kubelet of our own runs each pod as soon as it sees it: pods start at once, what is left is Airflow's and ours.
"""

from __future__ import annotations

import logging
import statistics
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from installation import installed  # noqa: E402
from isolation import inside  # noqa: E402
from kubernetes_kit import Times, kubelet, running_cluster  # noqa: E402
from person_kit import MODEL, Person  # noqa: E402
from small_model import scaled_models  # noqa: E402

DAYS = [f"2013-01-{day:02}" for day in range(1, 7)]
PATIENCE = 300


def measure() -> dict[str, float]:
    """Return medians in seconds over the tasks of some runs of ingestion."""
    logging.getLogger("aiohttp.access").disabled = True
    with running_cluster() as (cluster, api), tempfile.TemporaryDirectory() as folder:
        kubeconfig = Path(folder, "kubeconfig")
        cluster.connection(kubeconfig)
        variables = {"EVERGREEN_RUNTIME": "kubernetes", "KUBECONFIG": str(kubeconfig)}
        with installed(scaled_models, variables) as made, inside(made.environment), kubelet(cluster, api) as pods:
            tasks = [task for day in DAYS for task in _ingest(Person(made, "admin"), day)]
            return _medians(tasks[3:], pods)  # the first run warms Airflow up


def _ingest(person: Person, day: str) -> list[dict[str, Any]]:
    person.http.patch(f"/api/v2/dags/{MODEL}.ingest", json={"is_paused": False}).raise_for_status()
    body = {"logical_date": None, "dag_run_id": f"bench_{day}", "partition_key": day}
    person.http.post(f"/api/v2/dags/{MODEL}.ingest/dagRuns", json=body).raise_for_status()
    deadline = time.monotonic() + PATIENCE
    while person.runs("ingest")[f"bench_{day}"]["state"] not in {"success", "failed"}:
        if time.monotonic() > deadline:
            raise TimeoutError(person.tasks("ingest", f"bench_{day}"))
        time.sleep(0.2)
    return list(person.tasks("ingest", f"bench_{day}").values())


def _medians(tasks: list[dict[str, Any]], pods: Times) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for task in tasks:
        created, ended = pods[task["dag_run_id"], task["task_id"]]
        start, end = (datetime.fromisoformat(task[name]).timestamp() for name in ("start_date", "end_date"))
        kind = "task with an asset" if task["task_id"] == "publish" else "task"
        for name, seconds in {
            "start to pod": created - start,
            "pod": ended - created,
            "pod's end to end": end - ended,
            "more than its pod": (end - start) - (ended - created),
        }.items():
            found.setdefault(f"{kind}: {name}", []).append(seconds)
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


if __name__ == "__main__":
    for name, seconds in measure().items():
        print(f"{name:45} {seconds:6.2f}")
