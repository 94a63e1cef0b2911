"""What the supervisor says about its services, in one file that anyone may read."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import psutil
from pydantic import SecretStr, ValidationError

from evergreen.contract import utc_now
from evergreen.settings import Settings
from evergreen.stored import OpenEnum, Part
from evergreen_laptop.files import clear_disk_errors, make_folder, write_private
from evergreen_laptop.processes import is_alive, wait_until


class State(OpenEnum):
    """Where a service is in its life."""

    WAITING = "waiting"
    """For the services it needs."""
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    """Running, but its last health check failed."""
    RESTARTING = "restarting"
    """It ended; the next start waits for the back-off."""
    STOPPED = "stopped"


class ServiceStatus(Part):
    """One service, as it was when the file was written."""

    name: str
    state: State = State.WAITING
    pid: int | None = None
    guardian: int | None = None
    guardian_started: float = 0.0
    """Creation time of the guardian's process: process ids are used again."""
    restarts: int = 0
    address: str = ""
    since: datetime
    note: str = ""
    """Why it is not healthy, or why it was last restarted."""


class SupervisorStatus(Part):
    """The supervisor and its services; after an update `evergreen down` reads what the version before wrote."""

    pid: int
    settings: str = ""
    """Digest of the settings the services run with."""
    stopping: bool = False
    error: str = ""
    """Why it gave up."""
    error_class: str = ""
    services: tuple[ServiceStatus, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether every service is."""
        return bool(self.services) and not self.stopping and all(s.state is State.HEALTHY for s in self.services)


def run_folder(settings: Settings) -> Path:
    """Return the folder of the lock and the status file."""
    return settings.state_dir / "run"


def read_status(settings: Settings) -> SupervisorStatus | None:
    """Return what the supervisor last wrote, or None if there is nothing."""
    path = run_folder(settings) / "status.json"
    with clear_disk_errors(path):
        try:
            return SupervisorStatus.model_validate_json(path.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None


def write_status(settings: Settings, status: SupervisorStatus) -> None:
    """Replace the status file."""
    write_private(run_folder(settings) / "status.json", status.model_dump_json(indent=2) + "\n")


@contextmanager
def try_lock(settings: Settings, patience: float = 0.0) -> Iterator[bool]:
    """Hold the state folder's one lock, if it is free within ``patience`` seconds; yields whether it is held.

    A running supervisor holds it for its whole life; the kernel frees it however the process ends.
    """
    path = make_folder(run_folder(settings)) / "lock"
    with clear_disk_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def take() -> bool:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    try:
        yield wait_until(take, patience)
    finally:
        os.close(descriptor)


def is_running(settings: Settings) -> bool:
    """Return whether a supervisor holds the lock."""
    if not (run_folder(settings) / "lock").exists():
        return False
    with try_lock(settings) as held:
        return not held


def living_guardians(status: SupervisorStatus | None) -> list[psutil.Process]:
    """Return the guardians of a status file that still run, e.g. while they stop what a dead supervisor left."""
    guardians = []
    for service in status.services if status else ():
        with suppress(psutil.Error):
            if service.guardian is not None:
                process = psutil.Process(service.guardian)
                if is_alive(process) and abs(process.create_time() - service.guardian_started) < 1:
                    guardians.append(process)
    return guardians


def now() -> datetime:
    """Return the current time to the second."""
    return utc_now().replace(microsecond=0)


def settings_digest(settings: Settings) -> str:
    """Return a digest of what a person has set."""
    values = settings.model_dump(mode="json")
    secrets = [value.get_secret_value() for _, value in settings if isinstance(value, SecretStr)]
    return hashlib.sha256(json.dumps([values, secrets], sort_keys=True).encode()).hexdigest()[:16]
