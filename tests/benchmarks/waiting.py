"""``make bench BENCH="--only=waiting"``: what it costs one triggerer to wait for 10, 100 and 1,000 steps.

A stand-in for the Kubernetes API answers over real HTTP in a process of its own; the triggers run in another, under
Airflow's own trigger runner. Once all of them wait, requests are counted for a while; then some pods end, one a second,
and the time until the trigger of each has fired is taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

SIZES = (10, 100, 1000)
KINDS = ("evergreen", "provider")
SECONDS = 30
"""How long everything just waits, and requests are counted."""
ENDS = 20
"""How many pods end, spread over time, to measure latency."""
PATIENCE = 120
"""Seconds after which a trigger that has not noticed its pod's end is given up."""
NAMESPACE = "evergreen-steps"


def measure(sizes: tuple[int, ...] = SIZES) -> dict[str, Any]:
    """Return, for each trigger and number of steps: memory (MiB), CPU share, requests a second, latencies (s)."""
    return dict(_each(sizes))


def _each(sizes: tuple[int, ...]) -> Iterator[tuple[str, dict[str, float]]]:
    for size in sizes:
        for kind in KINDS:
            yield f"{kind} {size}", _one(kind, size)


def _one(kind: str, size: int) -> dict[str, float]:
    here = [sys.executable, str(Path(__file__))]
    with subprocess.Popen([*here, "serve", str(size)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            done = subprocess.run([*here, "wait", kind, str(size), url], capture_output=True, text=True, check=True)
        finally:
            server.terminate()
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- the stand-in ---------------------------------------------------------------------------------------------------


class Stand:
    """A Kubernetes API that knows one namespace's pods."""

    def __init__(self, size: int) -> None:
        self.pods = {f"pod-{number}": _pod(f"pod-{number}") for number in range(size)}
        self.requests: Counter[str] = Counter()
        self.watchers: list[asyncio.Queue[bytes]] = []

    async def one(self, request: Any) -> Any:
        from aiohttp import web

        self.requests["get pod"] += 1
        return web.json_response(self.pods[request.match_info["name"]])

    async def log(self, request: Any) -> Any:
        from aiohttp import web

        self.requests["read log"] += 1
        return web.Response(text=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z a line\n")

    async def pods_or_watch(self, request: Any) -> Any:
        from aiohttp import web

        if request.query.get("watch", "").lower() == "true":
            self.requests["watch pods"] += 1
            return await self._stream(request)
        self.requests["list pods"] += 1
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": list(self.pods.values())})

    async def events(self, request: Any) -> Any:
        from aiohttp import web

        if request.query.get("watch", "").lower() == "true":
            self.requests["watch events"] += 1
            return await self._stream(request, only_wait=True)
        self.requests["list events"] += 1
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": []})

    async def _stream(self, request: Any, *, only_wait: bool = False) -> Any:
        from aiohttp import web

        queue: asyncio.Queue[bytes] = asyncio.Queue()
        if not only_wait:
            self.watchers.append(queue)
        answer = web.StreamResponse()
        await answer.prepare(request)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 300))):
                while True:
                    await answer.write(await queue.get())
        return answer

    async def end(self, request: Any) -> Any:
        from aiohttp import web

        pod = self.pods[request.match_info["name"]]
        state = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        pod["status"] = {"phase": "Succeeded", "containerStatuses": [_container(state)]}
        change = json.dumps({"type": "MODIFIED", "object": pod}).encode() + b"\n"
        for queue in self.watchers:
            queue.put_nowait(change)
        return web.json_response({})

    async def counted(self, _request: Any) -> Any:
        from aiohttp import web

        counted, self.requests = self.requests, Counter()
        return web.json_response(counted)


def _container(state: dict[str, Any]) -> dict[str, Any]:
    return {"name": "base", "image": "i", "imageID": "i", "ready": True, "restartCount": 0, "state": state}


def _pod(name: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "evergreen-step"}
    variables = [{"name": f"VARIABLE_{number}", "value": "x" * 60} for number in range(60)]  # a pod of some 6 kB
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": name, "labels": labels, "resourceVersion": "1"},
        "spec": {"containers": [{"name": "base", "env": variables}], "nodeName": "node"},
        "status": {"phase": "Running", "containerStatuses": [_container({"running": {}})]},
    }


async def serve(size: int) -> None:
    """Serve until killed; the address is printed."""
    from aiohttp import web

    stand, app = Stand(size), web.Application()
    base = f"/api/v1/namespaces/{NAMESPACE}"
    app.router.add_get(f"{base}/pods", stand.pods_or_watch)
    app.router.add_get(f"{base}/pods/{{name}}", stand.one)
    app.router.add_get(f"{base}/pods/{{name}}/log", stand.log)
    app.router.add_get(f"{base}/events", stand.events)
    app.router.add_post("/end/{name}", stand.end)
    app.router.add_get("/counted", stand.counted)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}", flush=True)  # type: ignore[union-attr]
    await asyncio.Event().wait()


# --- the triggerer --------------------------------------------------------------------------------------------------


def _trigger(kind: str, name: str, url: str) -> Any:
    if kind == "provider":
        from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger as Trigger
    else:
        from evergreen_airflow.pod_trigger import StepPodTrigger as Trigger
    cluster = {"name": "c", "cluster": {"server": url}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    user = {"name": "u", "user": {}}
    config = {"current-context": "c", "clusters": [cluster], "contexts": [context], "users": [user]}
    return Trigger(
        pod_name=name,
        pod_namespace=NAMESPACE,
        trigger_start_time=datetime.now(UTC),
        base_container_name="base",
        connection_extras={},
        config_dict={"apiVersion": "v1", "kind": "Config", **config},
        logging_interval=15,
    )


async def wait(kind: str, size: int, url: str) -> dict[str, float]:
    """Run so many triggers; return what they cost and how late they were."""
    import aiohttp
    from airflow.jobs.triggerer_job_runner import TriggerRunner

    runner = TriggerRunner()
    before = _resident()
    tasks = {}
    for number in range(size):
        trigger = _trigger(kind, f"pod-{number}", url)
        trigger.task_instance = None
        runner.triggers[number] = {"task": None, "is_watcher": False, "name": str(number), "events": 0}  # type: ignore[typeddict-item]
        tasks[number] = asyncio.create_task(runner.run_trigger(number, trigger))
        runner.triggers[number]["task"] = tasks[number]
    async with aiohttp.ClientSession(url) as session:
        await asyncio.sleep(SECONDS / 2)  # until all of them have begun
        await (await session.get("/counted")).json()
        cpu, began = _cpu(), time.monotonic()
        await asyncio.sleep(SECONDS)
        counted = await (await session.get("/counted")).json()
        passed, share = time.monotonic() - began, (_cpu() - cpu) / (time.monotonic() - began)
        ends = range(0, size, max(1, size // ENDS))
        late = await asyncio.gather(
            *(_late(session, tasks[number], number, delay) for delay, number in enumerate(ends))
        )
    for task in tasks.values():
        task.cancel()
    return {
        "memory_mib": (_resident() - before) / 2**20,
        "cpu_share": share,
        "requests_a_second": sum(counted.values()) / passed,
        "log_reads_a_second": counted.get("read log", 0) / passed,
        "median_latency_s": statistics.median(late),
        "worst_latency_s": max(late),
    }


async def _late(session: Any, task: Any, number: int, delay: float) -> float:
    """End a pod after a while; return how long its trigger takes to notice."""
    await asyncio.sleep(delay)
    ended = time.monotonic()
    await session.post(f"/end/pod-{number}")
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(task, PATIENCE)
    return time.monotonic() - ended


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Be the server or the triggerer; without arguments, measure and print."""
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(int(sys.argv[2])))
    elif sys.argv[1:2] == ["wait"]:
        sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
        import operator_kit  # noqa: F401  # sets Airflow's home first

        logging.disable(logging.INFO)
        print(json.dumps(asyncio.run(wait(sys.argv[2], int(sys.argv[3]), sys.argv[4]))))
    else:
        for name, figures in _each(tuple(map(int, sys.argv[1:])) or SIZES):
            print(name, {key: round(value, 3) for key, value in figures.items()}, flush=True)


if __name__ == "__main__":
    main()
