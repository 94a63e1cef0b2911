"""A Kubernetes API over real HTTP (kmock), and a kubelet that really runs the pods it is asked to."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kmock
import yaml
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator

import operator_kit  # noqa: F401  # sets Airflow's home first
from evergreen_airflow.process_runtime import PodProcess

NAMESPACE = "evergreen-steps"


class Api(kmock.KubernetesEmulator):  # type: ignore[misc]
    """The emulator, with what it lacks: a new pod is pending, lists and watches heed selectors, watch may be ``True``."""

    async def _handle(self, request: kmock.Request) -> Any:
        if request.method == kmock.method.POST and isinstance(request.data, dict):
            request.data.setdefault("status", {"phase": "Pending"})
        return await super()._handle(request)

    async def _serve_list(self, request: kmock.Request) -> Any:
        if (request.params or {}).get("watch") == "True":
            return self._watch(request)
        found = await super()._serve_list(request)
        found["items"] = [item for item in found["items"] if _selected(item, request)]
        return found

    async def _watch(self, request: kmock.Request) -> AsyncIterator[Any]:
        async for change in super()._serve_watch(request):
            if not change or _selected(change["object"], request):
                yield change


def _selected(item: dict[str, Any], request: kmock.Request) -> bool:
    """Tell whether an object is what a request selects by its labels, or by its name or what it is about."""
    params = request.params or {}
    fields = {"metadata.name": item["metadata"]["name"]}
    fields |= {f"involvedObject.{name}": value for name, value in item.get("involvedObject", {}).items()}
    return matches(item["metadata"].get("labels", {}), params.get("labelSelector", "")) and matches(
        fields, params.get("fieldSelector", "")
    )


def matches(labels: dict[str, str], selector: str) -> bool:
    """Tell whether labels satisfy a selector of the forms ``a=b``, ``a!=b``, ``a`` and ``!a``."""
    for term in filter(None, selector.split(",")):
        name, unequal, value = term.partition("!=")
        if unequal:
            satisfied = labels.get(name) != value
        elif "=" in term:
            name, _, value = term.partition("=")
            satisfied = labels.get(name) == value
        else:
            satisfied = (term.lstrip("!") in labels) is not term.startswith("!")
        if not satisfied:
            return False
    return True


class Cluster:
    """The API server's address, its pods and a kubelet."""

    def __init__(self, url: str) -> None:
        self.url = url

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for it."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def pods(self) -> list[dict[str, Any]]:
        """Return all pods that there are."""
        items: list[dict[str, Any]] = self._call("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]
        return items

    def pod(self) -> dict[str, Any]:
        """Return the one pod."""
        (pod,) = self.pods()
        return pod

    def set_status(self, pod: dict[str, Any], phase: str, *, exit_code: int | None = None, **status: Any) -> None:
        """Report the phase of a pod, and how its container ended."""
        terminated = {
            "exitCode": exit_code,
            "reason": status.pop("container_reason", "Completed" if exit_code == 0 else "Error"),
        }
        state: dict[str, Any] = {"running": {}} if exit_code is None else {"terminated": terminated}
        container = {"name": "base", "image": "i", "imageID": "i", "ready": True, "restartCount": 0, "state": state}
        body = {"status": {"phase": phase, "containerStatuses": [container], **status}}
        self._call("PATCH", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}", body)

    def run(self) -> int:
        """Run the one pod as a kubelet would, to its end; return the container's exit code."""
        pod = self.pod()
        self.set_status(pod, "Running")
        asked = {name: value for name, value in pod.items() if name != "status"}
        process = PodProcess(PodGenerator.deserialize_model_dict(asked), logging.getLogger(__name__))
        exit_code = process.run().exit_code
        assert exit_code is not None
        self.set_status(pod, "Failed" if exit_code else "Succeeded", exit_code=exit_code)
        return exit_code

    def lose(self) -> None:
        """Delete every pod behind everyone's back, as a lost node does."""
        for pod in self.pods():
            self._call("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}")


@contextmanager
def running_cluster() -> Iterator[tuple[Cluster, Api]]:
    """Serve the API on a port of its own from a thread."""
    started = threading.Event()
    made: list[tuple[Cluster, Api, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        async with Api() as api, kmock.Server(api) as server:
            for plural in ("pods", "events"):
                api.resources[f"v1/{plural}"] = {}
            api["get", kmock.subresource("log")] << b"a line of the pod's log\n"
            stop = asyncio.Event()
            made.append((Cluster(str(server.url).rstrip("/")), api, asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(30), "the API server did not start"
    cluster, api, loop, stop = made[0]
    yield cluster, api
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
