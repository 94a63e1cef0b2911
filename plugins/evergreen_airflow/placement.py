"""Where step pods go and how large they are: what a cluster's operators decide, in the one file they give."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from kubernetes.client import models as k8s
from kubernetes.utils.quantity import parse_quantity
from pydantic import AfterValidator, Field, model_validator

from evergreen.contract import ConfigurationError, Frozen
from evergreen.settings import get_settings
from evergreen.spec import Profile
from evergreen.yaml_files import checked, read_text
from evergreen_airflow.pod import hardened

AUTHORITIES = "/etc/evergreen/ca"


def _quantity(text: str) -> str:
    parse_quantity(text)
    return text


Quantity = Annotated[str, AfterValidator(_quantity)]


class Toleration(Frozen):
    """A taint that step pods put up with, as in a pod."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    tolerationSeconds: int | None = None  # the file speaks as pods do


class PodResources(Frozen):
    """What the pods of a profile ask for, and where only they go."""

    requests: dict[str, Quantity]
    limits: dict[str, Quantity]
    nodeSelector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    priorityClassName: str | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        for kind, quantities in (("requests", self.requests), ("limits", self.limits)):
            if missing := {"cpu", "memory"} - set(quantities):
                raise ValueError(f"{kind}: it lacks {', '.join(sorted(missing))}")
        return self


def _profile(requested_cpu: str, cpu: str, memory: str, **devices: str) -> PodResources:
    # memory is requested in full: a node that overcommits it kills steps at random; cores are shared
    return PodResources(
        requests={"cpu": requested_cpu, "memory": memory, **devices}, limits={"cpu": cpu, "memory": memory, **devices}
    )


PROFILES: dict[Profile, PodResources] = {
    "small": _profile("250m", "1", "2Gi"),
    "medium": _profile("1", "2", "6Gi"),
    "large": _profile("2", "8", "16Gi"),
    "gpu": _profile("2", "8", "16Gi", **{"nvidia.com/gpu": "1"}),
}


class Placement(Frozen):
    """The content of ``EVERGREEN_POD_FILE``; everything has a default."""

    imagePullSecrets: tuple[str, ...] = ()
    priorityClassName: str | None = None
    nodeSelector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    profiles: dict[Profile, PodResources] = Field(default_factory=dict)
    """Replace the built-in ones of the same name."""
    caConfigMap: str | None = None
    """A config map whose keys are certificates, mounted at `AUTHORITIES`; variables say what they are for."""

    def pod_arguments(self, profile: Profile) -> dict[str, Any]:
        """Return the arguments of a pod of this profile: its own places are added to those of all."""
        resources = self.profiles.get(profile) or PROFILES[profile]
        requests, limits = dict(resources.requests), dict(resources.limits)
        return self._authorities() | {
            "container_resources": k8s.V1ResourceRequirements(requests=requests, limits=limits),
            "image_pull_secrets": [k8s.V1LocalObjectReference(name=name) for name in self.imagePullSecrets],
            "node_selector": {**self.nodeSelector, **resources.nodeSelector},
            "tolerations": [_toleration(taint) for taint in (*self.tolerations, *resources.tolerations)],
            "priority_class_name": resources.priorityClassName or self.priorityClassName,
        }

    def _authorities(self) -> dict[str, Any]:
        if self.caConfigMap is None:
            return {}
        fixed = hardened()
        volume = k8s.V1Volume(name="ca", config_map=k8s.V1ConfigMapVolumeSource(name=self.caConfigMap))
        mount = k8s.V1VolumeMount(name="ca", mount_path=AUTHORITIES, read_only=True)
        return {"volumes": [*fixed["volumes"], volume], "volume_mounts": [*fixed["volume_mounts"], mount]}


def _toleration(toleration: Toleration) -> k8s.V1Toleration:
    fields = toleration.model_dump(exclude={"tolerationSeconds"})
    return k8s.V1Toleration(**fields, toleration_seconds=toleration.tolerationSeconds)


def get_placement() -> Placement:
    """Return what ``EVERGREEN_POD_FILE`` says, or the defaults without one.

    Raises
    ------
    ConfigurationError
        If it cannot be read or is wrong; the message names file, field and value.
    """
    path = get_settings().pod_file
    if path is None:
        return Placement()
    try:
        return _load(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigurationError(f"EVERGREEN_POD_FILE={path}: {error.strerror}.", "Mount it, or unset it.") from error


@lru_cache(maxsize=1)
def _load(path: Path, _modified: int) -> Placement:
    return checked(path, read_text(path), Placement, "See docs/troubleshooting.md for its keys.")
