"""The chart's own pods, run as containers without a cluster: what a kubelet would do with their specifications."""

from __future__ import annotations

import base64
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from chart_rendering import Object, of_kind, pick

HARDENED = ("--read-only", "--user=50000:50000", "--cap-drop=all", "--security-opt=no-new-privileges")


class ChartContainers:
    """Runs containers of rendered pods; all of them share one network that is connected to nothing else.

    Parameters
    ----------
    engine
        Podman or Docker.
    objects
        The rendered chart.
    folder
        Where volumes are made.
    """

    def __init__(self, engine: str, objects: list[Object], folder: Path) -> None:
        self.engine, self.objects, self.folder = engine, objects, folder
        self.running: list[str] = []

    def pod(self, kind: str, name: str) -> Object:
        """Return the specification of a workload's pods."""
        spec: Object = pick(self.objects, kind, name)["spec"]["template"]["spec"]
        return spec

    def start(self, pod: Object, container: Object) -> str:
        """Start a container and leave it running; returns its name."""
        name = f"evergreen-test-{container['name']}-{uuid.uuid4().hex[:8]}"
        self._call("run", "--detach", f"--name={name}", *self._options(pod, container), *self._command(container))
        self.running.append(name)
        return name

    def run(self, pod: Object, container: Object, *command: str) -> str:
        """Run a container to its end, which must be a good one; returns what it printed. A command replaces its own."""
        asked = [container["image"], *command] if command else self._command(container)
        return self._call("run", "--rm", *self._options(pod, container), *asked)

    def execute(self, name: str, *command: str) -> str:
        """Run a command in a running container."""
        return self._call("exec", name, *command)

    def wait(self, name: str, ready: Callable[[], bool], seconds: float = 300) -> None:
        """Return when a running container is ready; show its log if it never is."""
        deadline = time.monotonic() + seconds
        while not ready():
            state = self._call("container", "inspect", "--format={{.State.Status}}", name).strip()
            assert state == "running", f"{name} is {state}:\n{self.log(name)}"
            assert time.monotonic() < deadline, f"{name} is not ready:\n{self.log(name)}"
            time.sleep(0.5)

    def listens(self, name: str, port: int) -> Callable[[], bool]:
        """Return whether something in the network accepts connections on a port, asked from inside a container."""
        script = f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)"
        return lambda: self._engine("exec", name, "python", "-c", script).returncode == 0

    def log(self, name: str) -> str:
        """Return what a container has printed."""
        done = self._engine("logs", name)
        return done.stdout + done.stderr

    def stop(self) -> None:
        """Remove every container that was started here."""
        for name in reversed(self.running):  # the first one has the network of all
            self._engine("rm", "--force", name)

    def _options(self, pod: Object, container: Object) -> list[str]:
        volumes = {one["name"]: one for one in pod.get("volumes", ())}
        mounts = []
        for mount in container.get("volumeMounts", ()):
            source = self._volume(volumes.get(mount["name"], {"name": mount["name"]}))
            mounts.append(f"--volume={source}:{mount['mountPath']}{':ro' if mount.get('readOnly') else ''}")
        environment = [f"--env={name}={value}" for name, value in self.environment(container).items()]
        return [*self._network(), *HARDENED, *mounts, *environment]

    def _command(self, container: Object) -> list[str]:
        return [container["image"], *container.get("command", ()), *container.get("args", ())]

    def _network(self) -> list[str]:
        hosts = self.folder / "hosts"
        services = [one["metadata"] for one in of_kind(self.objects, "Service")]
        names = [f"{one['name']}.{one['namespace']}.svc" for one in services]
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ["localhost", *names]))
        network = f"container:{self.running[0]}" if self.running else "none"
        return [f"--network={network}", f"--volume={hosts}:/etc/hosts:ro"]

    def environment(self, container: Object) -> dict[str, str]:
        """Return a container's variables, the Secrets' and ConfigMaps' among them."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            for kind, reference in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
                found |= self._data(kind, source[reference]["name"]) if reference in source else {}
        for variable in container.get("env", ()):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            value = self._data("Secret", reference["name"])[reference["key"]] if reference else variable["value"]
            found[variable["name"]] = value
        return found

    def _data(self, kind: str, name: str) -> dict[str, str]:
        data: dict[str, str] = pick(self.objects, kind, name)["data"]
        return data if kind == "ConfigMap" else {key: base64.b64decode(value).decode() for key, value in data.items()}

    def _volume(self, volume: Object) -> Path:
        """Return the folder that stands for a volume: the files of a Secret or ConfigMap, or an empty one."""
        folder = self.folder / f"{volume['name']}-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        folder.chmod(0o777)
        for kind, field, key in (("Secret", "secret", "secretName"), ("ConfigMap", "configMap", "name")):
            if field in volume:
                data = self._data(kind, volume[field][key])
                paths = {one["key"]: one["path"] for one in volume[field].get("items", ())} or {
                    one: one for one in data
                }
                for name, path in paths.items():
                    (folder / path).write_text(data[name])
        return folder

    def _engine(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.engine, *arguments], capture_output=True, text=True, check=False)

    def _call(self, *arguments: str) -> str:
        done = self._engine(*arguments)
        assert done.returncode == 0, f"{self.engine} {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout
