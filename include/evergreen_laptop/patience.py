"""How long a service that is not well is left alone: slow is not dead.

On a starved machine every check fails and every start takes minutes; a supervisor that kills what is slow then takes
what is left of the machine, and never lets it recover. So time counts against a service only as far as the service
could have used it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Look:
    """What there was to see of a service that is not well."""

    seconds: float
    """Since the look before."""
    late: float = 0.0
    """By how much the look came later than it was meant to."""
    cpu: float | None = 0.0
    """CPU time that its processes used since the look before, in seconds; None: there is nothing to compare with."""
    pressure: float = 0.0
    """Share of the time in which somebody on this machine waited for a core or the disk: 0 idle, 1 starved."""
    held_up: bool = False
    """It is stopped (SIGSTOP, a debugger), or a service that it needs is not well."""


class Patience:
    """The time that a service may still be unwell.

    Parameters
    ----------
    seconds
        How much of it on an idle machine.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.spent = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the service counts as dead."""
        return self.spent > self.seconds

    def look(self, look: Look) -> None:
        """Count what passed since the look before."""
        if look.late > ASLEEP_SECONDS or look.seconds < 0:  # the machine slept, or its clock was set back
            self.spent = 0.0
        elif look.late <= LATE_SECONDS and look.cpu is not None and not look.held_up:
            self.spent += self._counted(look, look.cpu)

    def _counted(self, look: Look, cpu: float) -> float:
        free = max(LEAST_WEIGHT, 1 - look.pressure)
        return cpu * CPU_WEIGHT if cpu > PROGRESS * free * look.seconds else look.seconds * free


class Vitals:
    """Looks at the processes of one service.

    Parameters
    ----------
    guardian
        The process that their tree begins with.
    """

    def __init__(self, guardian: int) -> None:
        self.guardian = guardian
        self._seen = time.time()  # the wall clock goes on while the machine sleeps
        self._cpu: float | None = None

    def well(self) -> None:
        """Note that it needs no closer look: reading its processes costs more than it is worth."""
        self._seen, self._cpu = time.time(), None

    def look(self, meant: float, *, needs_are_well: bool) -> Look:
        """Return what there is to see, ``meant`` seconds after the look before if nothing held this process up."""
        before, used_before = self._seen, self._cpu
        self._seen = time.time()
        self._cpu, stopped = _tree(self.guardian)
        seconds = self._seen - before
        return Look(
            seconds=seconds,
            late=seconds - meant,
            cpu=None if used_before is None else max(0.0, self._cpu - used_before),
            pressure=pressure(),
            held_up=stopped or not needs_are_well,
        )


def pressure() -> float:
    """Return the share of the last ten seconds in which somebody waited for a core or the disk; 0 if nobody says."""
    found = [0.0]
    for path in _PRESSURE:
        with suppress(OSError, IndexError, ValueError):
            found.append(float(path.read_text().split("avg10=")[1].split()[0]) / 100)
    return max(found)


def _tree(guardian: int) -> tuple[float, bool]:
    """Return the CPU time of a guardian's processes, and whether the one it looks after is stopped."""
    used, stopped = 0.0, False
    with suppress(psutil.Error):
        top = psutil.Process(guardian)
        for process in (top, *top.children(recursive=True)):
            with suppress(psutil.Error):
                used += sum(process.cpu_times()[:4])  # of itself and of its children that have ended
                stopped = stopped or (process.ppid() == guardian and process.status() == psutil.STATUS_STOPPED)
    return used, stopped
