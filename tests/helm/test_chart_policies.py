"""Each policy finds what it is there for: one defect put into a good installation, one complaint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chart_policies as policies
import pytest
from chart_rendering import Object, objects, pick

Change = Callable[[list[Object]], None]


def _pod(found: list[Object], name: str = "evergreen-scheduler") -> Object:
    spec: Object = pick(found, "Deployment", name)["spec"]["template"]["spec"]
    return spec


def _container(found: list[Object]) -> Object:
    container: Object = _pod(found)["containers"][0]
    return container


def _setting(path: str, value: Any) -> Change:
    """Return a change of the scheduler's pod, or of its container (``container.…``)."""

    def change(found: list[Object]) -> None:
        start, _, rest = path.partition(".")
        here = _container(found) if start == "container" else _pod(found)
        *folders, last = (rest if start == "container" else path).split(".")
        for folder in folders:
            here = here[folder]
        if value is None:
            del here[last]
        else:
            here[last] = value

    return change


def _variable(name: str, value: str) -> Change:
    return lambda found: _container(found)["env"].append({"name": name, "value": value})


def _rule(**rule: list[str]) -> Change:
    whole = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]} | rule
    return lambda found: pick(found, "Role", "evergreen-step-launcher")["rules"].append(whole)


def _without(kind: str, name: str) -> Change:
    return lambda found: found.remove(pick(found, kind, name))


def _data(name: str, value: str) -> Change:
    return lambda found: pick(found, "ConfigMap", "evergreen-settings")["data"].update({name: value})


def _moved_role(found: list[Object]) -> None:
    pick(found, "Role", "evergreen-step-launcher")["metadata"]["namespace"] = "evergreen"


def _cluster_role(found: list[Object]) -> None:
    found.append({"kind": "ClusterRole", "metadata": {"name": "all"}, "rules": []})


def _open_default(found: list[Object]) -> None:
    for one in found:
        if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "evergreen-default-deny":
            one["spec"]["egress"].append({})


def _stubborn(found: list[Object]) -> None:
    del pick(found, "PodDisruptionBudget", "evergreen-scheduler")["spec"]["unhealthyPodEvictionPolicy"]


def _unclaimed(found: list[Object]) -> None:
    del pick(found, "StatefulSet", "evergreen-postgres")["spec"]["volumeClaimTemplates"]


DEFECTS: list[tuple[Callable[[list[Object]], list[str]], Change]] = [
    (policies.restricted, _setting("securityContext.runAsNonRoot", False)),
    (policies.restricted, _setting("securityContext.seccompProfile", None)),
    (policies.restricted, _setting("hostNetwork", True)),
    (policies.restricted, _setting("container.securityContext.allowPrivilegeEscalation", True)),
    (policies.restricted, _setting("container.securityContext.capabilities", {"drop": []})),
    (policies.restricted, _setting("container.securityContext.readOnlyRootFilesystem", False)),
    (policies.tokens, lambda found: _pod(found, "evergreen-dag-processor").update(automountServiceAccountToken=True)),
    (policies.tokens, lambda found: pick(found, "ServiceAccount", "evergreen-ray").pop("automountServiceAccountToken")),
    (policies.rights, _rule(verbs=["*"])),
    (policies.rights, _rule(resources=["secrets"])),
    (policies.rights, _moved_role),
    (policies.rights, _cluster_role),
    (policies.literals, _variable("AIRFLOW__CORE__FERNET_KEY", "x")),
    (policies.literals, _variable("DATABASE", "postgresql://someone:hunter2@host/db")),
    (policies.literals, _data("MLFLOW_TRACKING_PASSWORD", "x")),
    (policies.unlimited, _setting("container.resources.limits", {"cpu": "1"})),
    (policies.unlimited, _setting("container.resources", None)),
    (policies.unlimited, lambda found: _pod(found)["volumes"][0].update(emptyDir={})),
    (policies.floating_images, _setting("container.image", "evergreen/airflow:latest")),
    (policies.floating_images, _setting("container.image", "registry:5000/evergreen/airflow")),
    (policies.unhealthy, _setting("container.livenessProbe", None)),
    (policies.unhealthy, _without("PodDisruptionBudget", "evergreen-scheduler")),
    (policies.unhealthy, _stubborn),
    (policies.uncovered, _without("NetworkPolicy", "evergreen-scheduler")),
    (policies.uncovered, _open_default),
    (policies.unmounted, lambda found: _pod(found)["volumes"].pop()),
]


@pytest.mark.parametrize(
    ("policy", "defect"), DEFECTS, ids=[f"{number}-{pair[0].__name__}" for number, pair in enumerate(DEFECTS)]
)
def test_a_policy_finds_its_defect(policy: Callable[[list[Object]], list[str]], defect: Change) -> None:
    found = objects("trial")
    assert policy(found) == []
    defect(found)
    assert policy(found) != []


def test_a_disruption_budget_on_the_pods_of_an_operator_is_found() -> None:
    found = objects("kuberay")
    assert policies.unhealthy(found) == []
    found.append(pick(objects("production"), "PodDisruptionBudget", "evergreen-ray-worker"))
    assert policies.unhealthy(found) == ["Pod evergreen-steps/evergreen-ray-workers: a PodDisruptionBudget"]


REFERENCES: list[Change] = [
    _without("Secret", "evergreen-platform"),
    _without("Secret", "evergreen-secrets"),
    _without("ConfigMap", "evergreen-settings"),
    _without("ServiceAccount", "evergreen-triggerer"),
    _without("ServiceAccount", "evergreen-ray"),
    _without("PriorityClass", "evergreen-platform"),
    _without("Role", "evergreen-step-launcher"),
]


@pytest.mark.parametrize("defect", REFERENCES)
def test_a_missing_object_is_found(defect: Change) -> None:
    found = objects("trial")
    assert policies.dangling(found, set()) == []
    defect(found)
    assert policies.dangling(found, set()) != []


@pytest.mark.parametrize("version", policies.VERSIONS)
@pytest.mark.parametrize(
    "defect",
    [
        _setting("container.unheard_of", 1),
        _setting("terminationGracePeriodSeconds", "1m"),
        lambda found: pick(found, "Service", "evergreen-mlflow")["spec"]["ports"][0].update(port="http"),
        lambda found: pick(found, "NetworkPolicy", "evergreen-mlflow")["spec"].update(policyType=["Egress"]),
    ],
)
def test_the_schema_finds_its_defect(version: str, defect: Change) -> None:
    found = objects("trial")
    defect(found)
    assert policies.schema_errors(found, version) != []


def test_the_schema_looks_into_the_pods_of_custom_objects() -> None:
    found = objects("kuberay")
    pick(found, "RayCluster", "evergreen-ray")["spec"]["headGroupSpec"]["template"]["spec"]["unheard_of"] = 1
    assert policies.schema_errors(found, "1.31") != []
    found = objects("kubernetes-executor")
    worker = pick(found, "ConfigMap", "evergreen-worker")
    worker["data"]["pod.yaml"] = worker["data"]["pod.yaml"].replace("restartPolicy: Never", "restartPolicy: Sometimes")
    assert policies.schema_errors(found, "1.31") == []  # the schema has no list of restart policies
    worker["data"]["pod.yaml"] = worker["data"]["pod.yaml"].replace("restartPolicy:", "restart:")
    assert policies.schema_errors(found, "1.31") != []
