"""The server as a process: it listens, answers, and when told to stop ends without dropping a request."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import Any, cast

from evergreen.catalog import load_model
from evergreen.serving.app import make_app
from evergreen.serving.clients import TokenBook, configured_issuer
from evergreen.serving.guard import Guard
from evergreen.serving.host import Host
from evergreen.serving.serve import build_host
from evergreen.serving.shedding import SheddingProtocol, rooms_of
from evergreen.serving.tracing import configured_tracer
from evergreen.settings import get_settings

log = logging.getLogger(__name__)

_LEAVING_SECONDS = 20
"""How long requests that are being answered may take once the server has stopped listening."""


def run_server(
    models: Sequence[str], address: str, port: int | None, certificate: str | None, key: str | None, *, wait: bool
) -> None:
    """Serve until told to stop; see ``evergreen serve --help``.

    Raises
    ------
    ConfigurationError
        If there is nothing to serve, or a setting is wrong.
    """
    import uvicorn

    settings, tokens, issuer = get_settings(), TokenBook(), configured_issuer()
    tokens.start()
    with build_host(models, wait=wait) as host:
        limits = {name: load_model(name).serving for name in host.models}
        guard = Guard(
            make_app(host, limits),
            host,
            tokens,
            issuer,
            most_in_flight=settings.serving_most_in_flight,
            open_metrics=settings.serving_open_metrics,
            tracer=configured_tracer(),
        )
        config = uvicorn.Config(
            guard,
            host=address,
            port=port or settings.serving_port,
            loop="uvloop",
            http=cast("type[asyncio.Protocol]", partial(SheddingProtocol, rooms_of(limits), host)),
            access_log=False,
            server_header=False,
            proxy_headers=False,  # nothing asks where a request comes from: its token tells who sent it
            log_config=None,
            timeout_graceful_shutdown=_LEAVING_SECONDS,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        gc.collect()
        gc.freeze()  # what the libraries hold stays: to look through it again takes the time of two hundred answers
        _server_of(config, host, settings.serving_drain_seconds).run()
    tokens.stop()


def _server_of(config: Any, host: Host, drain_seconds: float) -> Any:
    """Return a server that, asked to stop, is not ready first, and stops to listen when that is known."""
    import uvicorn

    class Draining(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if host.draining or sig != signal.SIGTERM:
                super().handle_exit(sig, frame)
                return
            log.info("told to stop: answers on for %g s", drain_seconds)
            host.draining = True
            asyncio.get_event_loop().call_later(drain_seconds, setattr, self, "should_exit", True)

    return Draining(config)
