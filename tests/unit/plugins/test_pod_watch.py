"""What the shared watch does when it cannot watch; tests/integration/test_operator_kubernetes.py lets it watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kubernetes_asyncio.client import ApiException
from kubernetes_asyncio.config import ConfigException

from evergreen_airflow import pod_watch


class Hook:
    """A hook whose connections fail, one after the other."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

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
            return await watch.view("pod")
        finally:
            await watch.stop()

    view = asyncio.run(asyncio.wait_for(look(), 20))
    assert view.error is not None
    assert view.error.status == 403
