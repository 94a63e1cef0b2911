"""Runs a pod as a child process group: that very pod's command, arguments and environment, without a cluster.

Honoured are the fields marked so in `POD`: one container; its command, arguments and variables; config maps and
secrets, as files of the state folder; the memory limit and GPUs; ``emptyDir`` volumes at /tmp (a folder named by
``TMPDIR``, removed afterwards) and /dev/shm (the machine's); the deadline and the grace period. Fields that only
place or confine a pod are left to the cluster. Anything else is refused: a task that silently ran without its
sidecar, its volume or its probe would not be the same task.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values
from kubernetes.utils.quantity import parse_quantity

from evergreen.contract import ConfigurationError, FailureClass
from evergreen.data.memory import MEMORY
from evergreen.settings import get_settings
from evergreen_airflow.ending import Ending, LastWords
from evergreen_airflow.kubelet import BASE_VARIABLES, guardian
from evergreen_airflow.kubelet.scratch import make_scratch
from evergreen_airflow.kubelet.warm_client import NotWarmError, WarmStep, socket_path
from evergreen_airflow.kubelet.warm_client import start as start_warm
from evergreen_airflow.pod import COMMAND, GRACE_SECONDS, expand

HONOURED = "honoured"
CLUSTER = "left to the cluster: it decides where the pod runs or what it may do, not what it does"


def _cluster(*fields: str) -> dict[str, Any]:
    return dict.fromkeys(fields, CLUSTER)


def _honoured(*fields: str) -> dict[str, Any]:
    return dict.fromkeys(fields, HONOURED)


_RESOURCES = _honoured("memory", "nvidia.com/gpu") | _cluster("cpu", "ephemeral-storage")
_CONFINEMENT = {
    **_cluster("allowPrivilegeEscalation", "readOnlyRootFilesystem", "seccompProfile"),
    **_cluster("fsGroup", "runAsGroup", "runAsNonRoot", "runAsUser"),
    "capabilities": _cluster("drop"),
}
_PLACEMENT = {
    **_cluster("affinity", "nodeSelector", "priorityClassName", "schedulerName", "tolerations"),
    **_cluster("automountServiceAccountToken", "serviceAccount", "serviceAccountName"),
    **_cluster("enableServiceLinks", "imagePullSecrets", "runtimeClassName", "topologySpreadConstraints"),
}
POD: dict[str, Any] = {
    **_cluster("apiVersion", "kind", "metadata"),
    "spec": {
        **_PLACEMENT,
        **_honoured("activeDeadlineSeconds", "terminationGracePeriodSeconds", "restartPolicy"),
        "securityContext": _CONFINEMENT,
        "volumes": {"name": HONOURED, "emptyDir": _cluster("medium", "sizeLimit")},
        "containers": {
            **_cluster("image", "imagePullPolicy", "terminationMessagePath", "terminationMessagePolicy"),
            **_honoured("name", "command", "args"),
            "env": {**_honoured("name", "value"), "valueFrom": {"resourceFieldRef": _honoured("resource")}},
            "envFrom": dict.fromkeys(("configMapRef", "secretRef"), _honoured("name", "optional")),
            "resources": {"limits": _RESOURCES, "requests": _RESOURCES},
            "securityContext": _CONFINEMENT,
            "volumeMounts": _honoured("name", "mountPath"),
        },
    },
}
"""Every pod field this runtime knows; a field that is not here is refused."""

_MOUNTS = {"/tmp": "tmp", "/dev/shm": "shm"}  # noqa: S108
_CPU_LIMIT = {"resourceFieldRef": {"resource": "limits.cpu"}}
"""Where a variable's value may come from: a process has no such limit, and is not given the variable."""
_LINE, _TAIL_LINES = 1 << 16, 20
_WATCH_SECONDS = 0.5


class PodProcess:
    """One run of a pod as a process; `evergreen_airflow.kubelet.as_process` describes its arguments."""

    def __init__(self, pod: dict[str, Any], log: Any, mask_secret: Callable[[str | None], None]) -> None:
        _refuse(pod, POD, "")
        self.spec = pod["spec"]
        _check_values(self.spec)
        self.container = self.spec["containers"][0]
        self.log = log
        self._mask_secret = mask_secret
        self._process: subprocess.Popen[str] | WarmStep | None = None
        self._overdue = self._stopped = False

    def run(self) -> Ending:
        """Run the pod's command until it and everything it started have ended."""
        try:
            return self._run(warm=True)
        except NotWarmError as error:  # it took the step with it, whole: nobody asked for that
            self.log.info("%s; starting a process of its own", error)
            return self._run(warm=False)

    def _run(self, *, warm: bool) -> Ending:
        scratch = make_scratch(get_settings().state_dir)
        try:
            environment = self._environment(scratch)
            command = self._command(environment)
            self._process = self._warm(scratch, command, environment) if warm else None
            self._process = self._process or self._cold(scratch, command, environment)
            return self._ending(self._process)
        finally:
            guardian.remove(scratch)  # the guardian did, unless it was killed

    def _ending(self, process: subprocess.Popen[str] | WarmStep) -> Ending:
        """Wait until the process has ended, and see to it that it does."""
        ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended, os.getppid()), daemon=True).start()
        try:
            if self._stopped:  # before there was anything to stop
                self.kill()
            words, exit_code = self._stream(process), process.wait()
            detail = (Ending(exit_code).crash and words.crash) or str(words)
        except NotWarmError as error:
            if not self._stopped:
                raise
            exit_code, detail = 128 + signal.SIGTERM, str(error)
        finally:
            ended.set()
            _close(process)
            with suppress(NotWarmError):
                process.wait()
        if self._overdue:
            limit = self.spec["activeDeadlineSeconds"]
            return Ending(exit_code, f"stopped after {limit} s, its time limit", FailureClass.TEMPORARY)
        return Ending(exit_code, detail)

    def _warm(self, scratch: str, command: list[str], environment: dict[str, str]) -> WarmStep | None:
        """Start a step as a fork of the warm service, or return None where that cannot be."""
        if tuple(command[1:4]) != (*COMMAND[1:], "run-step") or _limits(self.container).get("nvidia.com/gpu"):
            return None
        try:
            path = socket_path(get_settings().state_dir)
            return start_warm(path, self._options(scratch), command, environment)
        except NotWarmError as error:
            self.log.debug("a process of its own: %s", error)
            return None

    def _cold(self, scratch: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, *self._options(scratch), "--", *command],
            stdin=subprocess.PIPE,  # held by this process alone: when it ends, however, the guardian sees the end
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=scratch,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
        )

    def kill(self) -> None:
        """Ask the guardian to end the whole process tree; returns at once."""
        self._stopped = True
        if self._process is not None:
            _close(self._process)

    def _stream(self, process: subprocess.Popen[str] | WarmStep) -> LastWords:
        """Log the output line by line; return what its last lines say about the end."""
        assert process.stdout is not None  # noqa: S101  # opened as a pipe
        words = LastWords(_TAIL_LINES)
        with process.stdout as output:
            while line := output.readline(_LINE):
                text = line.rstrip("\n")
                self.log.info("%s", text)
                words.read(text)
        return words

    def _watch(self, ended: threading.Event, parent: int) -> None:
        """End the process at its deadline, or when this process's own parent is gone.

        Airflow's supervisor may be killed, and the task then lives on unseen while the step says nothing.
        """
        deadline = time.monotonic() + self.spec.get("activeDeadlineSeconds", float("inf"))
        while not ended.wait(_WATCH_SECONDS):
            self._overdue = time.monotonic() > deadline
            if self._overdue or os.getppid() != parent:
                self.kill()
                return

    def _options(self, scratch: str) -> list[str]:
        """Return the guardian's options."""
        grace = self.spec.get("terminationGracePeriodSeconds", GRACE_SECONDS)
        return [f"--scratch={scratch}", f"--grace={grace}", f"--memory-limit={self._memory()}"]

    def _memory(self) -> int:
        """Return the container's memory limit in bytes; 0: it has none."""
        return int(parse_quantity(_limits(self.container).get("memory", 0)))

    def _command(self, environment: dict[str, str]) -> list[str]:
        arguments: list[str] = [*self.container["command"], *self.container.get("args", ())]
        command = [expand(argument, environment) for argument in arguments]
        return [sys.executable if command[0] in {"python", "python3"} else command[0], *command[1:]]

    def _environment(self, scratch: str) -> dict[str, str]:
        variables = {name: os.environ[name] for name in BASE_VARIABLES if name in os.environ}
        variables |= {"EVERGREEN_STATE_DIR": str(get_settings().state_dir), "TMPDIR": scratch}
        if limit := self._memory():  # a container's step finds its limit in its cgroup
            variables[MEMORY] = str(limit)
        for source in self.container.get("envFrom", ()):
            variables |= self._variables(source)
        for variable in self.container.get("env", ()):
            if "valueFrom" not in variable:
                variables[variable["name"]] = expand(variable.get("value", ""), variables)
        return variables

    def _variables(self, source: dict[str, Any]) -> dict[str, str]:
        """Return the variables of a config map or secret: a file of the state folder."""
        secret = "secretRef" in source
        reference = source["secretRef" if secret else "configMapRef"]
        kind = "secrets" if secret else "config"
        path = get_settings().state_dir / kind / f"{reference['name']}.env"
        if not path.is_file():
            if reference.get("optional"):
                return {}
            raise ConfigurationError(
                f"{path}: not found; it holds the settings of the steps.", "Write it with: evergreen up"
            )
        content = dotenv_values(path, interpolate=False)
        variables = {name: value for name, value in content.items() if value is not None}
        if secret:
            for value in variables.values():
                for part in (value, urlsplit(value).password if "://" in value else None):
                    self._mask_secret(part)
        return variables


def _close(process: subprocess.Popen[str] | WarmStep) -> None:
    process.terminate()
    assert process.stdin is not None  # noqa: S101  # opened as a pipe
    process.stdin.close()


def _refuse(value: Any, known: Any, path: str) -> None:
    if not isinstance(known, dict):
        return
    if isinstance(value, list):
        for position, item in enumerate(value):
            _refuse(item, known, f"{path}[{position}]")
        return
    for name, child in value.items():
        if child is None or child is False or child in ({}, []):
            continue  # as good as unset
        field = f"{path}.{name}".lstrip(".")
        if name not in known:
            raise _unsupported(field, "Leave it out")
        _refuse(child, known[name], field)


def _check_values(spec: dict[str, Any]) -> None:
    container = spec["containers"][0]
    gpus = int(_limits(container).get("nvidia.com/gpu", 0))
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    unsupported = {
        "spec.containers[1] (a sidecar)": len(spec["containers"]) > 1,
        "spec.containers[0].command (none: the image's entry point)": not container.get("command"),
        f"spec.restartPolicy={spec.get('restartPolicy')}": spec.get("restartPolicy") != "Never",
        **{
            f"spec.containers[0].volumeMounts: {mount['mountPath']}": mount["mountPath"] not in _MOUNTS
            for mount in container.get("volumeMounts", ())
        },
        **{
            f"spec.containers[0].env: {variable['name']}, from {variable['valueFrom']}": True
            for variable in container.get("env", ())
            if variable.get("valueFrom", _CPU_LIMIT) != _CPU_LIMIT
        },
        f"nvidia.com/gpu: {gpus} (this machine has {present})": gpus > present,
    }
    for field, is_unsupported in unsupported.items():
        if is_unsupported:
            raise _unsupported(field, "Change it")


def _unsupported(field: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(
        f"pod field {field} cannot be honoured by the process runtime.",
        f"{remedy}, or run in a cluster with EVERGREEN_RUNTIME=kubernetes.",
    )


def _limits(container: dict[str, Any]) -> dict[str, str]:
    limits: dict[str, str] = (container.get("resources") or {}).get("limits") or {}
    return limits
