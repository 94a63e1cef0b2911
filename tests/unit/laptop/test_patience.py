"""When a service that is not well counts as dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from evergreen_laptop.patience import Patience, pressure
from process_kit import eventually

LIMIT = 60.0
NOBODY = 0
"""No process is looked at where a test says what there was to see."""


def until_over(seconds: float, most: float = 100_000, **seen: Any) -> float:
    """Return after how many seconds of looks like this one a service counts as dead."""
    patience, passed = Patience(NOBODY, LIMIT), 0.0
    while not patience.is_over and passed < most:
        patience.count(seconds, **seen)
        passed += seconds
    return passed


def test_hung_on_an_idle_machine_is_dead_when_its_time_is_over() -> None:
    assert LIMIT < until_over(2.0) <= LIMIT + 2
    assert LIMIT < until_over(2.0, cpu=0.02) <= LIMIT + 2  # what a process uses that only polls


def test_hung_on_a_busy_machine_is_dead_within_ten_times_that() -> None:
    assert until_over(2.0, pressure=0.5) == pytest.approx(2 * LIMIT, abs=4)
    assert until_over(2.0, pressure=1.0) == pytest.approx(10 * LIMIT, abs=4)


def test_work_counts_by_the_cpu_it_takes() -> None:
    assert until_over(2.0, cpu=2.0) == pytest.approx(2 * LIMIT, abs=4)  # spins: bounded too
    assert until_over(2.0, cpu=0.06, pressure=0.97) > 50 * LIMIT  # imports with 3 % of a core


@pytest.mark.parametrize(
    ("seconds", "seen"),
    [
        (6.0, {"late": 4.0}),  # this process was starved itself
        (2.0, {"held_up": True}),  # stopped, or its database is away
        (2.0, {"cpu": None}),  # nothing to compare with
    ],
)
def test_what_does_not_count(seconds: float, seen: dict[str, Any]) -> None:
    assert until_over(seconds, **seen) >= 100_000


@pytest.mark.parametrize(("seconds", "late"), [(3600.0, 3598.0), (-50.0, -52.0)])
def test_all_begins_afresh_after_a_sleep(seconds: float, late: float) -> None:
    patience = Patience(NOBODY, LIMIT)
    patience.count(LIMIT)
    patience.count(seconds, late=late)
    assert patience.spent == 0
    patience.count(LIMIT + 1)
    assert patience.is_over


def test_all_begins_afresh_when_the_service_is_well() -> None:
    patience = Patience(NOBODY, LIMIT)
    patience.count(LIMIT + 1)
    patience.renew(2 * LIMIT)
    patience.count(LIMIT + 1)
    assert not patience.is_over
    patience.count(LIMIT)
    assert patience.is_over


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Stands for a guardian, whose child does nothing until it is told to work."""
    child = (
        "import os, signal\n"
        "signal.signal(signal.SIGUSR1, lambda *_: [None for _ in iter(int, 1)])\n"
        "print(os.getpid(), flush=True)\n"
        "signal.pause()\n"
    )
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as guardian:
        yield guardian
        guardian.kill()


class Watched(Patience):
    """Remembers what the last look saw."""

    def count(self, seconds: float, **seen: Any) -> None:
        self.seen = seen
        super().count(seconds, **seen)

    def sees(self, what: str, interval: float = 0.0, *, needs_are_well: bool = True) -> Any:
        self.look(interval, needs_are_well=needs_are_well)
        return self.seen[what]


def test_what_a_look_sees_of_a_process_tree(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        patience = Watched(process.pid, LIMIT)
        assert patience.sees("cpu") is None  # the first has nothing to compare with

        def idle() -> bool:
            time.sleep(0.2)
            return patience.sees("cpu", 0.2) == 0

        assert eventually(idle)
        assert not patience.sees("held_up", 0.2)
        assert patience.sees("held_up", 0.2, needs_are_well=False)
        os.kill(child, signal.SIGUSR1)
        assert eventually(lambda: (patience.sees("cpu") or 0) > 0)
        os.kill(child, signal.SIGSTOP)
        assert eventually(lambda: patience.sees("held_up"))
        patience.renew(LIMIT)
        assert patience.sees("cpu") is None
        assert patience.sees("late", -100.0) > 100
    finally:
        os.kill(child, signal.SIGKILL)


def test_pressure_is_a_share() -> None:
    assert 0 <= pressure() <= 1
