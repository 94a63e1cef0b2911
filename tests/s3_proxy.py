"""A proxy before a real S3 that holds requests up, or answers some of them itself."""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

Meddle = Callable[["Asked"], "tuple[int, str] | None"]
"""Told of each request before it is passed on; may take its time. Returns status and S3 error code to answer with."""


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    conditional: bool
    """It has an If-Match or If-None-Match."""


@dataclass
class Proxy:
    """Where it listens, what is behind it, and what it has seen."""

    endpoint: str
    behind: str
    meddle: Meddle
    asked: list[Asked] = field(default_factory=list)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: Proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _pass_on(self) -> None:
        body = self._body()
        conditional = any(name in self.headers for name in ("If-Match", "If-None-Match"))
        asked = Asked(self.command, self.path, conditional)
        self.server.proxy.asked.append(asked)
        answer = self.server.proxy.meddle(asked)
        if answer is None:
            self._reply(*self._behind(body))
        else:
            content = f"<Error><Code>{answer[1]}</Code><Message>{answer[1]}</Message></Error>".encode()
            self._reply(answer[0], {"Content-Type": "application/xml"}, content)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""  # Arrow sends what it writes in chunks
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return content

    def _behind(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        there = http.client.HTTPConnection(self.server.proxy.behind, timeout=300)
        there.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in {"expect", "transfer-encoding"}:
                there.putheader(name, value)
        if "Transfer-Encoding" in self.headers:
            there.putheader("Content-Length", str(len(body)))
        there.endheaders(body)
        found = there.getresponse()
        headers = {name: value for name, value in found.getheaders() if name.lower() != "transfer-encoding"}
        content = found.read()
        there.close()
        return found.status, headers, content

    def _reply(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, ssl.SSLError):  # the client has given up
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def s3_proxy(endpoint: str, meddle: Meddle, certificate: Path | None = None) -> Iterator[Proxy]:
    """Serve an S3 under another address. Signatures hold: they cover the Host header, which is passed on as it is."""
    server = _Server(("127.0.0.1", 0), _Handler)
    scheme = "http"
    if certificate is not None:
        scheme, context = "https", ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.proxy = Proxy(f"{scheme}://127.0.0.1:{server.server_port}", urlsplit(endpoint).netloc, meddle)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
