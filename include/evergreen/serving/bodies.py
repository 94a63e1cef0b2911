"""The body of a request: read up to a length and within a time, and parsed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from evergreen.serving.requests import RefusedError

if TYPE_CHECKING:
    from starlette.requests import Request

HEADER_LENGTH = "inference-header-content-length"
BODY_SECONDS = 10.0
"""So long a body may take to arrive: meanwhile its request holds a place among those that are answered."""
_JSON_TYPES = ("application/json", "application/octet-stream")


async def read_body(request: Request, most: int) -> bytes:
    """Return a request's body; one that is too long or too slow is refused as soon as that is known.

    Raises
    ------
    RefusedError
        If it is either, no JSON by its header, packed, or its client has gone.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind not in _JSON_TYPES:
        raise RefusedError(415, "not_json", f"content-type: {kind[:80]!r}; send application/json")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError(415, "not_json", "content-encoding: send the body as it is")
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length[:20]) > most:
        raise _too_long(most)
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _received(request, most)
    except TimeoutError:
        why = f"the body did not arrive within {BODY_SECONDS:g} seconds"
        raise RefusedError(408, "slow_body", why, {"connection": "close"}) from None


async def _received(request: Request, most: int) -> bytes:
    from starlette.requests import ClientDisconnect

    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise _too_long(most)
    except ClientDisconnect:
        raise RefusedError(400, "gone", "the client has gone") from None
    return bytes(body)


def _too_long(most: int) -> RefusedError:
    return RefusedError(413, "too_large", f"the body is longer than {most:,} bytes", {"connection": "close"})


def header_length(request: Request, body: bytes) -> int:
    """Return how much of a body is JSON; what stands behind are binary tensors.

    Raises
    ------
    RefusedError
        If the header that tells it is no length within the body.
    """
    told = request.headers.get(HEADER_LENGTH)
    if told is None:
        return len(body)
    # ten digits are more than any body has, and int() refuses thousands of them
    if not (told.isascii() and told.isdigit() and len(told) <= 10 and int(told) <= len(body)):
        raise RefusedError(400, "not_json", f"{HEADER_LENGTH}: {told[:40]!r} is no length within the body")
    return int(told)


def parsed_json(body: bytes) -> Any:
    """Return what a body says.

    Raises
    ------
    RefusedError
        If it is no JSON, or nested too deep.
    """
    import orjson

    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "depth" in str(error):
            raise RefusedError(413, "too_large", "the body is nested too deep") from None
        raise RefusedError(400, "not_json", f"the body is no JSON: {error}") from None
