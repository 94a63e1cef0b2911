"""Lists and watches of the Kubernetes API as plain JSON: models of a thousand pods would cost seconds to make."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from aiohttp import ClientTimeout
from kubernetes_asyncio.client import ApiException

PAGE = 250
WATCH_SECONDS = 240
REQUEST = ClientTimeout(total=60, sock_connect=10)
_SILENCE = ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_SECONDS + 30)
Change = tuple[str, dict[str, Any]]
_CHANGES = frozenset({"ADDED", "MODIFIED", "DELETED"})
"""The rest is not about an object: a BOOKMARK, which a server may send unasked, has nothing but a version."""


async def list_all(
    call: Callable[..., Awaitable[Any]], namespace: str, *, limit: int = PAGE, **selectors: str
) -> tuple[list[dict[str, Any]], str]:
    """Return all objects, read in pages, and the version to watch from."""
    items: list[dict[str, Any]] = []
    token: str | None = None
    while True:
        page = await ask(call, namespace=namespace, limit=limit, _continue=token, **selectors)
        items += page["items"] or []
        token = page["metadata"].get("continue")
        if not token or limit == 1:
            return items, page["metadata"].get("resourceVersion", "")


async def changes(
    call: Callable[..., Awaitable[Any]], namespace: str, version: str, **selectors: str
) -> AsyncIterator[Change]:
    """Yield what happens after a version, for some minutes: listing again then also renews the credentials."""
    answer = await call(
        namespace=namespace,
        watch=True,
        resource_version=version,
        timeout_seconds=WATCH_SECONDS,
        _preload_content=False,
        _request_timeout=_SILENCE,
        **selectors,
    )
    if answer.status >= 400:
        await checked(answer)
    async with answer:
        rest = b""
        async for chunk in answer.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in filter(None, lines):
                change = json.loads(line)
                if change["type"] == "ERROR":
                    raise ApiException(status=change["object"].get("code"), reason=change["object"].get("message"))
                if change["type"] in _CHANGES:
                    yield change["type"], change["object"]


async def ask(call: Callable[..., Awaitable[Any]], **arguments: Any) -> dict[str, Any]:
    """Call the API and parse the answer only, without making objects of a model class from it."""
    arguments = {name: value for name, value in arguments.items() if value is not None}
    answer = await call(**arguments, _preload_content=False, _request_timeout=REQUEST)
    parsed: dict[str, Any] = json.loads(await checked(answer))
    return parsed


async def checked(answer: Any) -> bytes:
    """Return the content of an answer, or raise what the API has refused."""
    async with answer:
        content: bytes = await answer.read()
    if answer.status >= 400:
        raise ApiException(status=answer.status, reason=content.decode(errors="replace")[:500] or answer.reason)
    return content
