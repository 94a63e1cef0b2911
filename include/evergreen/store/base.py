"""What every artifact store is: whole writes under checked keys, and a class for everything a disk raises."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from evergreen.contract import ConfigurationError, TemporaryError


class ArtifactStore(Protocol):
    """Bytes under keys such as ``runs/a/b/result.json``. A write is seen whole or not at all."""

    def uri(self, key: str) -> str:
        """Return the full address of a key."""
        ...

    def read(self, key: str) -> bytes | None:
        """Return the bytes under a key, or None if there is nothing."""
        ...

    def write(self, key: str, content: bytes) -> str:
        """Store the bytes under a key, replacing what was there; returns the address."""
        ...

    def create(self, key: str, content: bytes) -> bool:
        """Store the bytes under a key that has none yet; returns whether this call did.

        Of any number of concurrent calls, from any machine, at most one is told True. After a False read the key: it
        may hold this very content (S3 stored it and the answer was lost), or nothing (somebody has deleted it since).
        """
        ...

    def replace(self, key: str, old: bytes, new: bytes) -> bool:
        """Store the bytes if those under the key are ``old``; returns whether this call did.

        Of any number of concurrent calls, from any machine, at most one is told True, if no content is written twice.
        """
        ...

    def remove(self, key: str) -> None:
        """Delete what is under a key; that there is nothing is well too."""
        ...

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield every key that starts with ``prefix``, sorted."""
        ...


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a disk says that has no room, or none for this user: a person must make some."""
UNTRUSTED = re.compile(r"certificate.verify.failed|curlCode: 60\b", re.IGNORECASE)
"""What Python, libpq and Arrow say of a server whose certificate no authority that is trusted has signed."""
PLAIN = re.compile(r"WRONG_VERSION_NUMBER|wrong version number|record layer failure", re.IGNORECASE)
"""What OpenSSL says of a server that speaks no TLS where TLS is asked for."""
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR})


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Name the class of what a local disk raises: room and rights are given by a person, the rest may pass."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ConfigurationError(f"{path}: the disk is full.", "Free space, then clear the task.") from error
        if error.errno in _FORBIDDEN:
            raise ConfigurationError(
                f"{path}: {error.strerror}: {error.filename}.", "Check EVERGREEN_ARTIFACT_ROOT and the rights on it."
            ) from error
        raise TemporaryError(f"{path}: {error}.") from error


def checked_key(key: str, *, prefix: bool = False) -> str:
    """Refuse a key that no store could hold, or that climbs out of it; a prefix may be empty or end in a slash."""
    parts = key.split("/")
    if prefix and not parts[-1]:
        parts.pop()
    if any(part in {"", ".", ".."} for part in parts) or not key.isprintable():
        raise ConfigurationError(f"{key!r} cannot be an artifact key.", "Use parts of text, joined by single slashes.")
    return key


def retrying(lost: Callable[[BaseException], bool], seconds: float) -> Retrying:
    """Return a retrier for races that another process has won; ``lost`` tells them from other errors."""
    return Retrying(
        retry=retry_if_exception(lost),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        stop=stop_after_delay(seconds),
        reraise=True,
    )
