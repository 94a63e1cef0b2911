"""The supervisor with small services of its own: order, restarts, giving up, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from evergreen.settings import Settings
from evergreen_laptop.processes import is_alive
from evergreen_laptop.status import State, SupervisorStatus, read_status
from process_kit import eventually

DRIVER = """
import os, sys, time
from pathlib import Path
from evergreen.contract import ConfigurationError
from evergreen_laptop import files, patience, service_thread, supervisor
from evergreen_laptop.services import Service
from evergreen.settings import Settings

service_thread.BACK_OFF_SECONDS = (0.05,)
service_thread.CHECK_SECONDS = 0.1
service_thread.SICK_SECONDS = 1.0
patience.ASLEEP_SECONDS = 3.0
patience._PRESSURE = ()  # how long a test takes must not depend on what else runs here
service_thread.START_SECONDS = 3.0 if sys.argv[2] == "mute" else 60.0
folder = Path(sys.argv[1])

def exists(name):
    def check(started):
        path = folder / name
        if not path.exists() or path.stat().st_mtime < started - 0.1:
            raise FileNotFoundError(f"{name} is not there")
    return check

def beats(name):
    def check(started):
        beat = (folder / name).stat().st_mtime
        if beat < started or time.time() - beat > 1:
            raise TimeoutError("no heartbeat")
    return check

def service(name, code, **more):
    return Service(name=name, command=lambda: [sys.executable, "-c", code], environment=dict(os.environ), **more)

# a service that says when it started, with a grandchild that has left its session and ignores SIGTERM
STUBBORN = (
    "import os, pathlib, signal, subprocess, sys, time\\n"
    "child = 'import os, signal, time; os.setsid(); signal.signal(15, signal.SIG_IGN); time.sleep(600)'\\n"
    "subprocess.Popen([sys.executable, '-c', child])\\n"
    f"pathlib.Path({str(folder)!r}, 'NAME').touch()\\n"
    "time.sleep(600)\\n"
)
# a service with a heartbeat, that takes half a second to start, and hangs when it is told to
BEATING = (
    "import pathlib, signal, time\\n"
    f"folder = pathlib.Path({str(folder)!r})\\n"
    "signal.signal(signal.SIGUSR1, lambda *_: time.sleep(600))\\n"
    "begin = time.time()\\n"
    "time.sleep(0.5)\\n"
    "with (folder / 'NAME-starts').open('a') as file:\\n"
    "    print(begin, time.time(), file=file)\\n"
    "while True:\\n"
    "    (folder / 'NAME').touch()\\n"
    "    time.sleep(0.1)\\n"
)
SERVICES = {
    "beating": lambda: [
        service(name, BEATING.replace("NAME", name), check=beats(name), grace=0.5) for name in ("one", "two")],
    "good": lambda: [
        service("base", STUBBORN.replace("NAME", "base"), check=exists("base"), grace=0.5, data=folder / "data",
                ready=lambda: (folder / "base-ready").touch()),
        service("top", STUBBORN.replace("NAME", "top"), check=exists("top"), needs=("base",), grace=0.5,
                prepare=lambda: (folder / "base-ready").stat()),
    ],
    "crashing": lambda: [service("bad", "raise SystemExit(3)", check=exists("never"))],
    "mute": lambda: [service("mute", "import time; time.sleep(600)", check=exists("never"), grace=0.2)],
    "misconfigured": lambda: [
        service("wrong", "import time; time.sleep(600)", check=lambda _: None, ready=misconfigured, grace=0.2)],
}

def misconfigured():
    raise ConfigurationError("x.yaml: pools: -1 is wrong.", "Write another number.")

try:
    supervisor.Supervisor(Settings(state_dir=folder / "state"), lambda _: SERVICES[sys.argv[2]]()).run()
except ConfigurationError as error:
    sys.exit(f"gave up: {error}")
"""


class Driven:
    """A supervisor in a process of its own."""

    def __init__(self, folder: Path, services: str) -> None:
        self.settings = Settings(state_dir=folder / "state")
        self.folder = folder
        (self.settings.state_dir / "run").mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder), services], stderr=subprocess.PIPE, text=True
        )

    def status(self) -> SupervisorStatus:
        found = read_status(self.settings)
        assert found is not None
        return found

    def until(self, condition: Callable[[SupervisorStatus], bool], seconds: float = 120) -> SupervisorStatus:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = read_status(self.settings)
            if found is not None and found.pid == self.process.pid and condition(found):
                return found
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {found}")

    def tree(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: int = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        return self.process.communicate(timeout=120)[1]


@pytest.fixture
def driven(tmp_path: Path) -> Iterator[Callable[[str], Driven]]:
    made: list[Driven] = []

    def start(services: str) -> Driven:
        made.append(Driven(tmp_path, services))
        return made[-1]

    yield start
    for each in made:
        if each.process.poll() is None:
            each.end(signal.SIGKILL)


def _alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if is_alive(process)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_starts_in_order_and_stops_everything(
    driven: Callable[[str], Driven], tmp_path: Path, number: signal.Signals
) -> None:
    one = driven("good")
    found = one.until(lambda status: status.healthy)
    assert [service.name for service in found.services] == ["base", "top"]
    assert (tmp_path / "base").stat().st_mtime <= (tmp_path / "top").stat().st_mtime
    tree = one.tree()
    assert len(tree) == 6  # per service: guardian, command, grandchild
    one.end(number)
    assert one.process.returncode == 0
    assert _alive(tree) == []
    assert {service.state for service in one.status().services} == {State.STOPPED}


@pytest.mark.parametrize("victim", ["pid", "guardian"])
def test_restarts_what_is_killed_and_only_that(driven: Callable[[str], Driven], victim: str) -> None:
    one = driven("good")
    before = one.until(lambda status: status.healthy)
    old = [process for process in one.tree() if process.pid != before.services[0].guardian]
    top = before.services[1]
    branch = [process for process in old if process.pid == top.guardian or _under(process, top.guardian)]
    os.kill(getattr(top, victim), signal.SIGKILL)
    after = one.until(lambda status: status.healthy and status.services[1].restarts == 1)
    assert after.services[1].pid != top.pid
    assert "SIGKILL" in after.services[1].note
    assert after.services[0] == before.services[0]
    assert len(branch) == 3
    assert _alive(branch) == []  # the grandchild of the killed one too


def _under(process: psutil.Process, guardian: int | None) -> bool:
    return any(parent.pid == guardian for parent in process.parents())


def test_a_killed_supervisor_takes_its_services_with_it(driven: Callable[[str], Driven]) -> None:
    one = driven("good")
    one.until(lambda status: status.healthy)
    tree = one.tree()
    one.end(signal.SIGKILL)
    again = driven("good")  # at once: it waits for what is still going down
    again.until(lambda status: status.healthy)
    assert _alive(tree) == []


@pytest.mark.parametrize("first", [True, False], ids=["a first start", "a later one"])
@pytest.mark.parametrize("removed", ["state", "state/run", "data"])
def test_a_folder_that_is_removed_under_the_services_stops_them_and_is_named(
    driven: Callable[[str], Driven], tmp_path: Path, removed: str, first: bool
) -> None:
    """Of a first start the databases' folder is made by a service, and watched all the same."""
    if not first:
        (tmp_path / "data").mkdir()
    one = driven("good")
    one.until(lambda status: status.healthy)
    if first:
        (tmp_path / "data").mkdir()
        time.sleep(1)
    tree = one.tree()
    (tmp_path / removed).rename(tmp_path / "gone")  # at once: what is written meanwhile would keep the folder
    shutil.rmtree(tmp_path / "gone")
    said = one.process.communicate(timeout=120)[1]
    named = tmp_path / ("data" if removed == "data" else "state/run")
    assert f"gave up: {named} was removed while the services ran: they were stopped. Put it back" in said
    assert _alive(tree) == []
    assert one.status().error.startswith(f"{named} was removed")
    again = driven("good")  # at once
    again.until(lambda status: status.healthy and not status.error)


def test_gives_up_a_start_that_keeps_failing(driven: Callable[[str], Driven]) -> None:
    one = driven("crashing")
    said = one.process.communicate(timeout=120)[1]
    assert one.process.returncode == 1
    assert "gave up: bad: ended with exit code 3." in said
    assert "logs/bad.log" in said
    assert one.status().error.startswith("bad: ended with exit code 3.")
    assert one.status().services[0].restarts == 3


def test_a_service_that_never_answers_is_started_again(driven: Callable[[str], Driven]) -> None:
    one = driven("mute")
    found = one.until(lambda status: status.services != () and status.services[0].restarts == 1)
    assert found.services[0].note == "not healthy: never is not there"


def test_what_hangs_is_started_again_and_what_is_stopped_is_not(driven: Callable[[str], Driven]) -> None:
    one = driven("beating")
    stopped, hung = (service.pid for service in one.until(lambda status: status.healthy).services)
    assert stopped
    assert hung
    os.kill(stopped, signal.SIGSTOP)
    one.until(lambda status: status.services[0].state is State.UNHEALTHY)
    os.kill(hung, signal.SIGUSR1)
    found = one.until(lambda status: status.services[1].restarts == 1 and status.services[1].state is State.HEALTHY)
    assert found.services[1].note == "restarted: not healthy: no heartbeat"
    os.kill(stopped, signal.SIGCONT)  # it was unwell for longer
    found = one.until(lambda status: status.healthy)
    assert (found.services[0].pid, found.services[0].restarts) == (stopped, 0)


def test_two_that_hang_are_started_again_one_after_the_other(driven: Callable[[str], Driven], tmp_path: Path) -> None:
    one = driven("beating")
    for service in one.until(lambda status: status.healthy).services:
        assert service.pid
        os.kill(service.pid, signal.SIGUSR1)
    one.until(lambda status: status.healthy and [service.restarts for service in status.services] == [1, 1])
    starts = [(tmp_path / f"{name}-starts").read_text().split() for name in ("one", "two")]
    (begin, end), (other_begin, other_end) = ((float(start[2]), float(start[3])) for start in starts)
    assert end < other_begin or other_end < begin


def test_a_machine_that_slept_starts_nothing_again(driven: Callable[[str], Driven]) -> None:
    one = driven("beating")
    before = one.until(lambda status: status.healthy)
    everything = [psutil.Process(one.process.pid), *one.tree()]
    for process in everything:
        process.suspend()
    fallen_asleep = time.monotonic()
    while time.monotonic() - fallen_asleep < 5:  # longer than any patience in this test
        assert one.status() == before
        time.sleep(0.2)
    for process in everything:
        process.resume()
    beat = one.folder / "one"
    assert eventually(lambda: time.time() - beat.stat().st_mtime < 1)
    after = one.until(lambda status: status.healthy)
    assert [(s.pid, s.restarts) for s in after.services] == [(s.pid, 0) for s in before.services]


def test_a_configuration_nobody_can_load_stops_the_start(driven: Callable[[str], Driven]) -> None:
    one = driven("misconfigured")
    said = one.process.communicate(timeout=120)[1]
    assert "gave up: x.yaml: pools: -1 is wrong. Write another number." in said
    assert one.status().error_class == "configuration"
