"""Every step of every pipeline: its pod is valid, hardened and bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from evergreen.settings import Settings
from evergreen_airflow.operator import StepOperator
from operator_kit import task_context
from pod_policy import restricted_violations, schema_errors, unbounded

if TYPE_CHECKING:
    from airflow.sdk import DAG

WINDOW = {"partition": "2013-03-01", "start": "2013-01-01", "end": "2013-03-01"}


def rendered_pods(dags: dict[str, DAG]) -> dict[str, dict[str, Any]]:
    pods = {}
    for dag in dags.values():
        for task in dag.tasks:
            if isinstance(task, StepOperator):
                context = task_context(task_id=task.task_id, params=WINDOW)
                task.render_template_fields(context, jinja2.Environment())  # type: ignore[arg-type]
                pods[f"{dag.dag_id}.{task.task_id}"] = yaml.safe_load(task.rendered_pod)
    return pods


def test_every_pod_of_every_pipeline(settings: Settings, dags: dict[str, DAG]) -> None:
    pods = rendered_pods(dags)
    assert {"flight_delay.ingest.ingest", "flight_delay.train.train"} <= set(pods)
    wrong = {
        name: found
        for name, pod in pods.items()
        if (found := [*schema_errors(pod), *restricted_violations(pod), *unbounded(pod)])
    }
    assert wrong == {}


SIGNING = {"train", "evaluate", "gate", "refit", "register", "promote", "rollback", "rollout", "release"}
REGISTRY = {"register", "promote", "rollback", "rollout"}


def secrets_of(pod: dict[str, Any]) -> set[str]:
    sources = [source for container in pod["spec"]["containers"] for source in container["envFrom"]]
    return {source["secretRef"]["name"] for source in sources if "secretRef" in source}


def misplaced_secrets(pods: dict[str, dict[str, Any]]) -> list[str]:
    """Return the pods that are given more or less than their step needs."""
    wrong = []
    for name, pod in pods.items():
        step = pod["metadata"]["labels"]["evergreen/step"]
        wanted = {"evergreen-secrets"}
        wanted |= {"evergreen-signing"} if step in SIGNING else set()
        wanted |= {"evergreen-registry"} if step in REGISTRY else set()
        wrong += [name] if secrets_of(pod) != wanted else []
    return wrong


def test_only_who_signs_has_the_key_and_only_who_promotes_may_move_aliases(
    settings: Settings, dags: dict[str, DAG]
) -> None:
    pods = rendered_pods(dags)
    assert {pod["metadata"]["labels"]["evergreen/step"] for pod in pods.values()} >= SIGNING
    assert misplaced_secrets(pods) == []
    key = {"secretRef": {"name": "evergreen-signing"}}
    for name in ("flight_delay.ingest.ingest", "flight_delay.monitor.check_performance"):
        pods[name]["spec"]["containers"][0]["envFrom"].append(key)
    pods["flight_delay.train.train"]["spec"]["containers"][0]["envFrom"].remove(key)
    assert sorted(misplaced_secrets(pods)) == [
        "flight_delay.ingest.ingest",
        "flight_delay.monitor.check_performance",
        "flight_delay.train.train",
    ]


def test_training_asks_for_its_own_resources(settings: Settings, dags: dict[str, DAG]) -> None:
    pods = rendered_pods(dags)

    def memory(name: str) -> str:
        limit: str = pods[name]["spec"]["containers"][0]["resources"]["limits"]["memory"]
        return limit

    assert (memory("flight_delay.train.train"), memory("flight_delay.train.gate")) == ("6Gi", "2Gi")
