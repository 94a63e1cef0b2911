"""Runs a command as another user: ``python -I -S as_user.py uid gid[,gid ...] command argument ...``.

PostgreSQL refuses to run as root. Standard library only: it starts in the way of every PostgreSQL start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Drop to the user and groups, then become the command."""
    uid, groups = int(arguments[0]), [int(gid) for gid in arguments[1].split(",")]
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    os.setgroups(groups)
    os.setgid(groups[0])
    os.setuid(uid)
    if prctl:  # the guardian's own request to die with it is forgotten by the kernel when the user changes
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.chdir("/")
    os.umask(0o077)
    os.execv(arguments[2], arguments[2:])  # noqa: S606  # no shell is the point


if __name__ == "__main__":
    main(sys.argv[1:])
