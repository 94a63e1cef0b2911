"""Servers that alerts go to, and a model whose alerts go there."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope

from documented import blocks
from evergreen.settings import PROJECT_ROOT
from evergreen.spec import AlertEvent, ModelSpec
from evergreen_airflow.alerts.message import Alert, Finding
from installation import free_ports
from operator_kit import MODEL_YAML

TOKEN = "T0AAAA/B0BBBB/verysecrettoken"
PASSWORD = "verysecretpassword"
SECRETS = (TOKEN, PASSWORD, TOKEN.rpartition("/")[2])
EVERYWHERE = [{"type": "log"}, {"type": "slack"}, {"type": "alertmanager"}, {"type": "email", "to": ["a@example.com"]}]


class Receiver:
    """An HTTP server that keeps what it is sent, for Slack's and Alertmanager's clients."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any, str | None]] = []
        """Path, document and authorization of each."""
        self.status = 200
        self.delay = 0.0
        kit = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                time.sleep(kit.delay)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                kit.requests.append((self.path, body, self.headers.get("Authorization")))
                self.send_response(kit.status)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def to(self, path: str) -> list[Any]:
        """Return the documents that were sent to paths that begin so."""
        return [document for at, document, _ in self.requests if at.startswith(path)]


class Mailbox:
    """An SMTP server that asks for a login and keeps its mails."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        (self.port,) = free_ports(1)
        kit = self

        class Handler:
            async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:
                kit.mails.append(message_from_bytes(envelope.content, policy=policy.default))  # type: ignore[arg-type]
                return "250 OK"

        def log_in(server: Any, session: Any, envelope: Any, mechanism: Any, given: Any) -> AuthResult:
            return AuthResult(success=given.password == PASSWORD.encode(), handled=False)

        self._controller = Controller(
            Handler(),
            hostname="127.0.0.1",
            port=self.port,
            authenticator=log_in,
            auth_required=True,
            auth_require_tls=False,
        )
        self._controller.start()

    def close(self) -> None:
        self._controller.stop()


@contextmanager
def servers() -> Iterator[tuple[Receiver, Mailbox]]:
    receiver, mailbox = Receiver(), Mailbox()
    try:
        yield receiver, mailbox
    finally:
        receiver.close()
        mailbox.close()


def documented(language: str) -> str:
    """Return the one example of docs/alerts.md in a language."""
    ((text, _),) = blocks((PROJECT_ROOT / "docs" / "alerts.md").read_text(), language)
    return text


def connections(receiver: Receiver, mailbox: Mailbox) -> dict[str, dict[str, Any]]:
    """Return the connections of docs/alerts.md, leading to these servers."""
    found: dict[str, dict[str, Any]] = json.loads(documented("json"))
    mail, slack, alertmanager = (found[f"{name}_default"] for name in ("smtp", "slack", "alertmanager"))
    without_tls = {**json.loads(mail["extra"]), "disable_tls": True, "retry_limit": 0}
    mail |= {"host": "127.0.0.1", "port": mailbox.port, "password": PASSWORD, "extra": json.dumps(without_tls)}
    slack |= {"password": f"{receiver.url}/services/{TOKEN}"}
    alertmanager |= {"host": "127.0.0.1", "port": receiver.port, "login": "airflow", "password": PASSWORD}
    return found


def variables(connections: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return the environment variables that tell Airflow of connections."""
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(document) for name, document in connections.items()}


def model(*channels: dict[str, Any], **fields: Any) -> ModelSpec:
    """Return a small model with these channels."""
    content = {**yaml.safe_load(MODEL_YAML), "contact": "#someones", "alerts": list(channels), **fields}
    return ModelSpec.model_validate(content)


def alert(
    *channels: dict[str, Any],
    matter: str = "run 1",
    what: str = "version 7 is <champion> & more",
    event: AlertEvent = AlertEvent.PROMOTION,
) -> Alert:
    return Alert(model(*channels), Finding(event, matter, what), "http://localhost:8080/dags/tiny.train/runs/r")
