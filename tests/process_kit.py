"""What tests of real processes share: waiting for a condition, and telling the living from the dead."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Wait for a condition; returns whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def alive(pid: int) -> bool:
    """Return whether a process still does anything."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_in(path: Path, seconds: float = 60) -> int:
    """Return the process id that a process writes into a file, once it is there."""
    assert eventually(lambda: path.exists() and path.read_text() != "", seconds), f"{path} was never written"
    return int(path.read_text())


def pids(folder: Path, *names: str) -> list[int]:
    """Return the process ids in files of a folder, once all are there."""
    return [pid_in(folder / name) for name in names]
