"""A Kubernetes API over real HTTP (kmock), and a kubelet that really runs the pods it is asked to."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kmock
import yaml
from airflow.sdk.log import mask_secret

import operator_kit  # noqa: F401  # sets Airflow's home first
from evergreen_airflow.kubelet import as_process

NAMESPACE = "evergreen-steps"
Times = dict[tuple[str, str], tuple[float, float]]
"""When each pod was created and when it had ended, by run and task."""
_KINDS = {kmock.action.CREATE: "ADDED", kmock.action.UPDATE: "MODIFIED", kmock.action.DELETE: "DELETED"}


class Api(kmock.KubernetesEmulator):  # type: ignore[misc]
    """The emulator, with what it lacks: new pods are pending, selectors are heeded, a watch misses nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[tuple[Any, str, dict[str, Any]]] = []
        self.changed = asyncio.Condition()
        self.watched: set[str] = set()
        self.log: list[tuple[datetime, str]] = [(datetime(2013, 1, 1, tzinfo=UTC), "a line of the pod's log")]

    async def _handle(self, request: kmock.Request) -> Any:
        if request.method == kmock.method.POST and isinstance(request.data, dict):
            request.data.setdefault("status", {"phase": "Pending"})
        answer = await super()._handle(request)
        kind = _KINDS.get(request.action)
        name = request.name or (request.data or {}).get("metadata", {}).get("name")
        if kind and (request.resource, request.namespace, name) in self.objects:
            async with self.changed:
                found = copy.deepcopy(self.objects[request.resource, request.namespace, name].last.raw)
                self.changes.append((request.resource, kind, found))
                self.changed.notify_all()
        return answer

    async def _serve_list(self, request: kmock.Request) -> Any:
        if (request.params or {}).get("watch") == "True":
            return self._watch(request)
        version = str(len(self.changes))
        found = await super()._serve_list(request)
        found["kind"] = f"{request.resource.plural.removesuffix('s').title()}List"
        found["metadata"]["resourceVersion"] = version
        found["items"] = [item for item in found["items"] if _selected(item, request)]
        return found

    def _serve_log(self, request: kmock.Request) -> Any:
        key = (request.resource, request.namespace, request.name)
        if key not in self.objects or self.objects[key].deleted:  # the log of a pod goes with it
            return 404
        stamped = (request.params or {}).get("timestamps") == "True"
        lines = [f"{at:%Y-%m-%dT%H:%M:%S.%f}000Z {line}" if stamped else line for at, line in self.log]
        return "".join(f"{line}\n" for line in lines).encode()

    async def _watch(self, request: kmock.Request) -> AsyncIterator[Any]:
        """Tell what has changed since the version that is asked for, then what changes."""
        yield b""
        self.watched.add(request.resource.plural)
        position = int((request.params or {}).get("resourceVersion", 0))
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda: len(self.changes) > position)  # noqa: B023
            resource, kind, found = self.changes[position]
            position += 1
            if resource == request.resource and _selected(found, request):
                yield {"type": kind, "object": found}


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

    def __init__(self, url: str, api: Api) -> None:
        self.url = url
        self.api = api

    def wait_until_watched(self) -> None:
        """Wait until somebody has listed the pods and watches them and their events."""
        deadline = time.monotonic() + 30
        while not {"pods", "events"} <= self.api.watched:
            assert time.monotonic() < deadline, "nobody watches the pods"
            time.sleep(0.02)

    def connection(self, path: Path) -> str:
        """Write a kubeconfig for it; returns the Airflow connection that names the file, as JSON."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(yaml.safe_dump(config))
        return json.dumps({"conn_type": "kubernetes", "extra": {"kube_config_path": str(path)}})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def create(self, pod: dict[str, Any]) -> None:
        """Create somebody else's pod."""
        self._call("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", {"apiVersion": "v1", "kind": "Pod", **pod})

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

    def report(self, pod: dict[str, Any], **status: Any) -> None:
        """Report a status as the kubelet or the control plane does; metadata too, if given as such."""
        body = {"metadata": status.pop("metadata", {}), "status": status}
        self._call("PATCH", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod['metadata']['name']}", body)

    def tell(self, pod: dict[str, Any], reason: str, message: str) -> None:
        """Report an event of a pod."""
        involved = {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": NAMESPACE}
        metadata = {"name": f"{pod['metadata']['name']}.{reason.lower()}", "namespace": NAMESPACE, "uid": reason}
        body = {"kind": "Event", "metadata": metadata, "involvedObject": involved, "type": "Warning"}
        self._call("POST", f"/api/v1/namespaces/{NAMESPACE}/events", {**body, "reason": reason, "message": message})

    def write(self, line: str) -> None:
        """Let the pods' containers write a line."""
        self.api.log.append((datetime.now(UTC), line))

    @contextmanager
    def slow_to_end(self, pod: dict[str, Any], *, exit_code: int = 143) -> Iterator[None]:
        """Let a pod that is deleted write a last line before it goes, as one does that was given time to."""
        self.report(pod, metadata={"finalizers": ["test/kubelet"]}, phase="Running")
        name = pod["metadata"]["name"]

        def end() -> None:
            deadline = time.monotonic() + 60
            while not any("deletionTimestamp" in found["metadata"] for found in self.pods()):
                assert time.monotonic() < deadline, f"nobody has deleted {name}"
                time.sleep(0.1)
            time.sleep(1.5)  # the pods of others are looked at meanwhile
            self.write(f"the last line of {name}")
            self.set_status(pod, "Failed", exit_code=exit_code)
            time.sleep(1.5)
            self.report(pod, metadata={"finalizers": []})

        thread = threading.Thread(target=end, daemon=True)
        thread.start()
        yield
        thread.join(60)

    def run(self) -> int:
        """Run the one pod as a kubelet would, to its end; return the container's exit code."""
        pod = self.pod()
        self.set_status(pod, "Running")
        asked = {name: value for name, value in pod.items() if name != "status"}
        process = as_process(asked, logging.getLogger(__name__), mask_secret)
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
            api["get", kmock.subresource("log")] << api._serve_log
            stop = asyncio.Event()
            made.append((Cluster(str(server.url).rstrip("/"), api), api, asyncio.get_running_loop(), stop))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(30), "the API server did not start"
    cluster, api, loop, stop = made[0]
    yield cluster, api
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)


@contextmanager
def kubelet(cluster: Cluster, api: Api) -> Iterator[Times]:
    """Run every pod as soon as it is created, until the block ends."""
    times: Times = {}
    done = threading.Event()

    def run(pod: dict[str, Any], created: float) -> None:
        cluster.set_status(pod, "Running")
        asked = {name: value for name, value in pod.items() if name != "status"}
        ending = as_process(asked, logging.getLogger("pod"), mask_secret).run()
        notes = pod["metadata"]["annotations"]
        times[notes["evergreen/run-id"], notes["evergreen/task-id"]] = created, time.time()
        cluster.set_status(pod, "Failed" if ending.exit_code else "Succeeded", exit_code=ending.exit_code)

    def look() -> None:
        seen = 0
        while not done.wait(0.01):
            for _, kind, found in api.changes[seen:]:
                seen += 1
                if kind == "ADDED" and found["kind"] == "Pod":
                    threading.Thread(target=run, args=(found, time.time()), daemon=True).start()

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield times
    finally:
        done.set()
        looking.join()
