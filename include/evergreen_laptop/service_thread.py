"""The life of one service: start, watch, restart with back-off, stop."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from evergreen.contract import ConfigurationError
from evergreen_laptop.patience import Patience
from evergreen_laptop.processes import child_of, ending, wait_until
from evergreen_laptop.services import Service
from evergreen_laptop.status import ServiceStatus, State, now

if TYPE_CHECKING:
    from evergreen_laptop.supervisor import Supervisor

log = logging.getLogger(__name__)

START_SECONDS = 180.0
"""A service that is not healthy after so long is started again; `Patience` says what counts."""
SICK_SECONDS = 60.0
"""A service that was healthy and fails its checks for so long is started again; `Patience` says what counts."""
CHECK_SECONDS = 2.0
FIRST_CHECKS_SECONDS = 0.2
SLOWEST_CHECK_SECONDS = 10.0
"""What a check may take, with every time-out in it; one that takes longer was held up."""
MAX_FAILED_STARTS = 4
"""So many failed starts in a row, while the services are first brought up, end the attempt."""
BACK_OFF_SECONDS = (0.2, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Pauses before the first, second, … restart in a row; a healthy minute starts the row again."""


class ServiceThread(threading.Thread):
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
        self._has_turn = False
        self._history = ""
        """Why it was last restarted."""

    def run(self) -> None:
        """Start the service and keep it running until told to stop."""
        while not self.stopping.is_set():
            had_turn = self._has_turn
            problem = self._live_once()
            self.healthy.clear()
            if had_turn:  # it did not become healthy with it
                self._gives_its_turn()
            if self.stopping.is_set():
                break
            self._failures += 1
            if not self.supervisor.up and self._failures >= MAX_FAILED_STARTS:
                self.supervisor.fail(ConfigurationError(f"{self.name}: {problem}.", f"See {self.log_file}."))
                break
            pause = BACK_OFF_SECONDS[min(self._failures, len(BACK_OFF_SECONDS)) - 1]
            log.warning("%s: %s; starting it again in %.1f s", self.name, problem, pause)
            self._history = f"restarted: {problem}"
            self._report(State.RESTARTING, note=problem, restarts=self.status.restarts + 1, pid=None)
            self.stopping.wait(pause)
        self._report(State.STOPPED, pid=None)

    @property
    def log_file(self) -> Path:
        """Where the service's output goes."""
        return self.supervisor.logs / f"{self.name}.log"

    def _live_once(self) -> str:
        """Start the service and watch it until it ends; returns why it did."""
        while not self._needs_are_well():
            if self.stopping.wait(0.05):
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
        patience = Patience(process.pid, START_SECONDS)
        was_well, interval = False, FIRST_CHECKS_SECONDS
        since = time.monotonic()

        def has_ended() -> bool:
            return process.poll() is not None or self.stopping.is_set()

        while not wait_until(has_ended, interval, pause=0.1):
            began = time.time()
            problem = self._problem(started, first=not was_well)
            if not problem:
                patience.renew(SICK_SECONDS)
                self._gives_its_turn()
                if self.status.state is not State.HEALTHY:
                    self._report(State.HEALTHY, note=self._history)
                    self.healthy.set()
                was_well, interval = True, CHECK_SECONDS
                if time.monotonic() - since > SICK_SECONDS:
                    self._failures = 0
                continue
            checked = min(time.time() - began, SLOWEST_CHECK_SECONDS)
            patience.look(interval + checked, needs_are_well=self._needs_are_well())
            if patience.is_over and self._takes_its_turn():
                return f"not healthy: {problem}"
            if was_well and self.status.state is State.HEALTHY:
                self.healthy.clear()
                log.warning("%s: %s", self.name, problem)
                self._report(State.UNHEALTHY, note=problem)
        return "stopped" if self.stopping.is_set() else ending(process.returncode)

    def _needs_are_well(self) -> bool:
        return all(self.supervisor.threads[name].healthy.is_set() for name in self.service.needs)

    def _takes_its_turn(self) -> bool:
        """Return whether it may be started again: not while another one is, for both would take longer."""
        self._has_turn = self._has_turn or self.supervisor.turn.acquire(blocking=False)
        return self._has_turn

    def _gives_its_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self.supervisor.turn.release()

    def _problem(self, started: float, *, first: bool) -> str:
        """Return what is wrong with the running service, or nothing."""
        try:
            self.service.check(started)
        except Exception as error:  # a refused connection, a time-out, a wrong answer: all mean "not well"
            return str(error).strip().split("\n")[0] or type(error).__name__
        try:
            if first:
                self.service.ready()
        except ConfigurationError as error:
            if not self.supervisor.up:
                self.supervisor.fail(error)
                return str(error)
            log.warning("%s: %s", self.name, error)  # a file somebody is editing must not stop what runs
        except Exception as error:  # tried again with the next check
            return f"{type(error).__name__}: {error}"
        return ""

    def end_process(self) -> None:
        """Stop the service's process tree, if it runs, and wait until nothing is left of it."""
        process, began = self.process, time.monotonic()
        if process is None:
            return
        if process.poll() is None:
            pid = child_of(process.pid)
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
        log.info("%s: stopped after %.1f s", self.name, time.monotonic() - began)

    def _report(self, state: State, **changes: object) -> None:
        process = self.process
        if process is not None and "pid" not in changes and process.poll() is None:
            changes |= {"pid": child_of(process.pid) or process.pid, "guardian": process.pid}
            with suppress(psutil.Error):
                changes["guardian_started"] = psutil.Process(process.pid).create_time()
        since = now() if state is not self.status.state else self.status.since
        self.status = self.status.model_copy(update={"state": state, "since": since, **changes})
        self.supervisor.write()
