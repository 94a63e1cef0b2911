"""What stands before the endpoints: who asks, whether there is room, and what becomes of a failure."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evergreen.serving.clients import Client, Issuer, TokenBook, looks_like_token
from evergreen.serving.host import Host
from evergreen.serving.metrics import IN_FLIGHT, REFUSED, REQUESTS
from evergreen.serving.requests import RefusedError
from evergreen.serving.tracing import traced

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("evergreen.serving.requests")

_REQUEST_ID = re.compile(rb"[\w.:-]{1,64}")
_OPEN = ("/v2/health/live", "/v2/health/ready")
"""What anybody may ask: a kubelet has no token."""
_FOR_BROWSERS = ("/docs", "/openapi.json")
COMMON_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"),
)


@dataclass
class Guard:
    """Lets those through who are known, as many at once as there is room for.

    Parameters
    ----------
    app
        What answers.
    host
        The models; while it drains, answers close their connections.
    tokens, issuer
        Who is known.
    most_in_flight
        Requests at once; one more is told to come again before anything of it is read.
    open_metrics
        Whether ``/metrics`` asks for no token.
    tracer
        What requests are traced with, if they are.
    """

    app: ASGIApp
    host: Host
    tokens: TokenBook
    issuer: Issuer | None = None
    most_in_flight: int = 1024
    open_metrics: bool = False
    tracer: Tracer | None = None
    _in_flight: int = field(default=0, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or see to its refusal."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        began, headers = time.perf_counter(), dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"")
        identity = asked.decode() if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(8)
        state = scope["state"] = {**scope.get("state", {}), "request_id": identity, "began": began}
        reply = _Reply(send, state, self.host)
        with traced(self.tracer, scope["method"], headers, state):
            await self._admit(scope, receive, reply, headers)
            state["status"] = reply.status

    async def _admit(self, scope: Scope, receive: Receive, reply: _Reply, headers: Mapping[bytes, bytes]) -> None:
        if scope["path"] in _OPEN:  # a server that is busy is alive: its kubelet is to leave it alone
            await self._answer(scope, receive, reply, headers)
            return
        if self._in_flight >= self.most_in_flight:
            REQUESTS.labels("", "", "503").inc()  # no line in the log: there would be as many as requests
            REFUSED.labels("", "busy").inc()
            await reply.refuse(503, "too many requests are being answered", {"retry-after": "1"})
            return
        self._in_flight += 1
        IN_FLIGHT.set(self._in_flight)
        try:
            await self._answer(scope, receive, reply, headers)
        finally:
            self._in_flight -= 1
            IN_FLIGHT.set(self._in_flight)

    async def _answer(self, scope: Scope, receive: Receive, reply: _Reply, headers: Mapping[bytes, bytes]) -> None:
        state = scope["state"]
        try:
            if self._needs_client(scope["path"]):
                client = await self._client(headers.get(b"authorization", b""))
                if client is None:
                    state["reason"] = "unauthenticated"
                    await reply.refuse(401, "send Authorization: Bearer <a token>", _challenge(scope["path"]))
                    return
                state["client"] = client
            await self.app(scope, receive, reply.send)
        except RefusedError as error:
            state["reason"] = error.reason
            await reply.refuse(error.status, str(error), error.headers)
        except Exception:
            log.exception("request %s", state["request_id"])
            if not reply.started:
                await reply.refuse(500, "the server has failed; its log has why, under this request's id")
        finally:
            self._say(scope, reply, state["began"])

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, send)

    def _needs_client(self, path: str) -> bool:
        return path not in _OPEN and not (self.open_metrics and path == "/metrics")

    async def _client(self, authorization: bytes) -> Client | None:
        scheme, _, value = authorization.decode(errors="replace").partition(" ")
        if scheme.lower() == "basic":  # a browser's way to send a token, for /docs
            try:
                value = base64.b64decode(value, validate=True).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                return None
        elif scheme.lower() != "bearer":
            return None
        if looks_like_token(value):
            return self.tokens.client_of(value)
        return await self.issuer.client_of(value) if self.issuer and value else None

    def _say(self, scope: Scope, reply: _Reply, began: float) -> None:
        """Count a request, and log it unless it was answered."""
        state = scope["state"]
        model, protocol = state.get("model", ""), state.get("protocol", "")
        REQUESTS.labels(model, protocol, str(reply.status)).inc()
        if "reason" in state:
            REFUSED.labels(model, state["reason"]).inc()
        if reply.status >= 400 and scope["path"] not in _OPEN:
            client: Client | None = state.get("client")
            fields = {
                **{"request_id": state["request_id"], "method": scope["method"], "path": scope["path"][:200]},
                **{
                    "status": reply.status,
                    "client": client.name if client else None,
                    "why": state.get("why", "")[:300],
                },
                "ms": round(1000 * (time.perf_counter() - began), 2),
            }
            log.info(json.dumps(fields))


def _challenge(path: str) -> Mapping[str, str]:
    return {"www-authenticate": 'Basic realm="a token as the password"' if path in _FOR_BROWSERS else "Bearer"}


class _Reply:
    """What goes back for one request: with the headers that every answer has."""

    def __init__(self, send: Send, state: dict[str, Any], host: Host) -> None:
        self._send, self._state, self._host = send, state, host
        self._identity = str(state["request_id"])
        self.status, self.started = 0, False

    async def send(self, message: Message) -> None:
        """Pass on what the application sends."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            closing = ((b"connection", b"close"),) if self._host.draining else ()
            identity = (b"x-request-id", self._identity.encode())
            present = {name for name, _ in message["headers"]}
            common = (one for one in COMMON_HEADERS if one[0] not in present)
            message = {**message, "headers": [*message["headers"], identity, *common, *closing]}
        await self._send(message)

    async def refuse(self, status: int, why: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer with an error."""
        self._state["why"] = why
        body = json.dumps(error_fields(why, self._identity)).encode()
        fields: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
        fields += [(b"content-length", str(len(body)).encode())]
        fields += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        await self.send({"type": "http.response.start", "status": status, "headers": fields})
        await self.send({"type": "http.response.body", "body": body})


def error_fields(why: str, identity: str, problems: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return the body of an error."""
    return {"error": why, **({"problems": problems} if problems else {}), "request_id": identity}
