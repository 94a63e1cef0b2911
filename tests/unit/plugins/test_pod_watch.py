"""What the shared watch does when it cannot watch; tests/integration/test_operator_kubernetes.py lets it watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from kubernetes_asyncio.client import ApiException
from kubernetes_asyncio.config import ConfigException

from evergreen_airflow import pod_watch


class Hook:
    """A hook whose connections fail, one after the other."""

    config_dict = in_cluster = cluster_context = None

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def get_conn_extras(self) -> dict[str, Any]:
        return {}

    @asynccontextmanager
    async def get_conn(self) -> AsyncIterator[Any]:
        raise self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        yield


@pytest.mark.parametrize("first", [ConfigException("no token"), RuntimeError("a defect"), OSError("no route")])
def test_a_watch_goes_on_after_any_error_and_ends_when_it_is_forbidden(
    monkeypatch: pytest.MonkeyPatch, first: Exception
) -> None:
    monkeypatch.setattr(pod_watch, "_BACK_OFF", (0.0, 0.0))

    async def look() -> pod_watch.PodView:
        hook = Hook(first, first, ApiException(status=403, reason="Forbidden"))
        watch = pod_watch.PodWatch(hook, "steps")  # type: ignore[arg-type]
        watch.start()
        try:
            await watch.add(view := pod_watch.PodView("pod"))
            return view
        finally:
            await watch.stop()

    view = asyncio.run(asyncio.wait_for(look(), 20))
    assert view.error is not None
    assert view.error.status == 403


def test_a_trigger_that_ends_leaves_the_view_of_one_that_adopted_its_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_watch, "_FIRST_LIST_SECONDS", 0)

    async def overlap() -> None:
        hook: Any = Hook(OSError("no route"))
        async with AsyncExitStack() as later:
            async with pod_watch.watching(hook, "steps", "pod") as (watch, _):
                adopted, view = await later.enter_async_context(pod_watch.watching(hook, "steps", "pod"))
                assert adopted is watch
            assert watch.views == {"pod": view}
            assert watch in pod_watch._watches.values()
        assert watch.views == {}
        assert watch not in pod_watch._watches.values()

    asyncio.run(overlap())


def test_a_trigger_that_is_cancelled_before_the_first_list_leaves_no_watch() -> None:
    async def cancelled() -> None:
        stack, hook = AsyncExitStack(), Hook(OSError("no route"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stack.enter_async_context(pod_watch.watching(hook, "steps", "pod")), 0.1)  # type: ignore[arg-type]
        assert not pod_watch._watches

    asyncio.run(cancelled())


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("timeout", [None, 60.0])
def test_who_is_cancelled_in_the_moment_of_a_change_waits_no_more(timeout: float | None, turns: int) -> None:
    async def wait(view: pod_watch.PodView) -> None:
        while True:
            await view.changed(timeout)

    async def look() -> bool:
        view = pod_watch.PodView("pod")
        task = asyncio.create_task(wait(view))
        await asyncio.sleep(0.01)
        view.show({"metadata": {"name": "pod"}})
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        return task.cancelled()

    assert asyncio.run(look())
