"""What every pod must satisfy: the real Kubernetes schema, and the restricted Pod Security Standard.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ (Baseline and Restricted; Linux containers).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kubernetes_validate

KUBERNETES = "1.33"
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_VOLUMES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
_SECCOMP = frozenset({"RuntimeDefault", "Localhost"})


def schema_errors(pod: dict[str, Any]) -> list[str]:
    """Return what the API server would refuse: unknown fields too."""
    try:
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [str(error)]
    return []


def restricted_violations(pod: dict[str, Any]) -> list[str]:
    """Return the fields that the restricted Pod Security Standard forbids."""
    spec = pod["spec"]
    return [*_pod_violations(spec), *(found for kind in _CONTAINERS for found in _containers(spec, kind))]


def unbounded(pod: dict[str, Any]) -> list[str]:
    """Return what the project demands beyond it: limits, nothing writable, no token, no Services, a versioned image."""
    spec = pod["spec"]
    missing = [] if spec.get("activeDeadlineSeconds") else ["spec.activeDeadlineSeconds"]
    if spec.get("automountServiceAccountToken") is not False:
        missing.append("spec.automountServiceAccountToken")
    if spec.get("enableServiceLinks") is not False:
        missing.append("spec.enableServiceLinks")
    if spec.get("restartPolicy") != "Never":
        missing.append("spec.restartPolicy")
    for position, container in enumerate(spec["containers"]):
        path = f"spec.containers[{position}]"
        for kind in ("requests", "limits"):
            have = container.get("resources", {}).get(kind, {})
            missing += [f"{path}.resources.{kind}.{name}" for name in ("cpu", "memory") if name not in have]
        if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            missing.append(f"{path}.securityContext.readOnlyRootFilesystem")
        if container["image"].rpartition("/")[2].partition(":")[2] in {"", "latest"}:
            missing.append(f"{path}.image")
        missing += [
            f"{path}.args: {argument}" for argument in container.get("args", ()) if "$(" in argument.replace("$$", "")
        ]
    return missing


def _pod_violations(spec: dict[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"spec.{field}"
    for volume in spec.get("volumes", ()):
        yield from (f"spec.volumes: {kind}" for kind in volume if kind != "name" and kind not in _VOLUMES)
    context = spec.get("securityContext", {})
    if context.get("runAsUser") == 0:
        yield "spec.securityContext.runAsUser"
    if context.get("sysctls"):
        yield "spec.securityContext.sysctls"


def _containers(spec: dict[str, Any], kind: str) -> Iterator[str]:
    for position, container in enumerate(spec.get(kind) or ()):
        path = f"spec.{kind}[{position}]"
        yield from (f"{path}.ports: hostPort" for port in container.get("ports") or () if port.get("hostPort"))
        context = {**spec.get("securityContext", {}), **container.get("securityContext", {})}
        wrong = {
            "privileged": bool(context.get("privileged")),
            "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is not False,
            "runAsNonRoot": context.get("runAsNonRoot") is not True,
            "runAsUser": context.get("runAsUser") == 0,
            "seccompProfile": context.get("seccompProfile", {}).get("type") not in _SECCOMP,
            "procMount": context.get("procMount", "Default") != "Default",
            "capabilities.drop": "ALL" not in context.get("capabilities", {}).get("drop", ()),
            "capabilities.add": bool(set(context.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"}),
        }
        yield from (f"{path}.securityContext.{field}" for field, is_wrong in wrong.items() if is_wrong)
