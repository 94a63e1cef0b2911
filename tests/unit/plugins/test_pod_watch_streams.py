"""What an API server's watch may bring: bookmarks, 410 Gone, errors in mid-line, events out of order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from kubernetes_asyncio.client import ApiClient, Configuration

from evergreen_airflow import pod_watch

Line = dict[str, Any]


def pod(phase: str, version: int, *, uid: str = "one", name: str = "step") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": uid, "resourceVersion": str(version)},
        "spec": {"nodeName": "node"},
        "status": {"phase": phase},
    }


def line(kind: str, found: Line) -> bytes:
    return json.dumps({"type": kind, "object": found}).encode() + b"\n"


LAST = pod("Running", 99, name="last")
GONE = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
BOOKMARK = {"kind": "Pod", "metadata": {"resourceVersion": "90", "creationTimestamp": None}}


class Server:
    """An API server whose watches of pods say, one after the other, what a test says; the last one stays open."""

    def __init__(self, *watches: tuple[bytes, ...], ends: bool = False, cut: bool = False, refuse: int = 0) -> None:
        self.watches = list(watches)
        self.ends = ends or cut
        self.cut = cut
        self.refuse = refuse
        self.listed: list[dict[str, Any]] = [pod("Pending", 1)]
        self.lists = 0
        self.since: list[str] = []
        self.config_dict = self.in_cluster = self.cluster_context = None
        self.port = 0

    async def get_conn_extras(self) -> dict[str, Any]:
        return {"port": self.port}

    @asynccontextmanager
    async def get_conn(self) -> AsyncIterator[ApiClient]:
        async with ApiClient(Configuration(host=f"http://127.0.0.1:{self.port}")) as client:
            yield client

    async def pods(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            self.lists += 1
            return web.json_response({"metadata": {"resourceVersion": str(10 * self.lists)}, "items": self.listed})
        self.since.append(request.query["resourceVersion"])
        if self.refuse:
            self.refuse -= 1
            return web.json_response(GONE, status=410)
        answer = web.StreamResponse()
        await answer.prepare(request)
        if not self.watches:
            await asyncio.sleep(60)
        for chunk in self.watches.pop(0):
            await answer.write(chunk)
            await asyncio.sleep(0.02)  # a piece of its own
        if not self.watches and not self.ends:
            await asyncio.sleep(60)
        if self.cut and request.transport is not None:
            request.transport.abort()
        return answer

    async def events(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            await asyncio.sleep(60)
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": None})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/steps/pods", self.pods)
        app.router.add_get("/api/v1/namespaces/steps/events", self.events)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield
        finally:
            await runner.cleanup()


def see(server: Server, until: Callable[[pod_watch.PodView], object] | None = None) -> pod_watch.PodView:
    """Watch the pod until a condition is met, or until the watch has told of the pod that is told of last."""

    async def look() -> pod_watch.PodView:
        async with server.serving(), pod_watch.watching(server, "steps", "step") as (watch, view):  # type: ignore[arg-type]
            while not (until(view) if until else "last" in watch._pods):
                await view.changed(0.05)
            return view

    return asyncio.run(asyncio.wait_for(look(), 30))


def phase(view: pod_watch.PodView) -> str:
    return str(view.pod.get("status", {}).get("phase"))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_watch, "_BACK_OFF", (0.0, 0.0))


def test_a_bookmark_is_no_pod_and_does_not_end_the_watch() -> None:
    server = Server((line("BOOKMARK", BOOKMARK), line("MODIFIED", pod("Running", 91))))
    see(server, lambda view: phase(view) == "Running")
    assert server.lists == 1


@pytest.mark.parametrize("how", ["line", "status"])
def test_a_version_that_is_too_old_is_listed_anew(how: str) -> None:
    watches = ((line("ERROR", GONE),),) if how == "line" else ()
    server = Server(*watches, (line("MODIFIED", pod("Succeeded", 30)),), refuse=1 if how == "status" else 0)
    see(server, lambda view: phase(view) == "Succeeded")
    assert server.lists >= 2
    assert server.since[:2] == ["10", "20"], "each watch goes on from the list before it"


@pytest.mark.parametrize("cut", [True, False])
def test_half_a_line_is_dropped_and_told_again(cut: bool) -> None:
    whole = line("MODIFIED", pod("Running", 15))
    server = Server((whole, line("MODIFIED", pod("Succeeded", 16))[:40]), ends=True, cut=cut)

    def until(view: pod_watch.PodView) -> bool:
        if phase(view) == "Running":
            server.listed[:] = [pod("Succeeded", 16)]  # what the half line was about
        return phase(view) == "Succeeded"

    see(server, until)
    assert server.lists == 2


def test_a_character_may_be_split_between_two_pieces() -> None:
    told = pod("Running", 15) | {"status": {"phase": "Running", "message": "größer"}}
    whole = json.dumps({"type": "MODIFIED", "object": told}, ensure_ascii=False).encode() + b"\n"
    at = whole.index("ö".encode()) + 1
    view = see(Server((whole[:at], whole[at:])), lambda view: phase(view) == "Running")
    assert view.pod["status"]["message"] == "größer"


def test_an_older_state_does_not_replace_a_newer_one() -> None:
    server = Server((line("MODIFIED", pod("Succeeded", 16)), line("MODIFIED", pod("Running", 15)), line("ADDED", LAST)))
    assert phase(see(server)) == "Succeeded"


def test_a_pod_that_is_gone_does_not_come_back_but_one_of_its_name_does() -> None:
    deleted = (line("DELETED", pod("Running", 17)), line("MODIFIED", pod("Running", 16)), line("ADDED", LAST))
    server = Server(deleted)
    assert see(server).gone
    server = Server((*deleted[:2], line("ADDED", pod("Pending", 18, uid="two")), line("ADDED", LAST)))
    view = see(server)
    assert (view.gone, view.pod["metadata"]["uid"]) == (False, "two")


def test_a_proxy_that_cuts_every_watch_does_not_slow_them_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty pauses that double each time would last for hours."""
    monkeypatch.setattr(pod_watch, "_BACK_OFF", (0.01, 1e6))
    watches = [(b"", b"", b"", line("MODIFIED", pod("Running", version))) for version in range(11, 31)]
    server = Server(*watches, cut=True)
    see(server, lambda _: server.lists > len(watches))
