"""The feature server of a cluster: Feast's own, for who holds the token, and for reading only.

``python -m evergreen.features.online_server --port=6566``. Feast's own authentication needs an OpenID provider or the
Kubernetes API; without either every endpoint is open, those that write too. The token is ``EVERGREEN_FEAST_TOKEN``.
"""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from evergreen.contract import ConfigurationError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

READ = ("POST", "/get-online-features")
HEALTH = ("GET", "/health")
LEAST_CHARACTERS = 32


class Guarded:
    """Lets an ASGI application see reads with the token, and questions after its health; nothing else."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        from starlette.responses import JSONResponse

        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "lifespan" or (refusal := self._refusal(scope)) is None:
            await self.app(scope, receive, send)
        else:
            status, detail = refusal
            await JSONResponse({"detail": detail}, status)(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        request = (scope["method"], scope["path"])
        if request == HEALTH:
            return None
        authorization = dict(scope["headers"]).get(b"authorization", b"")
        if not secrets.compare_digest(authorization, self._expected):
            return 401, "send Authorization: Bearer <the token>"
        return None if request == READ else (403, "this server answers POST /get-online-features only")


def read_token() -> str:
    """Return the token.

    Raises
    ------
    ConfigurationError
        If there is none, or one that could be guessed.
    """
    token = os.environ.get("EVERGREEN_FEAST_TOKEN", "")
    if len(token) < LEAST_CHARACTERS:
        raise ConfigurationError(
            f"EVERGREEN_FEAST_TOKEN has {len(token)} characters, not {LEAST_CHARACTERS} or more.",
            "Make one with: openssl rand -hex 32",
        )
    return token


def serve(
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option()] = 6566,
    certificate: Annotated[str | None, typer.Option(help="PEM file; with --key the server speaks TLS.")] = None,
    key: Annotated[str | None, typer.Option()] = None,
) -> None:
    """Serve the online features of every model until told to stop."""
    import uvicorn

    from evergreen.features.feast_repo import get_feature_store

    token, store = read_token(), get_feature_store()
    from feast.feature_server import get_app

    uvicorn.run(
        Guarded(get_app(store), token),
        host=host,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        access_log=False,
    )


if __name__ == "__main__":
    typer.run(serve)
