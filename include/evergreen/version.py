"""Which code this is, for what a run leaves behind."""

from __future__ import annotations

import subprocess
from functools import lru_cache

from evergreen import __version__
from evergreen.settings import PROJECT_ROOT, get_settings


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the version of the code: the image's, or the checkout's commit (``+dirty`` when it has changes)."""
    if version := get_settings().code_version:
        return version
    git = ("git", "-C", str(PROJECT_ROOT), "describe", "--always", "--dirty=+dirty", "--abbrev=12")
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__
