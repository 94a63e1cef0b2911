"""When a service that is not well counts as dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from evergreen_laptop.patience import Look, Patience, Vitals, pressure
from process_kit import eventually

LIMIT = 60.0


def until_over(look: Look, most: float = 100_000) -> float:
    """Return after how many seconds of looks like this one a service counts as dead."""
    patience, passed = Patience(LIMIT), 0.0
    while not patience.is_over and passed < most:
        patience.look(look)
        passed += look.seconds
    return passed


def test_hung_on_an_idle_machine_is_dead_when_its_time_is_over() -> None:
    assert LIMIT < until_over(Look(2.0)) <= LIMIT + 2
    assert LIMIT < until_over(Look(2.0, cpu=0.02)) <= LIMIT + 2  # what a process uses that only polls


def test_hung_on_a_busy_machine_is_dead_within_ten_times_that() -> None:
    assert until_over(Look(2.0, pressure=0.5)) == pytest.approx(2 * LIMIT, abs=4)
    assert until_over(Look(2.0, pressure=1.0)) == pytest.approx(10 * LIMIT, abs=4)


def test_work_counts_by_the_cpu_it_takes() -> None:
    assert until_over(Look(2.0, cpu=2.0)) == pytest.approx(2 * LIMIT, abs=4)  # spins: bounded too
    slow = Look(2.0, cpu=0.06, pressure=0.97)  # imports with 3 % of a core
    assert until_over(slow) > 50 * LIMIT


@pytest.mark.parametrize(
    "look",
    [
        Look(6.0, late=4.0),  # this process was starved itself
        Look(2.0, held_up=True),  # stopped, or its database is away
        Look(2.0, cpu=None),  # nothing to compare with
    ],
)
def test_what_does_not_count(look: Look) -> None:
    assert until_over(look) >= 100_000


@pytest.mark.parametrize("asleep", [Look(3600.0, late=3598.0), Look(-50.0, late=-52.0)])
def test_all_begins_afresh_after_a_sleep(asleep: Look) -> None:
    patience = Patience(LIMIT)
    patience.look(Look(LIMIT))
    patience.look(asleep)
    assert patience.spent == 0
    patience.look(Look(LIMIT + 1))
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


def test_vitals_of_a_process_tree(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        vitals = Vitals(process.pid)
        assert vitals.look(0.0, needs_are_well=True).cpu is None  # the first has nothing to compare with

        def idle() -> bool:
            time.sleep(0.2)
            return vitals.look(0.2, needs_are_well=True).cpu == 0

        assert eventually(idle)
        assert not vitals.look(0.2, needs_are_well=True).held_up
        assert vitals.look(0.2, needs_are_well=False).held_up
        os.kill(child, signal.SIGUSR1)
        assert eventually(lambda: (vitals.look(0.0, needs_are_well=True).cpu or 0) > 0)
        os.kill(child, signal.SIGSTOP)
        assert eventually(lambda: vitals.look(0.0, needs_are_well=True).held_up)
        vitals.well()
        assert vitals.look(0.0, needs_are_well=True).cpu is None
        assert vitals.look(-100.0, needs_are_well=True).late > 100
    finally:
        os.kill(child, signal.SIGKILL)


def test_pressure_is_a_share() -> None:
    assert 0 <= pressure() <= 1
