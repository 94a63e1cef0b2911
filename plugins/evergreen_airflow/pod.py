"""What every step pod has in common: hardening, resource profiles, and how values get into it unharmed."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from functools import cache
from typing import Any

from kubernetes.client import models as k8s

from evergreen.contract import ConfigurationError, RunIdentity
from evergreen.pipelines import StepSecret
from evergreen.spec import Profile

COMMAND = ("python", "-m", "evergreen")
NAME = "evergreen-step"
SELECTOR = f"app.kubernetes.io/name={NAME}"
"""Finds every pod of a step."""
OWNER = ("evergreen/dag-id", "evergreen/run-id", "evergreen/task-id")
DEADLINE = "evergreen/deadline"
"""Annotations: whose pod it is, and until when, whatever becomes of the task."""
SETTINGS, SECRETS = "evergreen-settings", "evergreen-secrets"
"""The config map and the secret that every step reads its environment from."""
THREADS = k8s.V1EnvVar(
    name="OMP_NUM_THREADS",
    value_from=k8s.V1EnvVarSource(resource_field_ref=k8s.V1ResourceFieldSelector(resource="limits.cpu")),
)
"""Numeric libraries start a thread for each of the node's cores unless they are told how many the pod may use."""
GRACE_SECONDS = 30
USER = 50000
"""Numeric, so that the kubelet can tell it is not root; the user of the Airflow images."""
LARGER: dict[Profile, Profile] = {"small": "medium", "medium": "large"}
"""The next larger profile, tried once after an out-of-memory failure."""


def hardened() -> dict[str, Any]:
    """Return the pod arguments that meet the restricted Pod Security Standard and keep the token out.

    The lists are the caller's own, the objects in them are shared: the Kubernetes client takes 0.2 ms to make each of
    them, which was most of the time it took to parse a DAG.
    """
    return {name: list(value) if isinstance(value, list) else value for name, value in _hardened().items()}


@cache
def _hardened() -> dict[str, Any]:
    return {
        "automount_service_account_token": False,
        "security_context": k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=USER,
            run_as_group=USER,
            fs_group=USER,
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        "container_security_context": k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
            read_only_root_filesystem=True,
        ),
        "volumes": [
            k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit="20Gi")),
            # Ray keeps its objects in shared memory, of which a container has 64 MiB unless it is given more
            k8s.V1Volume(name="shm", empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory")),
        ],
        "volume_mounts": [
            k8s.V1VolumeMount(name="tmp", mount_path="/tmp"),  # noqa: S108  # a volume of this pod alone
            k8s.V1VolumeMount(name="shm", mount_path="/dev/shm"),  # noqa: S108
        ],
        "env_from": [
            k8s.V1EnvFromSource(config_map_ref=k8s.V1ConfigMapEnvSource(name=SETTINGS)),
            k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=SECRETS)),
        ],
        "termination_grace_period": GRACE_SECONDS,
        "termination_message_policy": "FallbackToLogsOnError",
        "image_pull_policy": "IfNotPresent",
    }


def further_secret(name: StepSecret) -> k8s.V1EnvFromSource:
    """Return the variables of a Secret that only some steps read; they take the place of what every step is told."""
    return k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=f"evergreen-{name}"))


def labels(model: str, step: str) -> dict[str, str]:
    """Return the labels a step pod is found by; Airflow adds DAG, run, task and try."""
    return {
        "app.kubernetes.io/name": NAME,
        "app.kubernetes.io/component": step,
        "app.kubernetes.io/part-of": "evergreen",
        "app.kubernetes.io/managed-by": "airflow",
        "evergreen/model": model,
        "evergreen/step": step,
    }


def owner_annotations(run: RunIdentity, deadline: datetime) -> dict[str, str]:
    """Return the annotations that tell whose pod it is."""
    owner = dict(zip(OWNER, (run.dag_id, run.run_id, run.task_id), strict=True))
    return {**owner, DEADLINE: deadline.astimezone(UTC).isoformat(timespec="seconds")}


def pod_name(model: str, step: str, run: RunIdentity, attempt: str) -> str:
    """Return the name of an attempt's pod.

    The same attempt always gets the same name, so that the cluster itself refuses a second pod for it.
    """
    digest = hashlib.sha256(f"{run.key} {attempt}".encode()).hexdigest()[:10]
    readable = re.sub("[^a-z0-9]+", "-", f"{model}-{step}")
    return f"{readable[:52].strip('-')}-{digest}"


def checked_image(image: str) -> str:
    """Return the image if it names a version.

    Raises
    ------
    ConfigurationError
        If its tag is ``latest`` or missing: what ran could never be told, and every start would pull.
    """
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in {"", "latest"}:
        raise ConfigurationError(
            f"EVERGREEN_STEP_IMAGE={image!r} names no version.",
            "Give a digest (name@sha256:...), or a tag other than latest.",
        )
    return image


def escape(text: str) -> str:
    """Protect a value from the kubelet, which replaces ``$(NAME)`` in arguments and variables; ``$$`` is one ``$``."""
    return text.replace("$", "$$")


def expand(text: str, variables: dict[str, str]) -> str:
    """Replace ``$(NAME)`` and ``$$`` as the kubelet does: an unknown name is left as it stands."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else variables.get(name, match.group(0))

    return re.sub(r"\$(?:\$|\(([^()]*)\))", value, text)
