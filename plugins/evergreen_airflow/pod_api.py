"""What is asked of the Kubernetes API: as plain JSON, because models of a thousand pods would cost seconds to make."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import ClientTimeout
from kubernetes.client.exceptions import ApiException as SyncApiException
from kubernetes_asyncio.client import ApiException, CoreV1Api

_PAGE = 250
LOG_LINES, LOG_BYTES = 5_000, 4 << 20
NOT_FOUND, CONFLICT = 404, 409
_WATCH_SECONDS = 240
_REQUEST = ClientTimeout(total=60, sock_connect=10)
_SILENCE = ClientTimeout(total=None, sock_connect=10, sock_read=_WATCH_SECONDS + 30)
Change = tuple[str, dict[str, Any]]
_CHANGES = frozenset({"ADDED", "MODIFIED", "DELETED"})
"""The rest is not about an object: a BOOKMARK, which a server may send unasked, has nothing but a version."""


@contextmanager
def suppress_status(*statuses: int) -> Iterator[None]:
    """Pass over a refusal of the API, by either client, with one of these statuses."""
    try:
        yield
    except (ApiException, SyncApiException) as error:
        if error.status not in statuses:
            raise


async def list_all(
    call: Callable[..., Awaitable[Any]], namespace: str, *, limit: int = _PAGE, **selectors: str
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
        timeout_seconds=_WATCH_SECONDS,
        _preload_content=False,
        _request_timeout=_SILENCE,
        **selectors,
    )
    if answer.status >= 400:
        await _checked(answer)
    async with answer:
        incomplete = b""
        async for chunk in answer.content.iter_any():
            *lines, incomplete = (incomplete + chunk).split(b"\n")
            for line in filter(None, lines):
                change = json.loads(line)
                if change["type"] == "ERROR":
                    raise ApiException(status=change["object"].get("code"), reason=change["object"].get("message"))
                if change["type"] in _CHANGES:
                    yield change["type"], change["object"]


async def ask(call: Callable[..., Awaitable[Any]], **arguments: Any) -> dict[str, Any]:
    """Call the API and parse the answer only, without making objects of a model class from it."""
    arguments = {name: value for name, value in arguments.items() if value is not None}
    answer = await call(**arguments, _preload_content=False, _request_timeout=_REQUEST)
    parsed: dict[str, Any] = json.loads(await _checked(answer))
    return parsed


async def read_log(api: CoreV1Api, name: str, namespace: str, container: str, since_seconds: int | None) -> list[str]:
    """Return the last lines of a container's log, each with its time."""
    answer = await api.read_namespaced_pod_log(
        name=name,
        namespace=namespace,
        container=container,
        since_seconds=since_seconds,  # type: ignore[arg-type]  # None is none
        timestamps=True,
        tail_lines=LOG_LINES,
        limit_bytes=LOG_BYTES,
        _preload_content=False,
        _request_timeout=_REQUEST,
    )
    return text_lines(await _checked(answer))


def text_lines(content: bytes) -> list[str]:
    """Return the lines of a log, of which a step may have written any bytes."""
    return content.decode("utf-8", errors="backslashreplace").splitlines()


async def _checked(answer: Any) -> bytes:
    """Return the content of an answer, or raise what the API has refused."""
    async with answer:
        content: bytes = await answer.read()
    if answer.status >= 400:
        raise ApiException(status=answer.status, reason=content.decode(errors="replace")[:500] or answer.reason)
    return content
