"""What every installation must satisfy. Each function returns what is wrong, nothing when all is well."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import kubernetes_validate
from chart_rendering import PLATFORM, Object, containers, label, of_kind, pods
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from pod_policy import restricted_violations

VERSIONS = ("1.31", "1.36", kubernetes_validate.latest_version())
"""The oldest that the chart admits, the one of docs/kubernetes.md, and the newest with a known schema."""

CUSTOM = {"RayCluster", "ExternalSecret", "CiliumNetworkPolicy", "ServiceMonitor"}
"""Kinds that the API server learns from an operator: no schema of theirs is at hand."""
SECRET_NAMES = re.compile(r"(PASSWORD|SECRET|TOKEN|FERNET|ACCESS_KEY)", re.IGNORECASE)
NOT_SECRET = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", "POSTGRES_PASSWORD_FILE"}
"""Variables with the name of a file."""


@cache
def _validator(kind: str, api_version: str, version: str) -> Draft202012Validator:
    """Return the strict validator of one kind; what kubernetes_validate does, without reading 2 MB each time."""
    from kubernetes_validate.utils import schema_contents

    folder = f"kubernetes-json-schema/v{version}.0-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = schema_contents(f"{folder}/{kind.lower()}-{group}.json", version)
    registry: Registry[Any] = (
        Resource.from_contents(schema_contents(f"{folder}/_definitions.json", version)) @ Registry()
    )
    return Draft202012Validator(schema, registry=Resource.from_contents(schema) @ registry)


def schema_errors(found: list[Object], version: str) -> list[str]:
    """Objects, and the pods inside custom ones, that the API server would refuse; unknown fields too."""
    version = kubernetes_validate.utils.major_minor(version)
    known = [one for one in found if one["kind"] not in CUSTOM]
    inside = list(pods(found))
    return [
        f"{label(one)}: {'.'.join(map(str, error.absolute_path))}: {error.message}"
        for one in [*known, *inside]
        for error in _validator(one["kind"], one["apiVersion"], version).iter_errors(one)
    ]


def restricted(found: list[Object]) -> list[str]:
    """Pods that the restricted Pod Security Standard forbids, and writable root file systems."""
    wrong = [f"{label(pod)}: {violation}" for pod in pods(found) for violation in restricted_violations(pod)]
    return wrong + [
        f"{label(pod)}: {container['name']}: readOnlyRootFilesystem"
        for pod in pods(found)
        for container in containers(pod)
        if not container.get("securityContext", {}).get("readOnlyRootFilesystem")
    ]


def tokens(found: list[Object]) -> list[str]:
    """Pods that could speak to the Kubernetes API without a Role that says what for."""
    allowed = {
        (subject["namespace"], subject["name"])
        for binding in of_kind(found, "RoleBinding")
        for subject in binding["subjects"]
    }
    return [
        label(pod)
        for pod in pods(found)
        if pod["spec"].get("automountServiceAccountToken") is not False
        and (pod["metadata"]["namespace"], pod["spec"].get("serviceAccountName")) not in allowed
    ] + [label(one) for one in of_kind(found, "ServiceAccount") if one.get("automountServiceAccountToken") is not False]


def rights(found: list[Object]) -> list[str]:
    """Rights with a wildcard, over the whole cluster, over Secrets, or outside the step namespace."""
    wrong = [label(one) for kind in ("ClusterRole", "ClusterRoleBinding") for one in of_kind(found, kind)]
    for role in of_kind(found, "Role"):
        if role["metadata"]["namespace"] == PLATFORM:
            wrong.append(f"{label(role)}: outside the step namespace")
        for rule in role["rules"]:
            if "*" in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]:
                wrong.append(f"{label(role)}: wildcard")
            if "secrets" in rule["resources"]:
                wrong.append(f"{label(role)}: secrets")
    return wrong


def literals(found: list[Object]) -> list[str]:
    """Secrets written where anybody can read them."""
    wrong = [
        f"{label(pod)}: {container['name']}: {variable['name']}"
        for pod in pods(found)
        for container in containers(pod)
        for variable in container.get("env", ())
        if "value" in variable
        and variable["name"] not in NOT_SECRET
        and _is_secret(variable["name"], variable["value"])
    ]
    return wrong + [
        f"{label(one)}: {name}"
        for one in of_kind(found, "ConfigMap")
        for name, value in one["data"].items()
        if not name.endswith((".py", ".yaml")) and _is_secret(name, value)
    ]


def _is_secret(name: str, value: str) -> bool:
    return bool(SECRET_NAMES.search(name)) or bool(re.search(r"://[^/@\s:]*:[^/@\s]+@", value))


def unlimited(found: list[Object]) -> list[str]:
    """Containers without requests and limits, volumes in memory or on the node's disk without a size."""
    wrong = [
        f"{label(pod)}: {container['name']}: {kind}.{name}"
        for pod in pods(found)
        for container in containers(pod)
        for kind in ("requests", "limits")
        for name in ("cpu", "memory")
        if name not in container.get("resources", {}).get(kind, {})
    ]
    return wrong + [
        f"{label(pod)}: volume {volume['name']}"
        for pod in pods(found)
        for volume in pod["spec"].get("volumes", ())
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]
    ]


def floating_images(found: list[Object]) -> list[str]:
    """Images that do not name a version."""
    return [
        f"{label(pod)}: {container['image']}"
        for pod in pods(found)
        for container in containers(pod)
        if "@sha256:" not in container["image"]
        and container["image"].rpartition("/")[2].partition(":")[2] in {"", "latest"}
    ]


def unhealthy(found: list[Object]) -> list[str]:
    """Servers that nobody asks whether they live, or that may be drained all at once."""
    servers = [one for one in found if one["kind"] in {"Deployment", "StatefulSet", "RayCluster"}]
    wrong = [
        f"{label(pod)}: {container['name']}: no livenessProbe"
        for pod in pods(servers)
        for container in pod["spec"]["containers"]
        if "livenessProbe" not in container
    ]
    budgets = [
        (one["metadata"]["namespace"], one["spec"]["selector"]["matchLabels"])
        for one in of_kind(found, "PodDisruptionBudget")
        if one["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow"  # else broken pods keep their node
    ]

    def budgeted(pod: Object) -> bool:
        labels, there = pod["metadata"]["labels"].items(), pod["metadata"]["namespace"]
        return any(namespace == there and selector.items() <= labels for namespace, selector in budgets)

    # what has no scale of its own may never be disrupted under a budget: its node could not be drained
    operated = of_kind(found, "RayCluster")
    others = [one for one in servers if one not in operated]
    wrong += [f"{label(pod)}: a PodDisruptionBudget" for pod in pods(operated) if budgeted(pod)]
    return wrong + [f"{label(pod)}: no PodDisruptionBudget" for pod in pods(others) if not budgeted(pod)]


def impatient(found: list[Object]) -> list[str]:
    """Servers that a busy node would get killed at their start or later, and probes that start a program of size."""
    servers = [one for one in found if one["kind"] in {"Deployment", "StatefulSet", "RayCluster"}]
    wrong = []
    for pod in pods(servers):
        for container in pod["spec"]["containers"]:
            where, live = f"{label(pod)}: {container['name']}", container.get("livenessProbe", {})
            start = container.get("startupProbe", live)  # git-sync has none: its first checkout is an init container
            if start.get("periodSeconds", 10) * start.get("failureThreshold", 3) < (1200 if start is not live else 600):
                wrong.append(f"{where}: may not take twenty minutes to start")
            elif live.get("periodSeconds", 10) * live.get("failureThreshold", 3) < 300:
                wrong.append(f"{where}: may not be silent for five minutes")
            elif live.get("timeoutSeconds", 1) < 10:
                wrong.append(f"{where}: an answer may not take ten seconds")
            elif live.get("exec", {}).get("command", ["python", "-I", "-S"])[:3] != ["python", "-I", "-S"]:
                wrong.append(f"{where}: the probe starts a whole program each time")
    return wrong


def uncovered(found: list[Object]) -> list[str]:
    """Pods without a network policy of their own, or in a namespace that does not deny by default."""
    policies = of_kind(found, "NetworkPolicy")
    denying = {one["metadata"]["namespace"] for one in policies if _denies(one)}
    wrong = []
    for pod in pods(found):
        namespace, labels = pod["metadata"]["namespace"], pod["metadata"]["labels"]
        if namespace not in denying:
            wrong.append(f"{label(pod)}: {namespace} does not deny by default")
        if not any(
            one["metadata"]["namespace"] == namespace
            and (selector := one["spec"]["podSelector"].get("matchLabels"))
            and selector.items() <= labels.items()
            for one in policies
        ):
            wrong.append(f"{label(pod)}: no policy of its own")
    return wrong


def _denies(policy: Object) -> bool:
    spec = policy["spec"]
    ports = {port["port"] for rule in spec.get("egress", ()) for port in rule.get("ports", [{"port": None}])}
    both = set(spec["policyTypes"]) == {"Ingress", "Egress"}
    return both and spec["podSelector"] == {} and not spec.get("ingress") and ports <= {53, 5353}


def dangling(found: list[Object], external: set[tuple[str, str, str]]) -> list[str]:
    """References of pods to what is neither rendered nor declared to come from elsewhere: (kind, namespace, name)."""
    there = {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in found} | external
    for one in of_kind(found, "StatefulSet"):
        for claim in one["spec"].get("volumeClaimTemplates", ()):
            name = f"{claim['metadata']['name']}-{one['metadata']['name']}-0"
            there.add(("PersistentVolumeClaim", one["metadata"]["namespace"], name))
    wrong = []
    for pod in pods(found):
        for kind, name in references(pod):
            namespace = "" if kind == "PriorityClass" else pod["metadata"]["namespace"]
            if (kind, namespace, name) not in there:
                wrong.append(f"{label(pod)}: {kind} {name}")
    for binding in of_kind(found, "RoleBinding"):
        wanted = [("ServiceAccount", subject["namespace"], subject["name"]) for subject in binding["subjects"]]
        wanted.append(("Role", binding["metadata"]["namespace"], binding["roleRef"]["name"]))
        wrong += [
            f"{label(binding)}: {kind} {name}"
            for kind, namespace, name in wanted
            if (kind, namespace, name) not in there
        ]
    return wrong


def references(pod: Object) -> Iterator[tuple[str, str]]:
    """Yield kind and name of everything a pod needs to exist."""
    spec = pod["spec"]
    yield "ServiceAccount", spec["serviceAccountName"]
    if "priorityClassName" in spec:
        yield "PriorityClass", spec["priorityClassName"]
    yield from (("Secret", secret["name"]) for secret in spec.get("imagePullSecrets", ()))
    yield from _sources(spec.get("volumes", ()), _VOLUME_SOURCES)
    for container in containers(pod):
        yield from _sources(container.get("envFrom", ()), _VARIABLE_SOURCES)
    yield from (("Secret", name) for name, _ in secret_keys(pod))


_VOLUME_SOURCES = {
    "configMap": ("ConfigMap", "name"),
    "secret": ("Secret", "secretName"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
}
_VARIABLE_SOURCES = {"configMapRef": ("ConfigMap", "name"), "secretRef": ("Secret", "name")}


def _sources(entries: Iterable[Object], known: dict[str, tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        for field, (kind, name) in known.items():
            if field in entry:
                yield kind, entry[field][name]


def secret_keys(pod: Object) -> Iterator[tuple[str, str]]:
    """Yield Secret and key of every variable that comes from one."""
    for one in containers(pod):
        for variable in one.get("env", ()):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield reference["name"], reference["key"]


def unmounted(found: list[Object]) -> list[str]:
    """Mounts without a volume and volumes without a mount."""
    wrong = []
    for pod in pods(found):
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
        mounts = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", ())}
        wrong += [f"{label(pod)}: {name}" for name in sorted(volumes ^ mounts)]
    return wrong
