"""Ends what waits for a PostgreSQL that does not answer: its connection is shut down, and the wait fails at once.

A server that is stopped, or lies behind a network that drops what is sent, keeps its connections open. Nothing of its
own ends a read then: ``statement_timeout`` is the server's to watch, and TCP sees every packet acknowledged.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
"""How much later than asked a wait may end. One look costs microseconds, a timer of its own for each read a thread."""


class Deadlines:
    """A thread that calls, for each wait which takes too long, what ends it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._watched: dict[int, tuple[float, Callable[[], None]]] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def within(self, seconds: float, end: Callable[[], None]) -> Iterator[None]:
        """Call ``end`` from another thread once the block takes longer, and again until it has ended; never after."""
        number = next(self._numbers)
        with self._lock:
            self._watched[number] = (time.monotonic() + seconds, end)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._watched.pop(number, None)

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_SECONDS)
            with self._lock:
                now = time.monotonic()
                for last, end in self._watched.values():
                    if last <= now:
                        try:
                            end()
                        except Exception:  # whatever it is: the other deadlines must hold
                            log.exception("what takes too long could not be ended")


DEADLINES = Deadlines()
"""Those of this process."""


def shut_down(connection: psycopg.Connection[object] | None) -> None:
    """Shut down the socket of a connection, whoever waits for it: to them it looks as if the server had closed it."""
    import psycopg

    if connection is None:
        return
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as way:
        way.shutdown(socket.SHUT_RDWR)
