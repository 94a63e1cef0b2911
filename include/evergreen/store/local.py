"""Artifacts on a local disk."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from evergreen.contract import ConfigurationError
from evergreen.store.base import checked_key, disk_errors


class LocalStore:
    """Artifacts in a local folder."""

    _PARTIAL = ".partial"
    """Where files are written before they are renamed; what a killed process leaves there is never a key."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _path(self, key: str) -> Path:
        path = self.root / checked_key(key)
        if not path.resolve().is_relative_to(self.root.resolve()) or key.partition("/")[0] == self._PARTIAL:
            raise ConfigurationError(f"artifact key {key!r} points outside {self.root}.", "Use another key.")
        return path

    def uri(self, key: str) -> str:
        """Return the absolute path of a key."""
        return str(self._path(key).absolute())

    def read(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None if there is nothing."""
        path = self._path(key)
        with disk_errors(path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def write(self, key: str, content: bytes) -> str:
        """Write through a temporary file and a rename, so that a reader never sees half of it."""
        with self._written(key, content) as (temporary, path):
            temporary.replace(path)
        return self.uri(key)

    def create(self, key: str, content: bytes) -> bool:
        """Write like `write`, unless there is something; returns whether this call did."""
        with self._written(key, content) as (temporary, path):
            try:
                path.hardlink_to(temporary)  # made whole or not at all, and by one of many
            except FileExistsError:
                return False
        return True

    @contextmanager
    def _written(self, key: str, content: bytes) -> Iterator[tuple[Path, Path]]:
        """Write a temporary file, which ends with the block; yield it and the path of the key, whose folder exists."""
        path = self._path(key)
        temporary = self.root / self._PARTIAL / uuid4().hex
        with disk_errors(path):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary, path
            finally:
                temporary.unlink(missing_ok=True)

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Store the bytes if those under the key are ``old``; returns whether this call did."""
        lock = self.root / self._PARTIAL / "lock"
        with disk_errors(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            with lock.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # ends with the process
                if self.read(key) != old:
                    return False
                self.write(key, new)
                return True

    def remove(self, key: str) -> None:
        """Delete the file of a key; that there is none is well too."""
        path = self._path(key)
        with disk_errors(path):
            path.unlink(missing_ok=True)

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with ``prefix``, sorted; half-written files are not keys."""
        folder = self.root / checked_key(prefix.rpartition("/")[0], prefix=True)
        with disk_errors(folder):
            keys = [path.relative_to(self.root).as_posix() for path in folder.rglob("*") if path.is_file()]
        yield from sorted(key for key in keys if key.startswith(prefix) and not key.startswith(f"{self._PARTIAL}/"))
