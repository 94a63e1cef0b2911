"""How much memory this step may use, as whoever runs it has said: its container, or the operator without a cluster."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

MEMORY = "EVERGREEN_MEMORY"
"""Told to a step by an operator that has no container to limit: bytes."""
_UNLIMITED = 1 << 60
"""cgroups of the first version write no limit as a number near 2**63."""


def query_memory() -> int:
    """Return the bytes that one query may take: half of the step's limit, the rest is for what goes in and comes out.

    A step without one gets a quarter of the machine, which it shares.
    """
    by_operator = os.environ.get(MEMORY, "")
    limits = [int(by_operator)] if by_operator.isdecimal() else []
    limits = [limit for limit in (*limits, *_of_cgroups()) if 0 < limit < _UNLIMITED]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine // 4, *(limit // 2 for limit in limits)])


def _of_cgroups(root: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the limits of this process's cgroup and of those above it, of both versions of cgroups."""
    limits = []
    with suppress(OSError):
        for line in process.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in {"", "memory"}:
                continue
            top, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
            folder = top / path.lstrip("/")
            for place in (folder, *folder.parents):
                if place.is_relative_to(top):
                    with suppress(OSError, ValueError):  # none at the root; "max" is no limit
                        limits.append(int((place / name).read_text()))
    return limits
