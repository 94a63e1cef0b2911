"""Alerts through real servers: what each is sent, once, and nothing secret of them anywhere else."""

from __future__ import annotations

import base64
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from alerts_kit import (
    EVERYWHERE,
    PASSWORD,
    SECRETS,
    TOKEN,
    Mailbox,
    Receiver,
    alert,
    connections,
    documented,
    model,
    servers,
    variables,
)
from evergreen.contract import utc_now
from evergreen.settings import PROJECT_ROOT, Settings, get_settings
from evergreen.spec import AlertEvent
from evergreen.store import get_store
from evergreen_airflow.alerts import delivery
from evergreen_airflow.alerts.delivery import DeliveryDocument, deliver
from evergreen_airflow.alerts.message import ADVICE

Log = pytest.LogCaptureFixture


@pytest.fixture
def there(settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: Log) -> Iterator[tuple[Receiver, Mailbox]]:
    caplog.set_level(logging.DEBUG)
    with servers() as running:
        for name, value in variables(connections(*running)).items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def receiver(there: tuple[Receiver, Mailbox]) -> Receiver:
    return there[0]


def states() -> dict[str, str]:
    """Return what is remembered of each delivery, by channel."""
    found = {}
    for key in get_store().keys("alerts/"):
        document = DeliveryDocument.parse(get_store().read(key) or b"")
        found[key.rpartition("/")[2].removesuffix(".json").partition("%3A")[0].partition(":")[0]] = document.state
    return found


def test_the_channels_of_the_documentation_are_right() -> None:
    example = yaml.safe_load(documented("yaml"))
    spec = model(*example["alerts"], schedule=example["schedule"])
    assert {channel.type for channel in spec.alerts} == {"log", "email", "slack", "alertmanager"}
    assert {channel.connection_id for channel in spec.alerts} == {"", *json.loads(documented("json"))}


def test_the_documentation_has_every_event_with_a_section() -> None:
    page = (PROJECT_ROOT / "docs" / "alerts.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| (critical|warning|info) \|", page, flags=re.M))
    assert listed == {event.value: advice.severity for event, advice in ADVICE.items()}
    assert set(listed) == {event.value for event in AlertEvent}
    sections = {title.replace(" ", "_") for title in re.findall(r"^### (.+)$", page, flags=re.M)}
    assert sections == set(listed), "each message links to one"


def test_every_channel_gets_the_whole_message(there: tuple[Receiver, Mailbox], caplog: Log) -> None:
    receiver, mailbox = there
    deliver(alert(*EVERYWHERE))
    sentences = ("tiny: promotion: version 7 is <champion> & more.", "docs/alerts.md#promotion", "#someones")
    logged = caplog.text
    (slack,) = receiver.to(f"/services/{TOKEN}")
    (mail,) = mailbox.mails
    body = mail.get_body().get_content()  # type: ignore[union-attr]
    for sentence in sentences:
        escaped = sentence.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert sentence in logged
        assert escaped in slack["text"]
        assert escaped in body
    assert "http://localhost:8080/dags/tiny.train/runs/r" in slack["text"]
    assert (mail["Subject"], mail["To"], mail["From"]) == (
        "[Evergreen] tiny: promotion",
        "a@example.com",
        "evergreen@example.com",
    )
    assert states() == dict.fromkeys(("log", "slack", "alertmanager", "email"), "sent")


def test_an_alertmanager_gets_labels_to_route_by(receiver: Receiver) -> None:
    deliver(alert({"type": "alertmanager"}, event=AlertEvent.TASK_FAILED))
    ((path, (document,), authorization),) = receiver.requests
    assert path == "/api/v2/alerts"
    assert authorization == "Basic " + base64.b64encode(f"airflow:{PASSWORD}".encode()).decode()
    assert document["labels"] == {
        "alertname": "EvergreenTaskFailed",
        "event": "task_failed",
        "matter": "run 1",
        "model": "tiny",
        "owner": "someone",
        "severity": "critical",
        "team": "somewhere",
    }
    assert document["annotations"]["summary"] == "tiny: task failed: version 7 is <champion> & more."
    assert document["startsAt"] < document["endsAt"]


def test_a_matter_is_told_once_by_each_channel(there: tuple[Receiver, Mailbox]) -> None:
    receiver, mailbox = there
    for _ in range(2):
        deliver(alert(*EVERYWHERE))
    deliver(alert({"type": "slack"}))
    assert (len(receiver.requests), len(mailbox.mails)) == (2, 1)
    deliver(alert(*EVERYWHERE, matter="run 2"))
    deliver(alert(*EVERYWHERE, event=AlertEvent.ROLLBACK))
    assert (len(receiver.requests), len(mailbox.mails)) == (6, 3)


def test_a_channel_takes_its_events_only(receiver: Receiver) -> None:
    channel = {"type": "slack", "events": ["task_failed"]}
    deliver(alert(channel))
    assert receiver.requests == []
    deliver(alert(channel, event=AlertEvent.TASK_FAILED))
    assert len(receiver.requests) == 1


def test_a_server_that_is_down_keeps_no_other_and_is_tried_again(there: tuple[Receiver, Mailbox], caplog: Log) -> None:
    receiver, mailbox = there
    receiver.status = 503
    deliver(alert(*EVERYWHERE))
    assert len(mailbox.mails) == 1
    assert "not sent to slack:slack_default: the server of the connection slack_default answered 503." in caplog.text
    assert states() == {"log": "sent", "slack": "failed", "alertmanager": "failed", "email": "sent"}
    receiver.status = 200
    deliver(alert(*EVERYWHERE))
    assert len(receiver.requests) == 4, "both once more"
    assert len(mailbox.mails) == 1, "what was sent is not"
    assert set(states().values()) == {"sent"}


@pytest.mark.parametrize(
    ("name", "document", "said"),
    [
        ("SLACK", None, "slack_default: The conn_id `slack_default` isn't defined"),
        (
            "SLACK",
            {"password": ""},
            "the connection slack_default has no password: the webhook's address, or its token",
        ),
        ("SLACK", {"password": f"http://127.0.0.1:1/{TOKEN}"}, "slack_default: ConnectError"),
        ("SLACK", {"password": f"http://127.0.0.1:port/{TOKEN}"}, "slack_default holds no address of a server"),
        ("SLACK", {"password": f"ftp://127.0.0.1/{TOKEN}"}, "slack_default: UnsupportedProtocol"),
        ("ALERTMANAGER", {"password": PASSWORD}, "the connection alertmanager_default has no host"),
        ("SMTP", {"host": "127.0.0.1", "port": 1, "password": PASSWORD}, "ConnectionRefusedError: Connection refused"),
        ("SMTP", {"password": "wrong"}, "SMTPAuthenticationError"),
    ],
)
def test_what_is_wrong_with_a_channel_is_said_without_its_secrets(
    there: tuple[Receiver, Mailbox],
    monkeypatch: pytest.MonkeyPatch,
    caplog: Log,
    name: str,
    document: dict[str, Any] | None,
    said: str,
) -> None:
    variable = f"AIRFLOW_CONN_{name}_DEFAULT"
    right = json.loads(variables(connections(*there))[variable])
    if name == "ALERTMANAGER":
        del right["host"]
    monkeypatch.delenv(variable) if document is None else monkeypatch.setenv(
        variable, json.dumps({**right, **document})
    )
    deliver(alert(*EVERYWHERE))
    assert f"{said}." in caplog.text
    assert sorted(states().values()) == ["failed", "sent", "sent", "sent"]
    assert [secret for secret in SECRETS if secret in caplog.text] == []


def test_secrets_are_nowhere_but_at_their_servers(there: tuple[Receiver, Mailbox], caplog: Log, tmp_path: Path) -> None:
    deliver(alert(*EVERYWHERE))
    assert TOKEN in there[0].requests[0][0] + there[0].requests[1][0]
    written = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert "alerts/tiny/promotion" in "".join(map(str, tmp_path.rglob("*"))), "the files were looked at"
    assert [secret for secret in SECRETS if secret in caplog.text + written] == []


def test_a_server_that_does_not_answer_takes_no_time(
    there: tuple[Receiver, Mailbox], monkeypatch: pytest.MonkeyPatch, caplog: Log
) -> None:
    receiver, mailbox = there
    receiver.delay = 30
    monkeypatch.setattr(delivery, "PATIENCE", 1.0)
    began = time.monotonic()
    deliver(alert(*EVERYWHERE))
    assert time.monotonic() - began < 4
    assert len(mailbox.mails) == 1
    assert "no answer from slack:slack_default within 1 s; going on." in caplog.text


def test_an_alert_is_sent_although_the_artifact_store_is_away(
    there: tuple[Receiver, Mailbox], settings: Settings, caplog: Log
) -> None:
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    Path(settings.artifact_root).write_text("a file in the place of the store")
    deliver(alert({"type": "slack"}))
    assert len(there[0].requests) == 1
    assert "whether it was sent before cannot be told" in caplog.text


def test_an_alert_waits_a_little_for_an_object_store_that_is_away(
    there: tuple[Receiver, Mailbox], monkeypatch: pytest.MonkeyPatch, caplog: Log
) -> None:
    """As in the DAG processor of a cluster, which no policy lets reach it: nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        away = {"EVERGREEN_ARTIFACT_ROOT": "s3://away/artifacts", "EVERGREEN_S3_ENDPOINT": endpoint}
        keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
        for name, value in (away | keys).items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        monkeypatch.setattr(delivery, "_STORE_PATIENCE", 0.5)
        deliver(alert({"type": "slack"}))
    assert len(there[0].requests) == 1
    assert "whether it was sent before cannot be told: TimeoutError" in caplog.text


@pytest.mark.parametrize(("minutes", "sent"), [(9, 0), (11, 1)])
def test_a_process_that_died_while_it_sent_is_given_up(receiver: Receiver, minutes: int, sent: int) -> None:
    deliver(alert({"type": "slack"}))
    (key,) = get_store().keys("alerts/")
    begun = utc_now() - timedelta(minutes=minutes)
    get_store().write(key, DeliveryDocument(state="sending", at=begun, message="m").model_dump_json().encode())
    receiver.requests.clear()
    deliver(alert({"type": "slack"}))
    assert len(receiver.requests) == sent
