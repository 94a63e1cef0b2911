"""How long a service that is not well is left alone: slow is not dead.

On a starved machine every check fails and every start takes minutes; a supervisor that kills what is slow then takes
what is left of the machine, and never lets it recover. So time counts against a service only as far as the service
could have used it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psutil

LATE_SECONDS = 1.0
"""A look that comes so much too late says that this process was starved too: its interval does not count."""
ASLEEP_SECONDS = 20.0
"""After so long without a look the machine slept, or all of it was stopped: everything begins afresh."""
PROGRESS = 0.2
"""Share of a core above which a service is at work, on an idle machine; one that only polls uses less."""
CPU_WEIGHT = 0.5
"""What a second of CPU counts for a service at work: it may do what it does, but not for ever."""
LEAST_WEIGHT = 0.1
"""What a second counts on a machine that is never idle: one that hangs there is found too, if later."""
_PRESSURE = tuple(
    Path(path)
    for path in ("/proc/pressure/cpu", "/proc/pressure/io", "/sys/fs/cgroup/cpu.pressure", "/sys/fs/cgroup/io.pressure")
)
"""Of the machine and, in a container, of its own share (Linux with pressure stall information)."""


class Patience:
    """The time that a service may still be unwell.

    Parameters
    ----------
    guardian
        The process that the service's tree begins with.
    seconds
        How long it may be unwell on an idle machine.
    """

    def __init__(self, guardian: int, seconds: float) -> None:
        self.guardian = guardian
        self.renew(seconds)

    def renew(self, seconds: float) -> None:
        """Begin afresh, for a service that is well: looking at its processes would cost more than it is worth."""
        self.seconds = seconds
        self.spent = 0.0
        self._seen_at = time.time()  # the wall clock goes on while the machine sleeps
        self._cpu: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the service counts as dead."""
        return self.spent > self.seconds

    def look(self, interval: float, *, needs_are_well: bool) -> None:
        """Look at the service and count what passed, ``interval`` seconds if nothing held this process up."""
        last_seen_at, last_cpu = self._seen_at, self._cpu
        self._seen_at = time.time()
        self._cpu, stopped = _tree(self.guardian)
        seconds = self._seen_at - last_seen_at
        self.count(
            seconds,
            late=seconds - interval,
            cpu=None if last_cpu is None else max(0.0, self._cpu - last_cpu),
            pressure=pressure(),
            held_up=stopped or not needs_are_well,
        )

    def count(
        self,
        seconds: float,
        *,
        late: float = 0.0,
        cpu: float | None = 0.0,
        pressure: float = 0.0,
        held_up: bool = False,
    ) -> None:
        """Count so much of the time since the last look as the service could have used.

        Parameters
        ----------
        seconds
            Since the last look.
        late
            By how much this look came later than it was meant to, in seconds.
        cpu
            CPU time that its processes used meanwhile, in seconds; None if there is nothing to compare with.
        pressure
            Share of the time in which somebody on this machine waited for a core or the disk: 0 idle, 1 starved.
        held_up
            Whether it is stopped (SIGSTOP, a debugger), or a service that it needs is not well.
        """
        if late > ASLEEP_SECONDS or seconds < 0:  # the machine slept, or its clock was set back
            self.spent = 0.0
        elif late <= LATE_SECONDS and cpu is not None and not held_up:
            idle = max(LEAST_WEIGHT, 1 - pressure)
            is_at_work = cpu > PROGRESS * idle * seconds
            self.spent += cpu * CPU_WEIGHT if is_at_work else seconds * idle


def pressure() -> float:
    """Return the share of the last ten seconds in which somebody waited for a core or the disk; 0 if nobody says."""
    shares = [0.0]
    for path in _PRESSURE:
        with suppress(OSError, IndexError, ValueError):
            shares.append(float(path.read_text().split("avg10=")[1].split()[0]) / 100)
    return max(shares)


def _tree(guardian: int) -> tuple[float, bool]:
    """Return the CPU time of a guardian's processes, and whether the one it looks after is stopped."""
    cpu, stopped = 0.0, False
    with suppress(psutil.Error):
        top = psutil.Process(guardian)
        for process in (top, *top.children(recursive=True)):
            with suppress(psutil.Error):
                cpu += sum(process.cpu_times()[:4])  # of itself and of its children that have ended
                stopped = stopped or (process.ppid() == guardian and process.status() == psutil.STATUS_STOPPED)
    return cpu, stopped
