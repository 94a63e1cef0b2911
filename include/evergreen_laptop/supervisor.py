"""Starts the services in order, watches them, restarts what dies, and takes everything down with itself.

Every service runs under `evergreen_airflow.kubelet.guardian`, whose standard input this process holds open: should the
supervisor die in whatever way, all its services stop too, and the next `evergreen up` starts afresh.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from evergreen.contract import ConfigurationError, StepError, TemporaryError
from evergreen.settings import Settings
from evergreen_airflow.kubelet import adopt_orphans, guarded
from evergreen_laptop.files import (
    STATE_FOLDER,
    check_free_space,
    identity_of,
    keep_previous,
    keep_to_oneself,
    make_folder,
)
from evergreen_laptop.processes import check_port, left_its_session, stop_processes
from evergreen_laptop.service_thread import ServiceThread
from evergreen_laptop.services import Service, build_services
from evergreen_laptop.status import (
    SupervisorStatus,
    living_guardians,
    read_status,
    run_folder,
    settings_digest,
    try_lock,
    write_status,
)

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 4
"""So many failed starts in a row, while the services are first brought up, end the attempt."""


class Supervisor:
    """All services of one state folder.

    Parameters
    ----------
    user
        What a person has set.
    build
        Configures the services and returns them, in the order they start.
    """

    def __init__(self, user: Settings, build: Callable[[Settings], list[Service]] = build_services) -> None:
        self.user = user
        self.build = build
        self.logs = user.state_dir / "logs"
        self.runners: dict[str, ServiceThread] = {}
        self.error: StepError | None = None
        self.up = False
        """Whether every service has been healthy at once since the start."""
        self.turn = threading.Lock()
        self._stop = threading.Event()
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._settings = settings_digest(user)
        self._folders: dict[Path, tuple[int, int] | None] = {}

    def run(self) -> None:
        """Run the services until a signal asks to stop, then stop them all.

        Raises
        ------
        StepError
            If they cannot be started.
        """
        asked: list[int] = []  # a handler may not touch the event: it may interrupt this very thread inside it
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: asked.append(number))
        try:
            self._start()
            while not asked and not self._stop.wait(0.2):
                self._check_folders()
                if not self.up and all(runner.healthy.is_set() for runner in self.runners.values()):
                    self.up = True
                    log.info("all services are healthy")
        except StepError as error:
            self.error = error
        finally:
            self._stop_all()
        if self.error:
            raise self.error

    def _start(self) -> None:
        check_free_space(make_folder(self.user.state_dir, STATE_FOLDER))
        make_folder(self.logs)
        leave = living_guardians(read_status(self.user))
        if leave:
            log.info("waiting for the services of a dead supervisor to stop")
            stop_processes(leave)
        adopt_orphans()  # they become ours to sweep
        self.write()
        services = self.build(self.user)
        for service in services:
            for setting, port in service.ports.items():
                check_port(setting, port)
            keep_previous(self.logs / f"{service.name}.log")
        self.runners = {service.name: ServiceThread(service, self) for service in services}
        self.write()
        needed = [run_folder(self.user), *(service.data for service in services if service.data)]
        self._folders = {folder: identity_of(folder) for folder in needed}
        for runner in self.runners.values():
            runner.start()

    def _check_folders(self) -> None:
        """Give up when a folder that the services live on was removed under them: no restart brings it back.

        Without it the databases would be made anew, empty, under services that know the old ones' passwords; and
        with the lock gone, the next `evergreen up` would start everything a second time.
        """
        for folder, known in self._folders.items():
            try:
                self._folders[folder] = found = identity_of(folder)  # a first start makes one
            except OSError as error:
                log.warning("%s: %s; looking again", folder, error.strerror)
                continue
            if known and found != known:
                raise ConfigurationError(
                    f"{folder} was removed while the services ran: they were stopped.",
                    "Put it back from a backup, or start with what is left and empty databases: evergreen up",
                )

    def _stop_all(self) -> None:
        """Stop every service: those that need others first."""
        self._stop.set()
        log.info("stopping")
        self.write()
        remaining = dict(self.runners)
        while remaining:
            needed = {name for runner in remaining.values() for name in runner.service.needs}
            leaves = [runner for name, runner in remaining.items() if name not in needed]
            for runner in leaves:
                runner.stopping.set()
            for runner in leaves:
                if runner.ident is not None:
                    runner.join()
                del remaining[runner.name]
        self.sweep()
        self.write()
        log.info("stopped")

    def gives_up(self, failures: int) -> bool:
        """Return whether so many failed starts in a row end the attempt to bring the services up."""
        return not self.up and failures >= MAX_FAILED_STARTS

    def fail(self, error: StepError) -> None:
        """Give up: stop everything, and say why."""
        with self._lock:
            self.error = self.error or error
        log.error("%s", error)
        self._stop.set()

    def are_healthy(self, names: tuple[str, ...]) -> bool:
        """Return whether the named services are."""
        return all(self.runners[name].healthy.is_set() for name in names)

    def wait_for(self, names: tuple[str, ...], stopping: threading.Event) -> bool:
        """Wait until the named services are healthy; returns False when asked to stop."""
        while not stopping.is_set():
            if all(self.runners[name].healthy.wait(0.1) for name in names):
                return True
        return False

    def spawn(self, runner: ServiceThread) -> subprocess.Popen[bytes]:
        """Start a service under a guardian."""
        service = runner.service
        command = guarded(service.command(), service.grace)
        with self._lock, runner.log_file.open("ab") as output:  # a sweep must not take a new guardian for a stray
            runner.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(service.environment),
                cwd=self.user.state_dir,
                start_new_session=True,
            )
            return runner.process

    def sweep(self) -> None:
        """Kill what a killed guardian left: as its subreaper this process has become its parent."""
        with self._lock:
            guardians = {runner.process.pid for runner in self.runners.values() if runner.process}
            for child in psutil.Process().children():
                if child.pid not in guardians and left_its_session(child.pid):
                    stop_processes([child, *child.children(recursive=True)], grace=0)

    def write(self) -> None:
        """Write the status file."""
        with self._writing:
            status = SupervisorStatus(
                pid=os.getpid(),
                settings=self._settings,
                stopping=self._stop.is_set(),
                error=str(self.error or ""),
                error_class=str(self.error.failure_class) if self.error else "",
                services=tuple(runner.status for runner in self.runners.values()),
            )
            try:
                write_status(self.user, status)
            except (StepError, OSError) as error:  # a full disk must not stop the services
                log.error("%s", error)


def supervise(user: Settings) -> None:
    """Run the services in this process until a signal asks to stop.

    Raises
    ------
    StepError
        If they cannot be started, or are already running.
    """
    keep_to_oneself(user.state_dir)
    with try_lock(user, patience=2) as held:
        if not held:
            raise TemporaryError("The services are already running.", "See `evergreen status`.")
        Supervisor(user).run()
