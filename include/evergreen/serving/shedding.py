"""Refuses what there is no room for before anything else is done with it.

To refuse a request after it was parsed, dispatched and authenticated takes a third of the time in which one is
answered: a server that is asked three times what it can do would spend itself on saying no. A request for a model whose
queue is full is therefore answered by a fixed response, from its head alone. What its head leaves in doubt takes the
ordinary way, and is refused there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from evergreen.serving.guard import COMMON_HEADERS, error_fields
from evergreen.serving.host import Host
from evergreen.serving.metrics import REFUSED, REQUESTS
from evergreen.spec.serving import Serving

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*(?=\r\n)")
_OTHERWISE = re.compile(rb"\r\n(transfer-encoding:|expect:|upgrade:|connection:(?![ \t]*keep-alive[ \t]*\r\n))")
"""Headers by which a request is more, or wants more, than a body of some length."""


@dataclass
class _Room:
    """The requests for a model that are there as a whole, and wait for their answer."""

    model: str
    most: int
    requests: int = 0


Rooms = Mapping[bytes, tuple[_Room, str]]
"""By the first line of a request for predictions: the room of its model, and the protocol."""


def rooms_of(limits: Mapping[str, Serving]) -> Rooms:
    """Return the rooms of some models, by the section ``serving`` of each model.yaml."""
    return dict(_rooms(limits))


def _rooms(limits: Mapping[str, Serving]) -> Iterator[tuple[bytes, tuple[_Room, str]]]:
    for name, serving in limits.items():
        room = _Room(name, serving.maximum_waiting_requests)
        for path, protocol in ((f"/models/{name}/predict", "predict"), (f"/v2/models/{name}/infer", "v2")):
            yield f"POST {path} HTTP/1.1".encode(), (room, protocol)


class SheddingProtocol(HttpToolsProtocol):
    """uvicorn's protocol for HTTP, which looks first whether there is room.

    Parameters
    ----------
    rooms
        Of the server's models.
    host
        While it drains nothing is refused here, as every answer has to close its connection.
    """

    def __init__(self, rooms: Rooms, host: Host, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rooms, self._host = rooms, host
        self._within = False  # a request has begun, and is not there as a whole
        self._coming: _Room | None = None  # where it will be counted, once it is
        self._taken: _Room | None = None  # where the one that is being answered is counted
        self._skipped = 0  # bytes still to come of the body of a request that was refused

    def data_received(self, data: bytes) -> None:
        """Take a piece of what a client sends."""
        if self._skipped:
            skipped = min(self._skipped, len(data))
            self._skipped -= skipped
            data = data[skipped:]
        if not data:
            return
        found = self._rooms.get(data[: data.find(b"\r\n")])
        if found is not None and not self._within and (self.cycle is None or self.cycle.response_complete):
            room, protocol = found
            if room.requests >= room.most and not self._host.draining:
                left = _left(data)
                if left is not None:
                    self._refuse(room.model, protocol, left)
                    return
            self._coming = room
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._within = True
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """Count a request: one whose body comes slowly takes no place meanwhile."""
        self._within = False
        if self._coming is not None and not self.cycle.response_complete:
            self._taken = self._coming
            self._taken.requests += 1
        self._coming = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Give a place back."""
        self._leave()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give a place back, as nobody waits for the answer any more."""
        self._leave()
        super().connection_lost(exc)

    def _leave(self) -> None:
        if self._taken is not None:
            self._taken.requests -= 1
        self._taken = None

    def _refuse(self, model: str, protocol: str, left: int) -> None:
        REFUSED.labels(model, "full").inc()
        REQUESTS.labels(model, protocol, "503").inc()
        self._skipped = left
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self.transport.write(_REFUSAL)


def _left(data: bytes) -> int | None:
    """Return how much of a request's body is still to come; None if that, or anything else, is in doubt."""
    head, end, body = data.partition(b"\r\n\r\n")
    head = head.lower() + b"\r\n"
    lengths = _LENGTH.findall(head)
    if not end or len(lengths) != 1 or head.count(b"content-length") != 1 or _OTHERWISE.search(head):
        return None
    left = int(lengths[0]) - len(body)
    return left if left >= 0 else None  # another request follows in the same piece


def _refusal() -> bytes:
    body = json.dumps(error_fields("too many requests wait for this model", "")).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", b"1"),
        *COMMON_HEADERS,
    ]
    lines = [b"HTTP/1.1 503 Service Unavailable", *(name + b": " + value for name, value in headers)]
    return b"\r\n".join([*lines, b"", body])


_REFUSAL = _refusal()
