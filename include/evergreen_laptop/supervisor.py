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
from contextlib import suppress
from pathlib import Path

import psutil

from evergreen.contract import ConfigurationError, StepError
from evergreen.settings import Settings
from evergreen_airflow.kubelet import adopt_orphans, guarded
from evergreen_laptop.files import identity_of, keep_previous, make_folder
from evergreen_laptop.processes import check_port, stop_processes
from evergreen_laptop.service_thread import ServiceThread
from evergreen_laptop.services import Service, build_services
from evergreen_laptop.status import (
    SupervisorStatus,
    living_guardians,
    read_status,
    run_folder,
    settings_digest,
    write_status,
)

log = logging.getLogger(__name__)


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
        self.threads: dict[str, ServiceThread] = {}
        self.error: StepError | None = None
        self.up = False
        """Whether every service has been healthy at once since the start."""
        self.turn = threading.Lock()
        """Held by the service that is started again because it was not well: one at a time."""
        self._stop = threading.Event()
        self._lock = threading.RLock()
        self._settings = settings_digest(user)
        self._folders: dict[Path, tuple[int, int] | None] = {}

    def run(self) -> None:
        """Run the services until a signal asks to stop, then stop them all.

        Raises
        ------
        StepError
            If they cannot be started.
        """
        signals: list[int] = []  # a handler may not touch the event: it may interrupt this very thread inside it
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _: signals.append(number))
        try:
            self._start()
            while not signals and not self._stop.wait(0.2):
                self._check_folders()
                if not self.up and all(thread.healthy.is_set() for thread in self.threads.values()):
                    self.up = True
                    log.info("all services are healthy")
        except StepError as error:
            self.error = error
        finally:
            self._stop_all()
        if self.error:
            raise self.error

    def _start(self) -> None:
        make_folder(self.logs)
        if guardians := living_guardians(read_status(self.user)):
            log.info("waiting for the services of a dead supervisor to stop")
            stop_processes(guardians)
        adopt_orphans()  # they become ours to sweep
        self.write()
        services = self.build(self.user)
        for service in services:
            for setting, port in service.ports.items():
                check_port(setting, port)
            keep_previous(self.logs / f"{service.name}.log")
        self.threads = {service.name: ServiceThread(service, self) for service in services}
        self.write()
        folders = [run_folder(self.user), *(service.data for service in services if service.data)]
        self._folders = {folder: identity_of(folder) for folder in folders}
        for thread in self.threads.values():
            thread.start()

    def _check_folders(self) -> None:
        """Give up when a folder that the services live on was removed under them: no restart brings it back.

        Without it the databases would be made anew, empty, under services that know the old ones' passwords; and
        with the lock gone, the next `evergreen up` would start everything a second time.
        """
        for folder, known in self._folders.items():
            try:
                self._folders[folder] = identity_of(folder)  # a first start makes one
            except OSError as error:
                log.warning("%s: %s; looking again", folder, error.strerror)
                continue
            if known and self._folders[folder] != known:
                raise ConfigurationError(
                    f"{folder} was removed while the services ran: they were stopped.",
                    "Put it back from a backup, or start with what is left and empty databases: evergreen up",
                )

    def _stop_all(self) -> None:
        """Stop every service: those that need others first."""
        self._stop.set()
        log.info("stopping")
        self.write()
        remaining = list(self.threads.values())
        while remaining:
            needed = {name for thread in remaining for name in thread.service.needs}
            leaves = [thread for thread in remaining if thread.name not in needed]
            for thread in leaves:
                thread.stopping.set()
            for thread in leaves:
                if thread.ident is not None:
                    thread.join()
                remaining.remove(thread)
        self.sweep()
        self.write()
        log.info("stopped")

    def fail(self, error: StepError) -> None:
        """Give up: stop everything, and say why."""
        with self._lock:
            self.error = self.error or error
        log.error("%s", error)
        self._stop.set()

    def spawn(self, thread: ServiceThread) -> subprocess.Popen[bytes]:
        """Start a service under a guardian."""
        service = thread.service
        command = guarded(service.command(), service.grace)
        with self._lock, thread.log_file.open("ab") as output:  # a sweep must not take a new guardian for a stray
            thread.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(service.environment),
                cwd=self.user.state_dir,
                start_new_session=True,
            )
            return thread.process

    def sweep(self) -> None:
        """Kill what a killed guardian left: as its subreaper this process has become its parent."""
        with self._lock:
            guardians = {thread.process.pid for thread in self.threads.values() if thread.process}
            for child in psutil.Process().children():
                with suppress(ProcessLookupError, psutil.Error):
                    # guardians start a session each, this process's own commands stay in its own
                    if child.pid not in guardians and os.getsid(child.pid) != os.getsid(0):
                        stop_processes([child, *child.children(recursive=True)], grace=0)

    def write(self) -> None:
        """Write the status file."""
        with self._lock:
            status = SupervisorStatus(
                pid=os.getpid(),
                settings=self._settings,
                stopping=self._stop.is_set(),
                error=str(self.error or ""),
                error_class=str(self.error.failure_class) if self.error else "",
                services=tuple(thread.status for thread in self.threads.values()),
            )
            try:
                write_status(self.user, status)
            except (StepError, OSError) as error:  # a full disk must not stop the services
                log.error("%s", error)
