"""The working folders of steps that run as processes: short of name, and known by the state folder they belong to."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

# Ray puts sockets below it, whose paths may have 107 characters: not the state folder, not macOS' TMPDIR
_ROOT = Path("/tmp")  # noqa: S108  # mkdtemp makes what is used in it


def make_scratch(state_dir: Path) -> str:
    """Make the working folder of one step; whoever runs the step removes it."""
    return tempfile.mkdtemp(prefix=_prefix(state_dir), dir=_ROOT)


def remove_scratch(state_dir: Path) -> None:
    """Remove what is left of every step of a state folder, when none of them runs any more.

    A step's folder outlives it only when all that could remove it was killed too, as when a machine loses its power.
    """
    for path in _ROOT.glob(f"{_prefix(state_dir)}*"):
        if path.lstat().st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)


def _prefix(state_dir: Path) -> str:
    return f"evergreen-{hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:6]}-"
