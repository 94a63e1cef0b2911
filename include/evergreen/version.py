"""Which code this is, for what a run leaves behind."""

from __future__ import annotations

import hashlib
import subprocess
from functools import lru_cache

from evergreen import __version__
from evergreen.settings import PROJECT_ROOT, get_settings


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the version of the code: the image's, or the checkout's commit, with a digest of what differs from it."""
    if version := get_settings().code_version:
        return version
    try:
        version = _git("describe", "--always", "--dirty=+dirty", "--abbrev=12").decode().strip()
        if version.endswith("+dirty"):
            version += f".{hashlib.sha256(_git('diff', 'HEAD')).hexdigest()[:8]}"
    except (OSError, subprocess.SubprocessError):
        return __version__
    return version


def _git(*arguments: str) -> bytes:
    command = ("git", "-C", str(PROJECT_ROOT), *arguments)
    return subprocess.run(command, capture_output=True, check=True, timeout=10).stdout
