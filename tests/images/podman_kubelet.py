"""A kubelet that runs the pods of an API server as containers: Podman is given the very specification."""

from __future__ import annotations

import base64
import copy
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from evergreen_airflow.pod import SECRETS, SETTINGS
from kubernetes_kit import Cluster


class PodmanKubelet:
    """Runs each pending pod once, and reports its phase, its exit code and its log to the API server.

    Parameters
    ----------
    cluster
        The API server.
    folder
        Where specifications are written.
    config, secrets
        What the config map and the secret of the steps hold.
    """

    def __init__(self, cluster: Cluster, folder: Path, config: Mapping[str, str], secrets: Mapping[str, str]) -> None:
        self.cluster, self.folder = cluster, folder
        self.config = dict(config)
        self.logs: dict[str, str] = {}
        self.specifications: dict[str, dict[str, Any]] = {}
        self._stop = threading.Event()
        encoded = {name: base64.b64encode(value.encode()).decode() for name, value in secrets.items()}
        # Podman reads a secret of this form where a pod names a Kubernetes secret; it never becomes a file of ours
        self._podman("secret", "rm", SECRETS, check=False)
        self._podman("secret", "create", SECRETS, "-", input=json.dumps(encoded))

    def _podman(self, *arguments: str, input: str | None = None, check: bool = True) -> str:
        # Podman would hand the machine's proxies to its containers
        kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        done = subprocess.run(
            ["podman", *arguments], env=kept, input=input, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"podman {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _manifest(self, pod: dict[str, Any]) -> str:
        """Return the pod as Podman takes it, beside its config map."""
        name = pod["metadata"]["name"]
        spec = copy.deepcopy(pod["spec"])
        # Podman 4 names the volume of an emptyDir by its name alone: two pods would share one
        mounts = [mount for one in spec["containers"] for mount in one["volumeMounts"]]
        for volume in (*spec["volumes"], *mounts):
            volume["name"] = f"{name}-{volume['name']}"
        self._make_volumes([volume["name"] for volume in spec["volumes"]], spec["containers"][0]["image"])
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": SETTINGS}, "data": self.config}
        asked = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        return yaml.safe_dump_all([config, asked])

    def _make_volumes(self, names: list[str], image: str) -> None:
        """Make empty folders that the pod's user may write to, as a kubelet does for its ``fsGroup``."""
        for name in names:
            self._podman("volume", "create", "--opt=type=tmpfs", "--opt=device=tmpfs", "--opt=o=mode=1777", name)
        # the first use of a volume gives it the owner and mode of what the image has in its place: have it elsewhere
        elsewhere = [f"--volume={name}:/{name}" for name in names]
        self._podman("run", "--rm", "--network=host", *elsewhere, image, "true")

    def _run(self, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        container = f"{name}-{pod['spec']['containers'][0]['name']}"
        self.specifications[name] = pod["spec"]
        path = self.folder / f"{name}.yaml"
        path.write_text(self._manifest(pod))
        self._podman("kube", "play", "--network=host", str(path))  # the host's network stands in for the cluster's
        self.cluster.set_status(pod, "Running")
        exit_code = int(self._podman("wait", container))
        self.logs[name] = self._podman("logs", container)
        self._podman("pod", "rm", "--force", name)
        self._podman("volume", "rm", "--force", *(f"{name}-{volume['name']}" for volume in pod["spec"]["volumes"]))
        self.cluster.set_status(pod, "Failed" if exit_code else "Succeeded", exit_code=exit_code)

    def _watch(self) -> None:
        seen: set[str] = set()
        with ThreadPoolExecutor(max_workers=8) as pool:
            running = []
            while not self._stop.is_set():
                for pod in self.cluster.pods():
                    if pod["metadata"]["name"] not in seen:
                        seen.add(pod["metadata"]["name"])
                        running.append(pool.submit(self._run, pod))
                for done in [one for one in running if one.done()]:
                    running.remove(done)
                    done.result()
                time.sleep(0.2)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Watch for pods meanwhile."""
        with ThreadPoolExecutor(max_workers=1) as pool:
            watching = pool.submit(self._watch)
            try:
                yield
            finally:
                self._stop.set()
                watching.result()
                self._podman("secret", "rm", SECRETS, check=False)
