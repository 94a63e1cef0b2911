"""Which code this is, for what a run leaves behind."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from evergreen import __version__
from evergreen.settings import PROJECT_ROOT, get_settings

_CODE = ("include", "plugins", "dags")
"""Where the project's code is; a new file elsewhere, such as somebody's notes, is none."""


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the version of the code: the image's, or the checkout's commit, with a digest of what differs from it.

    Where git tells nothing (code that was copied, a checkout of another user) the digest is over the code itself.
    """
    if version := get_settings().code_version:
        return version
    try:
        version = _git("describe", "--always", "--abbrev=12").decode().strip()
        new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", *_CODE).decode().split("\0")
        changed = _git("diff", "HEAD") + _content(PROJECT_ROOT / name for name in new if name)
    except (OSError, subprocess.SubprocessError):
        every = (path for folder in _CODE for path in (PROJECT_ROOT / folder).rglob("*"))
        code = _content(path for path in every if path.is_file() and "__pycache__" not in path.parts)
        return f"{__version__}+code.{_digest(code)}"
    return f"{version}+dirty.{_digest(changed)}" if changed else version


def _content(paths: Iterable[Path]) -> bytes:
    """Return the names and the content of files."""
    return b"".join(f"{path.relative_to(PROJECT_ROOT)}\0".encode() + path.read_bytes() for path in sorted(paths))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _git(*arguments: str) -> bytes:
    command = ("git", "-C", str(PROJECT_ROOT), *arguments)
    return subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
