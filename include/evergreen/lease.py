"""One process at a time for each task of a run: a lease in the artifact store, taken before a step and renewed."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from types import TracebackType
from typing import Self
from uuid import uuid4

from pydantic import Field

from evergreen.contract import RunIdentity, StepError, TemporaryError
from evergreen.store import ArtifactStore, parse_document
from evergreen.stored import Stored

log = logging.getLogger(__name__)

LEASE = "lease.json"


class LeaseDocument(Stored):
    """What a lease says."""

    holder: str = ""
    attempt: str = "?"
    host: str = "?"
    pid: int = 0
    seconds: float = Field(default=60, ge=0)
    """How long it lives unless it is renewed."""
    released: bool = False
    version: str = ""
    """No two are alike: a lease that has changed was renewed, given back or taken over."""


class Lease:
    """The right to run a task's step and to write its manifest, held while the ``with`` block runs.

    Taking a free lease is one request. A thread renews it; who died without giving it back has it until it was not
    renewed for ``seconds``, told by the store's own clock. Every write is conditional on the version that was seen,
    so that of two processes one wins, and a holder that slept too long finds out: it is stopped by SIGTERM if it
    handles that, and `confirm` refuses it in any case.

    Parameters
    ----------
    store
        The artifact store of the run.
    run
        The task; the lease lies beside its manifest.
    attempt
        Which try of the task this is; told to whoever finds the lease taken.
    seconds
        How long a lease lives that is not renewed. It is renewed three times as often.
    """

    def __init__(self, store: ArtifactStore, run: RunIdentity, attempt: str, seconds: float) -> None:
        self.store = store
        self.key = f"{run.key}/{LEASE}"
        self.seconds = seconds
        self._entry = LeaseDocument(
            holder=uuid4().hex, attempt=attempt, host=socket.gethostname(), pid=os.getpid(), seconds=seconds
        )
        self._held = b""
        """What the lease says as long as it is ours."""
        self._lost = False
        self._renewed = 0.0
        self._lock = threading.Lock()
        self._done = threading.Event()

    def __enter__(self) -> Self:
        """Take the lease.

        Raises
        ------
        TemporaryError
            If another process holds it.
        """
        self._take()
        threading.Thread(target=self._renew_until_done, name="lease", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the lease back."""
        self._done.set()
        with self._lock:
            if self._lost:
                return
            try:
                self.store.replace(self.key, self._held, self._content(released=True))
            except StepError as failed:
                log.warning("%s was not given back, and ends by itself: %s", self.key, failed)

    def confirm(self) -> None:
        """Make sure that this process still holds the lease: before it writes what only the holder may.

        Raises
        ------
        TemporaryError
            If it was lost.
        """
        with self._lock:
            if time.monotonic() - self._renewed > self.seconds / 2:
                self._renew()
            if self._lost:
                raise TemporaryError(
                    f"{self.store.uri(self.key)}: another process took this step over.",
                    "This one was not heard of for too long (suspended, or cut off from the store): its result is "
                    "dropped, and that of the other counts.",
                )

    def _take(self) -> None:
        own = self._content()
        if not self.store.create(self.key, own):
            self._take_over(own)
        self._keep(own)

    def _take_over(self, own: bytes) -> None:
        """Take a lease that somebody has left; tell who has it otherwise."""
        found = self.store.look(self.key)
        if found is None or found[0] == own:  # somebody has deleted it; or S3 stored it and the answer was lost
            taken = found is not None or self.store.create(self.key, own)
        else:
            entry = _read(self.store, self.key, found[0])
            ended = entry.released or found[1] > entry.seconds
            taken = ended and self.store.replace(self.key, found[0], own)
        if not taken:
            raise _taken(self.store, self.key)

    def _renew_until_done(self) -> None:
        while not self._done.wait(self.seconds / 3):
            with self._lock:
                if self._done.is_set() or self._lost:
                    return
                try:
                    self._renew()
                except StepError as failed:  # the store may answer again before the lease ends
                    log.warning("%s was not renewed: %s", self.key, failed)
                if self._lost:
                    log.error("%s was taken over by another process: this one stops", self.key)
                    _stop_this_process()

    def _renew(self) -> None:
        began, own = time.monotonic(), self._content()
        if self.store.replace(self.key, self._held, own) or self.store.read(self.key) == own:
            self._keep(own, began)
        else:
            self._lost = True

    def _keep(self, content: bytes, began: float | None = None) -> None:
        self._held = content
        self._renewed = time.monotonic() if began is None else began

    def _content(self, *, released: bool = False) -> bytes:
        return _written(self._entry, released=released)


def free(store: ArtifactStore, run: RunIdentity, attempt: str) -> None:
    """Give the lease of an attempt back that is known to have ended, e.g. because it was killed for its memory.

    If that fails, the log says so and no more: the lease ends by itself, and how the attempt ended matters more.
    """
    key = f"{run.key}/{LEASE}"
    try:
        content = store.read(key)
        if content is None:
            return
        entry = _read(store, key, content)
        if entry.attempt == attempt and not entry.released:
            store.replace(key, content, _written(entry, released=True))
    except StepError as failed:
        log.warning("the lease of a step that has ended was not given back: %s", failed)


def _written(entry: LeaseDocument, *, released: bool) -> bytes:
    return entry.model_copy(update={"released": released, "version": uuid4().hex}).model_dump_json().encode()


def _read(store: ArtifactStore, key: str, content: bytes) -> LeaseDocument:
    hint = "Remove it, unless the step is running, then run the step again."
    return parse_document(content, store.uri(key), LeaseDocument, "a lease", hint)


def _taken(store: ArtifactStore, key: str) -> TemporaryError:
    content, age = store.look(key) or (b"{}", 0.0)
    entry = _read(store, key, content)
    return TemporaryError(
        f"{store.uri(key)}: this step is running already: attempt {entry.attempt} on {entry.host} "
        f"(process {entry.pid}) was last heard of {age:.0f} s ago.",
        f"Wait until it ends, or stop it. Should it have died, its lease ends {entry.seconds:g} s after that.",
    )


def _stop_this_process() -> None:
    if callable(signal.getsignal(signal.SIGTERM)):  # else the default would end a process that has other things to do
        os.kill(os.getpid(), signal.SIGTERM)
