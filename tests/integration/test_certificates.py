"""MLflow and PostgreSQL behind TLS of a private authority: verified, and refused at once where they cannot be."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from certificate_kit import self_signed
from evergreen.contract import ConfigurationError
from evergreen.settings import Settings, get_settings
from evergreen.training.registry import by_alias

pytestmark = pytest.mark.integration


class NoSuchModel(BaseHTTPRequestHandler):
    """Answers as MLflow does of a model that it does not know."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()
        self.wfile.write(b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"}')


@contextmanager
def served(certificate: Path | None) -> Iterator[int]:
    """Serve it on 127.0.0.1, with a certificate or without TLS; yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), NoSuchModel)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join(30)
    server.server_close()


@pytest.mark.parametrize(
    ("host", "trusted", "encrypted", "said"),
    [
        ("127.0.0.1", True, True, None),
        ("127.0.0.1", False, True, "Name the authority of its certificate in REQUESTS_CA_BUNDLE"),
        ("localhost", True, True, "a host that the certificate is for"),
        ("127.0.0.1", True, False, "it speaks no TLS"),
    ],
)
def test_mlflow_with_a_certificate_that_is_not_accepted_is_configuration_at_once(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    host: str,
    trusted: bool,
    encrypted: bool,
    said: str | None,
) -> None:
    """MLflow itself asks again for as long as it asks a server that is away: the steps wait, and are retried."""
    both, authority = self_signed(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")  # 28 s
    if trusted:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    with served(both if encrypted else None) as port:
        monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", f"https://{host}:{port}")
        get_settings.cache_clear()
        if said is None:
            assert by_alias("m", "champion") is None
            return
        began = time.monotonic()
        with pytest.raises(ConfigurationError, match=said) as caught:
            by_alias("m", "champion")
    assert time.monotonic() - began < 20, "asked again"
    assert f"https://{host}:{port}" in str(caught.value)
