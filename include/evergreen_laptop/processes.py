"""Processes and ports of this machine."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from evergreen.contract import ConfigurationError


def check_port(setting: str, port: int) -> None:
    """Refuse a port somebody else listens on.

    Raises
    ------
    ConfigurationError
        The message names the port, who uses it if that can be known, and the setting to change.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise ConfigurationError(
                f"Port {port} may not be used: {error.strerror}.", f"Set {setting} to another port."
            ) from error
        except OSError as error:
            raise ConfigurationError(
                f"Port {port} is in use{_user_of(port)}.", f"Stop that, or set {setting} to a free port."
            ) from error


def _user_of(port: int) -> str:
    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("inet"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process still does anything (one that nobody has asked after its end does not)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def stop_processes(processes: Iterable[psutil.Process], grace: float = 20.0) -> None:
    """Wait for processes to end by themselves, then kill them."""
    for process in _wait_for_end(processes, grace):
        with suppress(psutil.Error):
            process.kill()
    _wait_for_end(processes, 10)


def _wait_for_end(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    deadline = time.monotonic() + seconds
    while (alive := [process for process in processes if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        with suppress(psutil.TimeoutExpired, psutil.Error):
            process.wait(0)  # our own children leave the process table with this
    return alive


def left_its_session(pid: int) -> bool:
    """Return whether a child is not one of ours: guardians start a session each, our own commands stay in ours."""
    with suppress(ProcessLookupError):
        return os.getsid(pid) != os.getsid(0)
    return False


def child_of(guardian_pid: int) -> int | None:
    """Return the process a guardian looks after."""
    with suppress(psutil.Error):
        children = psutil.Process(guardian_pid).children()
        return children[0].pid if children else None
    return None


def ending(code: int) -> str:
    """Say how a process ended, from its exit code."""
    if code > 128:  # 128 + signal, as the guardian and shells say it
        code = 128 - code
    if code < 0:
        with suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
