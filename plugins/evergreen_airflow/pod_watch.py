"""One watch for all pods that one triggerer waits for: its cost follows what happens, not how many wait.

The stock trigger asks for its own pod every few seconds on a connection of its own, and watches its events on another
one. docs/performance.md has both measured.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError
from kubernetes_asyncio.client import ApiException, CoreV1Api

from evergreen_airflow.pod import SELECTOR
from evergreen_airflow.pod_api import NOT_FOUND, ask, changes, list_all, read_log, suppress_status

if TYPE_CHECKING:
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook

log = logging.getLogger(__name__)

_FIRST_LIST_SECONDS = 10
_BACK_OFF = (0.5, 10.0)
_TROUBLE = (ClientError, OSError, TimeoutError, ValueError)
"""What comes of an API server that does not answer, or not in JSON."""
_LOG_READS_A_SECOND = 10
_FORBIDDEN = 403


class PodView:
    """What one trigger sees of its pod: its newest state and the events that are new to it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pod: dict[str, Any] = {}
        self.gone = False
        self.error: ApiException | None = None
        """Set when the watch is forbidden: nothing more will come."""
        self._events: deque[str] = deque(maxlen=50)
        self._seen: set[tuple[str, int]] = set()
        self._changed = asyncio.Event()

    def show(self, pod: dict[str, Any], *, gone: bool = False) -> None:
        """Take a newer state; a pod that is gone does not come back, only another one of its name."""
        if self.gone and pod and _uid(pod) == _uid(self.pod):
            return
        self.pod, self.gone = pod or self.pod, gone
        self._changed.set()

    def tell(self, event: dict[str, Any]) -> None:
        """Take an event of the pod, once."""
        key = (event["metadata"].get("uid") or event["metadata"].get("name", ""), event.get("count") or 1)
        if key not in self._seen:
            self._seen.add(key)
            self._events.append(f"{event.get('type')} {event.get('reason')}: {event.get('message')}")
            self._changed.set()

    def fail(self, error: ApiException) -> None:
        """Take that nothing more will come."""
        self.error = error
        self._changed.set()

    async def changed(self, timeout: float | None) -> list[str]:
        """Wait for anything new, or for so many seconds; return the new events."""
        # not by wait_for: before Python 3.12 it loses a cancellation that comes together with what it waits for
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        self._changed.clear()
        events = list(self._events)
        self._events.clear()
        return events


class PodWatch:
    """The pods of one namespace of one cluster, for everyone in this event loop who waits for one of them."""

    def __init__(self, hook: AsyncKubernetesHook, namespace: str) -> None:
        self.hook = hook
        self.namespace = namespace
        self.views: dict[str, PodView] = {}
        self._pods: dict[str, dict[str, Any]] = {}
        self._listed = asyncio.Event()
        self._error: ApiException | None = None
        self._api: CoreV1Api | None = None
        """The connection of the pods' watch, for requests beside it: to make one costs more than to ask."""
        self._next_log_read = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to watch."""
        for watch in (self._watch_pods, self._watch_events):
            # in a context of its own, because what it logs does not belong to the first trigger's task
            self._tasks.append(asyncio.create_task(self._forever(watch), context=contextvars.Context()))

    async def stop(self) -> None:
        """End watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def add(self, view: PodView) -> None:
        """Keep a view of a pod up to date, beginning with its present state."""
        name = view.name
        self.views[name] = view
        if self._error:
            view.fail(self._error)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LIST_SECONDS):
                await self._listed.wait()
        if name in self._pods:
            view.show(self._pods[name])
        elif self._listed.is_set():  # the watch may not have told of it yet; if it cannot be asked, it will
            with suppress(ApiException, *_TROUBLE):
                await self._ask(name)

    async def _forever(self, watch: Callable[[CoreV1Api], Awaitable[None]]) -> None:
        """Watch again whenever a watch ends, with a connection and credentials that are new."""
        pause = _BACK_OFF[0]
        while True:
            began = time.monotonic()
            try:
                async with self.hook.get_conn() as client:
                    await watch(CoreV1Api(client))
            except ApiException as error:
                if error.status == _FORBIDDEN:
                    self._give_up(watch, error)
                    return
                log.warning("Kubernetes watch: %s %s", error.status, error.reason)
            except _TROUBLE as error:
                log.warning("Kubernetes watch: %r", error)
            except Exception:  # everyone would wait for a watch that has ended, until their deadlines
                log.exception("Kubernetes watch")
            if time.monotonic() - began > pause:  # it worked: a proxy that cuts every watch must not slow them down
                pause = _BACK_OFF[0]
            await asyncio.sleep(pause)
            pause = min(2 * pause, _BACK_OFF[1])

    def _give_up(self, watch: Callable[[CoreV1Api], Awaitable[None]], error: ApiException) -> None:
        log.error("Kubernetes forbids the triggerer to watch (%s): %s", watch.__name__, error.reason)
        if watch == self._watch_pods:  # without events one waits less well informed, but one can wait
            self._error = error
            self._listed.set()
            for view in self.views.values():
                view.fail(error)

    async def _watch_pods(self, api: CoreV1Api) -> None:
        call, self._api = api.list_namespaced_pod, api
        try:
            pods, version = await list_all(call, self.namespace, label_selector=SELECTOR)
            self._pods = {}
            for pod in pods:
                self._see("ADDED", pod)
            self._listed.set()
            for name in [name for name in self.views if name not in self._pods]:
                await self._ask(name)
            async for kind, pod in changes(call, self.namespace, version, label_selector=SELECTOR):
                self._see(kind, pod)
        finally:
            self._api = None

    async def _watch_events(self, api: CoreV1Api) -> None:
        call, selector = api.list_namespaced_event, "involvedObject.kind=Pod"
        _, version = await list_all(call, self.namespace, field_selector=selector, limit=1)
        async for _, event in changes(call, self.namespace, version, field_selector=selector):
            if view := self.views.get((event.get("involvedObject") or {}).get("name", "")):
                view.tell(event)

    def _see(self, kind: str, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        state, gone = _essence(pod), kind == "DELETED"
        if _is_older(state, self._pods.get(name)):
            return
        if gone:
            self._pods.pop(name, None)
        else:
            self._pods[name] = state
        if name in self.views:
            self.views[name].show(state, gone=gone)

    async def _ask(self, name: str) -> None:
        """Look whether a pod that the watch knows nothing of is there."""
        pod: dict[str, Any] = {}
        with suppress_status(NOT_FOUND):
            async with self._connected() as api:
                pod = await ask(api.read_namespaced_pod, name=name, namespace=self.namespace)
        if name in self.views and name not in self._pods:  # else the watch has told of it meanwhile, and knows more
            self.views[name].show(_essence(pod) if pod else {}, gone=not pod)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[CoreV1Api]:
        if self._api is not None:
            yield self._api
            return
        async with self.hook.get_conn() as client:
            yield CoreV1Api(client)

    async def delete(self, name: str) -> None:
        """Delete a pod; one that is gone already is as well."""
        with suppress_status(NOT_FOUND):
            async with self._connected() as api:
                await ask(api.delete_namespaced_pod, name=name, namespace=self.namespace)

    async def read_log(self, name: str, container: str, since_seconds: int | None, *, at_once: bool) -> list[str]:
        """Return the last lines of a container's log, each with its time: at once, or in turn with everyone else.

        The turns come ten a second, so that a thousand running pods cost the cluster no more than fifty. A pod that
        has ended is not kept waiting for one.
        """
        if not at_once:
            loop = asyncio.get_running_loop()
            turn = self._next_log_read = max(loop.time(), self._next_log_read + 1 / _LOG_READS_A_SECOND)
            await asyncio.sleep(turn - loop.time())
        async with self._connected() as api:
            return await read_log(api, name, self.namespace, container, since_seconds)


_watches: dict[tuple[Any, ...], PodWatch] = {}


@asynccontextmanager
async def watching(hook: AsyncKubernetesHook, namespace: str, name: str) -> AsyncIterator[tuple[PodWatch, PodView]]:
    """Watch a pod together with everyone who watches one in the same namespace of the same cluster."""
    cluster = (await hook.get_conn_extras(), hook.config_dict, hook.in_cluster, hook.cluster_context)
    key = (asyncio.get_running_loop(), namespace, json.dumps(cluster, sort_keys=True, default=str))
    watch = _watches.get(key)
    if watch is None:
        watch = _watches[key] = PodWatch(hook, namespace)
        watch.start()
    view = PodView(name)
    try:
        await watch.add(view)
        yield watch, view
    finally:
        if watch.views.get(name) is view:  # not that of a trigger which adopted the pod meanwhile
            del watch.views[name]
            if not watch.views:
                _watches.pop(key, None)
                await watch.stop()


def _uid(pod: dict[str, Any]) -> str | None:
    return (pod.get("metadata") or {}).get("uid")


def _is_older(pod: dict[str, Any], known: dict[str, Any] | None) -> bool:
    """Tell whether what is said of a pod was true before what is known of it."""
    if known is None or _uid(pod) != _uid(known):
        return False
    versions = [str(state["metadata"].get("resourceVersion")) for state in (pod, known)]
    return all(map(str.isdecimal, versions)) and int(versions[0]) < int(versions[1])


def _essence(pod: dict[str, Any]) -> dict[str, Any]:
    """Return what is asked of a pod; the rest would fill the memory."""
    metadata = pod["metadata"]
    return {
        "metadata": {name: metadata.get(name) for name in ("name", "uid", "resourceVersion", "deletionTimestamp")},
        "spec": {"nodeName": (pod.get("spec") or {}).get("nodeName")},
        "status": {
            name: value
            for name, value in (pod.get("status") or {}).items()
            if name in {"phase", "reason", "message", "conditions", "containerStatuses"}
        },
    }
