"""Starts the services in order, watches them, restarts what dies, and takes everything down with itself.

Every service runs under `evergreen.guardian`, whose standard input this process holds open: should the
supervisor die in whatever way, all its services stop too, and the next `evergreen up` starts afresh.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from evergreen import guardian
from evergreen.contract import ConfigurationError, StepError, TemporaryError
from evergreen.local.files import check_free_space, make_folder
from evergreen.local.services import Service, build_services
from evergreen.local.status import (
    ServiceStatus,
    State,
    SupervisorStatus,
    living_guardians,
    now,
    read_status,
    settings_digest,
    try_lock,
    write_status,
)
from evergreen.settings import Settings

log = logging.getLogger(__name__)

START_SECONDS = 180.0
"""A service that is not healthy after so long is started again."""
SICK_SECONDS = 60.0
"""A service that was healthy and fails its checks for so long is started again."""
CHECK_SECONDS = 2.0
FIRST_CHECKS_SECONDS = 0.2
BACK_OFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses before the first, second, … restart in a row; a healthy minute starts the row again."""
MAX_FAILED_STARTS = 4
"""So many starts in a row that never became healthy, while the services are first brought up, end it."""


class Runner(threading.Thread):
    """The life of one service."""

    def __init__(self, service: Service, supervisor: Supervisor) -> None:
        super().__init__(name=service.name, daemon=True)
        self.service = service
        self.supervisor = supervisor
        self.status = ServiceStatus(name=service.name, address=service.address, since=now())
        self.healthy = threading.Event()
        self.stopping = threading.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self._failures = 0

    def run(self) -> None:
        """Start the service and keep it running until told to stop."""
        while not self.stopping.is_set():
            problem = self._live_once()
            self.healthy.clear()
            if self.stopping.is_set():
                break
            self._failures += 1
            if self.supervisor.gives_up(self._failures):
                self.supervisor.fail(ConfigurationError(f"{self.name}: {problem}.", f"See {self.log_file}."))
                break
            pause = BACK_OFF_SECONDS[min(self._failures, len(BACK_OFF_SECONDS)) - 1]
            log.warning("%s: %s; starting it again in %.1f s", self.name, problem, pause)
            self._report(State.RESTARTING, note=problem, restarts=self.status.restarts + 1, pid=None)
            self.stopping.wait(pause)
        self._report(State.STOPPED, pid=None)

    @property
    def log_file(self) -> Path:
        """Where the service's output goes."""
        return self.supervisor.logs / f"{self.name}.log"

    def _live_once(self) -> str:
        """Start the service and watch it until it ends; returns why it did."""
        if not self.supervisor.wait_for(self.service.needs, self.stopping):
            return "stopped"
        self._report(State.STARTING)
        try:
            self.service.prepare()
            started = time.time()
            process = self.supervisor.spawn(self)
        except ConfigurationError as error:
            if not self.supervisor.up:
                self.supervisor.fail(error)
            return str(error)
        except Exception as error:  # whatever it is, the service is tried again
            return f"cannot start: {error}"
        self._report(State.STARTING)
        try:
            return self._watch(process, started)
        finally:
            self.end_process()

    def _watch(self, process: subprocess.Popen[bytes], started: float) -> str:
        deadline = time.monotonic() + START_SECONDS
        was_well, interval = False, FIRST_CHECKS_SECONDS
        since = time.monotonic()
        while not self.stopping.is_set():
            with suppress(subprocess.TimeoutExpired):
                return _ending(process.wait(interval))
            problem = self._problem(started, first=not was_well)
            if not problem:
                deadline = time.monotonic() + SICK_SECONDS
                if not was_well or self.status.state is not State.HEALTHY:
                    self._report(State.HEALTHY, note=self.status.note if was_well else "")
                    self.healthy.set()
                was_well, interval = True, CHECK_SECONDS
                if time.monotonic() - since > SICK_SECONDS:
                    self._failures = 0
            elif time.monotonic() > deadline:
                return f"not healthy: {problem}"
            elif was_well and self.status.state is State.HEALTHY:
                self.healthy.clear()
                log.warning("%s: %s", self.name, problem)
                self._report(State.UNHEALTHY, note=problem)
        return "stopped"

    def _problem(self, started: float, *, first: bool) -> str:
        """Return what is wrong with the running service, or nothing."""
        try:
            self.service.check(started)
            if first:
                self.service.ready()
        except ConfigurationError as error:
            if not self.supervisor.up:
                self.supervisor.fail(error)
            return str(error)
        except Exception as error:  # a refused connection, a time-out, a wrong answer: all mean "not well"
            return str(error).strip().split("\n")[0] or type(error).__name__
        return ""

    def end_process(self) -> None:
        """Stop the service's process tree, if it runs, and wait until nothing is left of it."""
        process = self.process
        if process is None:
            return
        if process.poll() is None:
            pid = _child_of(process.pid)
            if pid and self.service.stop_signal is not None:
                with suppress(ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
                    os.kill(pid, self.service.stop_signal)
                    process.wait(self.service.grace)
            process.terminate()
            try:
                process.wait(self.service.grace + 5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin:
            process.stdin.close()
        self.supervisor.sweep()
        self.process = None

    def _report(self, state: State, **changes: object) -> None:
        process = self.process
        if process is not None and "pid" not in changes and process.poll() is None:
            changes |= {"pid": _child_of(process.pid) or process.pid, "guardian": process.pid}
            with suppress(psutil.Error):
                changes["guardian_started"] = psutil.Process(process.pid).create_time()
        since = now() if state is not self.status.state else self.status.since
        self.status = self.status.model_copy(update={"state": state, "since": since, **changes})
        self.supervisor.write()


class Supervisor:
    """All services of one state folder.

    Parameters
    ----------
    user
        What a person has set.
    """

    def __init__(self, user: Settings) -> None:
        self.user = user
        self.logs = user.state_dir / "logs"
        self.runners: dict[str, Runner] = {}
        self.error: StepError | None = None
        self.up = False
        """Whether every service has been healthy at once since the start."""
        self._stop = threading.Event()
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._settings = settings_digest(user)

    def run(self) -> None:
        """Run the services until a signal asks to stop, then stop them all.

        Raises
        ------
        StepError
            If they cannot be started.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._stop.set())
        try:
            self._start()
            while not self._stop.wait(0.5):
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
        check_free_space(make_folder(self.user.state_dir))
        make_folder(self.logs)
        leave = living_guardians(read_status(self.user))
        if leave:
            log.info("waiting for the services of a dead supervisor to stop")
            stop_processes(leave)
        if sys.platform == "linux":
            guardian.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what a killed guardian leaves becomes ours to sweep
        self.write()
        services = build_services(self.user)
        for service in services:
            for setting, port in service.ports.items():
                check_port(setting, port)
            keep_previous(self.logs / f"{service.name}.log")
        self.runners = {service.name: Runner(service, self) for service in services}
        self.write()
        for runner in self.runners.values():
            runner.start()

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

    def wait_for(self, names: tuple[str, ...], stopping: threading.Event) -> bool:
        """Wait until the named services are healthy; returns False when asked to stop."""
        while not stopping.is_set():
            if all(self.runners[name].healthy.wait(0.1) for name in names):
                return True
        return False

    def spawn(self, runner: Runner) -> subprocess.Popen[bytes]:
        """Start a service under a guardian."""
        service = runner.service
        command = [sys.executable, "-I", "-S", guardian.__file__, f"--grace={service.grace}", "--", *service.command()]
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
                if child.pid not in guardians and _left_its_session(child.pid):
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
    make_folder(user.state_dir)
    with try_lock(user, patience=2) as held:
        if not held:
            raise TemporaryError("The services are already running.", "See `evergreen status`.")
        Supervisor(user).run()


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


def keep_previous(path: Path) -> None:
    """Start a log afresh and keep the one of the last start."""
    if path.exists():
        path.replace(path.with_name(f"{path.name}.1"))


def stop_processes(processes: list[psutil.Process], grace: float = 20.0) -> None:
    """Wait for processes to end by themselves, then kill them."""
    _, alive = psutil.wait_procs(processes, timeout=grace)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=10)


def _left_its_session(pid: int) -> bool:
    """Return whether a child is not one of ours: guardians start a session each, our own commands stay in ours."""
    with suppress(ProcessLookupError):
        return os.getsid(pid) != os.getsid(0)
    return False


def _child_of(guardian_pid: int) -> int | None:
    with suppress(psutil.Error):
        children = psutil.Process(guardian_pid).children()
        return children[0].pid if children else None
    return None


def _ending(code: int) -> str:
    if code > 128:  # 128 + signal, as the guardian and shells say it
        code = 128 - code
    if code < 0:
        with suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
