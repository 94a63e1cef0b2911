"""Every alert goes through each of its channels once, and takes nobody's time but a little of the task's.

What was sent is remembered in the artifact store, because whoever sends may do so again: a task that is cleared, the
DAG processor in the place of a task, a check that comes every ten minutes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from typing import Literal, TypeVar

from airflow.sdk import Connection

from evergreen.contract import StepError, described, folder_name, utc_now
from evergreen.spec import Channel
from evergreen.store import get_store, read_document
from evergreen.stored import Stored
from evergreen_airflow.alerts import channels
from evergreen_airflow.alerts.message import Alert

log = logging.getLogger(__name__)
PATIENCE = 10.0
"""Seconds that a task waits for all channels together."""
_STORE_PATIENCE = 4.0
"""Seconds of it that the artifact store may take to say whether a channel was told before."""
_GIVEN_UP = timedelta(minutes=10)
"""A delivery that began so long ago and never ended died with its process."""


_Value = TypeVar("_Value")


class DeliveryDocument(Stored):
    """What became of an alert in one channel."""

    state: Literal["sending", "sent", "failed"]
    at: datetime
    message: str
    """What was sent."""
    why: str = ""
    """Why it failed."""


def deliver(alert: Alert) -> None:
    """Send an alert through all channels of its model that take it, at once; never raises, and never takes long."""
    takers = [channel for channel in alert.spec.alerts if channel.takes(alert.event)]
    known = [(channel, _done(partial(channels.look_up, channel))) for channel in takers]
    deliveries = {channel.title: _begin(partial(_deliver, channel, found, alert)) for channel, found in known}
    deadline = time.monotonic() + PATIENCE
    for title, delivery in deliveries.items():
        try:
            delivery.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            log.warning("Alert %s: no answer from %s within %.0f s; going on.", alert.title, title, PATIENCE)


def _done(call: Callable[[], _Value], future: Future[_Value] | None = None) -> Future[_Value]:
    """Call, and keep what came of it."""
    future = future or Future()
    try:
        future.set_result(call())
    except Exception as error:  # what a library may raise
        future.set_exception(error)
    return future


def _begin(call: Callable[[], _Value]) -> Future[_Value]:
    """Call in a thread that keeps no process from ending, as one of an executor would."""
    future: Future[_Value] = Future()
    threading.Thread(target=_done, args=(call, future), daemon=True).start()
    return future


def _deliver(channel: Channel, connection: Future[Connection | None], alert: Alert) -> None:
    try:
        # what is told of may be that this very store is down
        claim = _begin(partial(_claim, channel, alert)).result(_STORE_PATIENCE)
    except Exception as error:  # an alert that comes twice is better than none
        log.warning("Alert %s: whether it was sent before cannot be told: %s", alert.title, described(error))
        claim = b""
    if claim is None:
        log.info("Alert %s: %s was told before.", alert.title, channel.title)
        return
    failure = _failure(channel, connection, alert)
    if failure:
        log.warning("Alert %s: not sent to %s: %s.", alert.title, channel.title, failure)
    if claim:
        _conclude(channel, alert, claim, failure)


def _failure(channel: Channel, connection: Future[Connection | None], alert: Alert) -> str:
    """Send, and return why that failed; nothing if it went well."""
    try:
        channels.send(channel, connection.result(), alert)
    except Exception as error:  # a mail server's library may raise anything
        return channels.why(error)
    return ""


def _claim(channel: Channel, alert: Alert) -> bytes | None:
    """Return what is now written of the delivery if this call is the one to send, else None."""
    store, key, claim = get_store(), _key(channel, alert), _document("sending", alert)
    if store.create(key, claim):
        return claim
    there = store.read(key)
    document = read_document(store, key, DeliveryDocument, "what became of an alert", "Delete it.")
    if there is None or document is None or document.state == "sent":
        return None
    if document.state == "sending" and utc_now() - document.at < _GIVEN_UP:
        return None
    return claim if store.replace(key, there, claim) else None


def _conclude(channel: Channel, alert: Alert, claim: bytes, failure: str) -> None:
    try:
        get_store().replace(_key(channel, alert), claim, _document("failed" if failure else "sent", alert, failure))
    except StepError as error:
        log.warning("What became of the alert %s cannot be written down: %s", alert.title, error)


def _document(state: Literal["sending", "sent", "failed"], alert: Alert, failure: str = "") -> bytes:
    document = DeliveryDocument(state=state, at=utc_now(), message="\n".join(alert.lines), why=failure)
    return document.model_dump_json(indent=2).encode()


def _key(channel: Channel, alert: Alert) -> str:
    matter, title = folder_name(alert.finding.matter), folder_name(channel.title)
    return f"alerts/{alert.spec.name}/{alert.event}/{matter}/{title}.json"
