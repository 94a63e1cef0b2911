"""How an alert leaves: by mail, to a webhook that understands Slack's, to an Alertmanager, or into the log.

Addresses and passwords are Airflow connections, in the form that Airflow's own SMTP, Slack and HTTP providers expect.
Nothing here may write one: a webhook's address is a secret as a whole.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException
from airflow.sdk.log import mask_secret

from evergreen.contract import utc_now
from evergreen.spec import Channel
from evergreen_airflow.alerts.message import ADVICE, Alert

if TYPE_CHECKING:
    from airflow.sdk import Connection

log = logging.getLogger(__name__)
_SECONDS = 5.0
"""How long a server may take for each step of an answer; `delivery` bounds the whole."""
_FIRES = timedelta(hours=24)
"""How long an Alertmanager shows an alert; it is told once, and repeats by its own rules meanwhile."""


class Undelivered(Exception):
    """A channel did not take an alert; the message holds nothing secret."""


def look_up(channel: Channel) -> Connection | None:
    """Return a channel's connection; asked for in the task's main thread, whose line to its supervisor is for one."""
    return BaseHook.get_connection(channel.connection_id) if channel.connection_id else None


def send(channel: Channel, connection: Connection | None, alert: Alert) -> None:
    """Send an alert through one channel; whatever it raises, `why` puts into words."""
    if connection is None:
        log.warning("%s", "\n".join(alert.lines))
    else:
        _SENDERS[channel.type](channel, connection, alert)


def why(error: Exception) -> str:
    """Say why an alert was not taken, without what a library may write of an address or a login."""
    if isinstance(error, Undelivered | AirflowException):
        return str(error)
    reason = error.strerror if isinstance(error, OSError) else None
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__


class _Mailer(SmtpHook):
    """Airflow's client of a mail server, with a connection that is looked up already."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(smtp_conn_id=connection.conn_id)
        self.known = connection

    def get_connection(self, conn_id: str) -> Connection:  # type: ignore[override]  # of the class, elsewhere
        return self.known


def _by_mail(channel: Channel, connection: Connection, alert: Alert) -> None:
    body = "".join(f"<p>{html.escape(line)}</p>" for line in alert.lines)
    with _Mailer(connection) as smtp:
        smtp.send_email_smtp(to=list(channel.to), subject=f"[Evergreen] {alert.title}", html_content=body)


def _to_slack(channel: Channel, connection: Connection, alert: Alert) -> None:
    text = html.escape("\n".join(alert.lines), quote=False)  # the three characters that Slack wants escaped
    _post(channel, _webhook(connection), {"text": text})


def _to_alertmanager(channel: Channel, connection: Connection, alert: Alert) -> None:
    now = utc_now()
    document = {
        "labels": {
            "alertname": f"Evergreen{alert.event.title().replace('_', '')}",
            "event": alert.event.value,
            "matter": alert.finding.matter,
            "model": alert.spec.name,
            "owner": alert.spec.owner,
            "severity": alert.severity,
            "team": alert.spec.team,
        },
        "annotations": {
            "summary": alert.lines[0],
            "description": ADVICE[alert.event].todo,
            "runbook": alert.page,
            "contact": alert.owner,
        },
        "generatorURL": alert.link,
        "startsAt": now.isoformat(),
        "endsAt": (now + _FIRES).isoformat(),
    }
    login = (connection.login, connection.password or "") if connection.login else None
    _post(channel, f"{_server(channel, connection)}/api/v2/alerts", [document], auth=login)


_SENDERS: Mapping[str, Callable[[Channel, Connection, Alert], None]] = {
    "email": _by_mail,
    "slack": _to_slack,
    "alertmanager": _to_alertmanager,
}


def _webhook(connection: Connection) -> str:
    """Return a webhook's address: the password is all of it, or what follows the host, as in Slack's provider."""
    token = (connection.password or "").strip()
    if not token:
        raise Undelivered(f"the connection {connection.conn_id} has no password: the webhook's address, or its token")
    host = (connection.host or "https://hooks.slack.com/services").rstrip("/")
    base = host if "://" in host else f"{connection.schema or 'https'}://{host}"
    address = token if "://" in token else f"{base}/{token.lstrip('/')}"
    mask_secret(token)
    mask_secret(address)
    return address


def _server(channel: Channel, connection: Connection) -> str:
    """Return a server's address as Airflow's HTTP provider reads it from a connection."""
    if not connection.host:
        raise Undelivered(f"the connection {channel.connection_id} has no host")
    host = connection.host.rstrip("/")
    base = host if "://" in host else f"{connection.schema or 'http'}://{host}"
    return f"{base}:{connection.port}" if connection.port else base


def _post(channel: Channel, address: str, document: Any, **options: Any) -> None:
    logging.getLogger("httpx").setLevel(logging.WARNING)  # else it logs the address of every request
    try:
        answer = httpx.post(address, json=document, timeout=_SECONDS, **options)
    except httpx.InvalidURL:
        raise Undelivered(f"the connection {channel.connection_id} holds no address of a server") from None
    if not answer.is_success:
        raise Undelivered(f"the server of the connection {channel.connection_id} answered {answer.status_code}")
