"""Processes and ports of this machine."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress

import psutil

from evergreen.contract import ConfigurationError


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Wait for a condition, asked at least once; returns whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not (is_true := condition()) and time.monotonic() < deadline:
        time.sleep(pause)
    return is_true


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


def stop_processes(processes: Collection[psutil.Process], grace: float = 20.0) -> None:
    """Wait for processes to end by themselves, then kill them."""

    def have_ended() -> bool:  # to psutil.wait_procs one runs until its parent, which may be another, has reaped it
        return not any(map(is_alive, processes))

    if not wait_until(have_ended, grace):
        for process in filter(is_alive, processes):
            with suppress(psutil.Error):
                process.kill()
        wait_until(have_ended, 10)
    for process in processes:
        with suppress(psutil.TimeoutExpired, psutil.Error):
            process.wait(0)  # our own children leave the process table with this


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
