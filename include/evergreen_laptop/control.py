"""The commands ``evergreen up``, ``down`` and ``status``."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime

import psutil
from rich.console import Console
from rich.table import Table

from evergreen.contract import ConfigurationError, FailureClass, StepError, TemporaryError, utc_now
from evergreen.settings import Settings, user_settings
from evergreen_airflow.kubelet import remove_scratch
from evergreen_laptop.credentials import credentials_file
from evergreen_laptop.embedded_airflow import airflow_url
from evergreen_laptop.files import check_free_space, clear_disk_errors, keep_previous, keep_to_oneself, make_folder
from evergreen_laptop.processes import stop_processes, wait_until
from evergreen_laptop.status import (
    State,
    SupervisorStatus,
    is_running,
    living_guardians,
    read_status,
    run_folder,
    settings_digest,
    try_lock,
)
from evergreen_laptop.supervisor import Supervisor

CHANGED = "[yellow]The settings have changed since the start: run evergreen down, then evergreen up.[/]"
UP_SECONDS = 600.0
DOWN_SECONDS = 60.0
_POLL = 0.1
_COLOURS = {State.HEALTHY: "green", State.STOPPED: "red", State.UNHEALTHY: "red", State.RESTARTING: "yellow"}


def up(console: Console, *, foreground: bool = False) -> None:
    """Start the services and wait until all are healthy; does nothing if they are.

    Parameters
    ----------
    console
        Where progress is shown.
    foreground
        Run them in this process, until Ctrl-C.

    Raises
    ------
    StepError
        If they cannot be started.
    """
    user = user_settings()
    keep_to_oneself(user.state_dir)
    check_free_space(user.state_dir)
    if foreground:
        logging.getLogger("httpx").setLevel(logging.WARNING)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        with try_lock(user, patience=2) as held:
            if not held:
                raise TemporaryError("The services are already running.", "See `evergreen status`.")
            Supervisor(user).run()
        return
    child = None if _is_up(user) else _start_supervisor(user)
    current = _wait_until_healthy(console, user, child)
    if current.settings != settings_digest(user):
        console.print(CHANGED)
    console.print(f"Airflow  {airflow_url(user)}  (users admin, user, viewer)", highlight=False)
    console.print(f"MLflow   http://127.0.0.1:{user.mlflow_port}  (user admin)", highlight=False)
    tokens = "a token: evergreen tokens create NAME"
    console.print(f"Predictions  http://127.0.0.1:{user.serving_port}/docs  ({tokens})", highlight=False)
    console.print(f"Passwords: {credentials_file(user)}", highlight=False, soft_wrap=True)


def down(console: Console) -> None:
    """Stop every service; afterwards nothing of them is left."""
    user = user_settings()
    status = read_status(user)
    with console.status("stopping the services"):
        if is_running(user) and status:
            with suppress(psutil.Error):
                supervisor = psutil.Process(status.pid)
                supervisor.terminate()
                stop_processes([supervisor], DOWN_SECONDS)  # not only until it lets go of its lock: until it is gone
        # a supervisor that was killed: the guardians of its services see to the rest
        stop_processes(living_guardians(status))
        remove_scratch(user.state_dir)
    console.print("All services are stopped.")


def status(console: Console) -> bool:
    """Print a table of the services; returns whether all are healthy."""
    user = user_settings()
    current = read_status(user)
    if current is None or not is_running(user):
        if current and current.error:
            console.print(f"They gave up: {current.error}", highlight=False, markup=False, soft_wrap=True)
        console.print("The services are not running. Start them with: evergreen up")
        return False
    table = Table("service", "state", "pid", "restarts", "for", "address", "note", box=None)
    for service in current.services:
        colour = _COLOURS.get(service.state, "yellow")
        table.add_row(
            service.name,
            f"[{colour}]{service.state}[/]",
            str(service.pid or ""),
            str(service.restarts),
            _age(service.since),
            service.address,
            service.note,
        )
    console.print(table)
    if current.settings != settings_digest(user):
        console.print(CHANGED)
    return current.healthy


def _age(since: datetime) -> str:
    seconds = max(0, int((utc_now() - since).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _is_up(user: Settings) -> bool:
    """Return whether a supervisor runs that will keep running; waits for one that is just stopping."""

    def is_stopping() -> bool:
        current = read_status(user)
        return is_running(user) and current is not None and current.stopping

    if not wait_until(lambda: not is_stopping(), DOWN_SECONDS, _POLL):
        raise TemporaryError("The services are still stopping.", "Run `evergreen down`, then try again.")
    return is_running(user)


def _start_supervisor(user: Settings) -> subprocess.Popen[bytes]:
    log = make_folder(user.state_dir / "logs") / "supervisor.log"
    if not living_guardians(read_status(user)):
        (run_folder(user) / "status.json").unlink(missing_ok=True)
    with clear_disk_errors(log):
        keep_previous(log)
        output = log.open("ab")
    with output:
        return subprocess.Popen(
            [sys.executable, "-m", "evergreen_laptop", "up", "--foreground"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=user.state_dir,
            start_new_session=True,
        )


def _wait_until_healthy(console: Console, user: Settings, child: subprocess.Popen[bytes] | None) -> SupervisorStatus:
    """Wait for our own new supervisor (``child``) or for the one that runs; raises why it will not be."""
    began = time.monotonic()
    shown = set() if child else set(_names(read_status(user), healthy=True))
    with console.status("starting the services") as line:
        while True:
            if child is not None and child.poll() is not None and is_running(user):
                child = None  # another `up` was faster: wait for its services
            running = is_running(user) if child is None else child.poll() is None
            current = read_status(user)
            if child is not None and current and current.pid != child.pid:
                current = None  # of an earlier supervisor
            if not running:
                raise _reason(user, current)
            seconds = time.monotonic() - began
            for name in _names(current, healthy=True):
                if name not in shown:
                    shown.add(name)
                    console.print(f"[green]✓[/] {name} ({seconds:.1f} s)", highlight=False)
            waiting = ", ".join(_names(current, healthy=False)) or "the supervisor"
            if current and current.healthy:
                return current
            if current:
                line.update(f"starting: {waiting}")
            if seconds > UP_SECONDS:
                raise TemporaryError(
                    f"Not healthy after {UP_SECONDS:.0f} s: {waiting}.",
                    f"See `evergreen status` and {user.state_dir / 'logs'}.",
                )
            time.sleep(_POLL)


def _names(current: SupervisorStatus | None, *, healthy: bool) -> list[str]:
    """Return the names of the services that are healthy, or of those that are not."""
    services = current.services if current else ()
    return [service.name for service in services if (service.state is State.HEALTHY) is healthy]


def _reason(user: Settings, current: SupervisorStatus | None) -> StepError:
    if current and current.error:
        kinds = {FailureClass.TEMPORARY: TemporaryError}
        return kinds.get(FailureClass(current.error_class), ConfigurationError)(current.error)
    return TemporaryError("The supervisor ended.", f"See {user.state_dir / 'logs' / 'supervisor.log'}.")
