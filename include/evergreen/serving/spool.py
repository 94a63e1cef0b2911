"""Local files of JSON lines that a kill of the process loses nothing of.

A line is written by one call before anybody is told what it says: the operating system keeps it when the process is
killed. A process holds a lock of its own for as long as it lives, so that another one can tell what a dead one left.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

LOCK, LINES = ".lock", ".jsonl"
SERVER = f"{int(time.time()):08x}{secrets.token_hex(3)}"
"""This process, as ids and the log's files know it: no other and no later one has it."""


class Spool:
    """The files of one process.

    Parameters
    ----------
    folder
        Where they lie; processes of one machine may share it.
    server
        The name of this process, which no other has.
    limit
        Bytes of all its files, beyond which nothing is taken.
    """

    def __init__(self, folder: Path, server: str, limit: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._server, self._limit = folder, server, limit
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._number = 0
        self._file_bytes = 0
        self._bytes = 0
        self._held = os.open(folder / f"{server}{LOCK}", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)

    @property
    def file_bytes(self) -> int:
        """How much is in the file that is written to now."""
        return self._file_bytes

    def append(self, lines: Sequence[bytes]) -> bool:
        """Write lines, all by one call; returns whether there was room."""
        content = b"\n".join(lines) + b"\n"
        with self._lock:
            if self._bytes + len(content) > self._limit:
                return False
            try:
                descriptor = self._open()
                if os.write(descriptor, content) < len(content):  # the disk is full: all of it, or nothing
                    os.ftruncate(descriptor, self._file_bytes)
                    return False
            except OSError:
                return False
            self._file_bytes += len(content)
            self._bytes += len(content)
            return True

    def rotate(self) -> None:
        """Begin another file with the next line."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor, self._file_bytes = None, 0

    def finished(self) -> list[Path]:
        """Return this process's files that are written to no more, oldest first."""
        with self._lock:
            files = sorted(self._folder.glob(f"{self._server}-*{LINES}"))
            return files if self._descriptor is None else files[:-1]

    def remove(self, file: Path) -> None:
        """Remove a file of this process, whose lines are elsewhere now."""
        size = file.stat().st_size
        file.unlink()
        with self._lock:
            self._bytes -= size

    def close(self) -> None:
        """Let others have what is left."""
        self.rotate()
        if not self.finished():
            (self._folder / f"{self._server}{LOCK}").unlink(missing_ok=True)
        os.close(self._held)

    def left(self) -> Iterator[list[Path]]:
        """Yield the files of each process that is dead; nobody else is given them meanwhile."""
        for lock in sorted(self._folder.glob(f"*{LOCK}")):
            server = lock.name.removesuffix(LOCK)
            if server == self._server:
                continue
            try:
                held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
            except PermissionError:  # of another user: that is for them to bring
                continue
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # it lives, or another process takes care of it
            else:
                yield sorted(self._folder.glob(f"{server}-*{LINES}"))
                if not list(self._folder.glob(f"{server}-*{LINES}")):
                    lock.unlink(missing_ok=True)
            finally:
                os.close(held)

    def _open(self) -> int:
        if self._descriptor is None:
            self._number += 1
            file = self._folder / f"{self._server}-{self._number:06d}{LINES}"
            self._descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        return self._descriptor
