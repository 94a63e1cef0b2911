"""The guardian, with real processes: nothing may outlive its command or its caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from evergreen_airflow.kubelet import guardian
from process_kit import alive, eventually, pid_in

START = [sys.executable, "-I", "-S", guardian.__file__]
LEAVE_DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:  # a daemon: its own session, its parent gone
        open(sys.argv[1] + "/daemon", "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
os.wait()
while not os.path.exists(sys.argv[1] + "/daemon"):
    time.sleep(0.005)
open(sys.argv[1] + "/command", "w").write(str(os.getpid()))
"""
STAY = "time.sleep(600)\n"


def python(code: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-S", "-c", textwrap.dedent(code), *map(str, arguments)]


Guard = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def guard() -> Iterator[Guard]:
    started = ExitStack()  # leaving a Popen's context closes its pipes and waits

    def start(command: list[str], *options: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([*START, *options, "--", *command], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.enter_context(process)
        started.callback(process.kill)
        return process

    with started:
        yield start


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", 0),
        ("raise SystemExit(65)", 65),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os; os.kill(os.getpid(), 15)", 143),
    ],
)
def test_exit_code_is_the_commands(guard: Guard, code: str, expected: int) -> None:
    assert guard(python(code)).wait(20) == expected


def test_command_that_cannot_start(guard: Guard, tmp_path: Path) -> None:
    missing = guard(["/nowhere/at-all"])
    assert (missing.wait(20), missing.communicate()[1]) == (
        127,
        "guardian: /nowhere/at-all: No such file or directory\n",
    )
    file = tmp_path / "not-executable"
    file.write_text("")
    assert guard([str(file)]).wait(20) == 126


@pytest.mark.parametrize("arguments", [[], ["--"], ["--memory-limit=much", "--", "true"], ["--other", "--", "true"]])
def test_wrong_usage(arguments: list[str]) -> None:
    done = subprocess.run([*START, *arguments], stdin=subprocess.PIPE, capture_output=True, text=True)
    assert done.returncode == 64
    assert "usage: guardian.py" in done.stderr


def test_output_passes_through_and_input_is_empty(guard: Guard) -> None:
    process = guard(python("import sys; print(repr(sys.stdin.read()), flush=True); sys.stderr.write('to stderr')"))
    assert process.stdin is not None
    process.stdin.write("not for the command")
    process.stdin.flush()
    assert process.wait(20) == 0
    assert process.stdout is not None
    assert process.stderr is not None
    assert (process.stdout.read(), process.stderr.read()) == ("''\n", "to stderr")


def test_daemon_does_not_outlive_the_command(guard: Guard, tmp_path: Path) -> None:
    assert guard(python(LEAVE_DAEMON, tmp_path)).wait(20) == 0
    assert not alive(pid_in(tmp_path / "daemon"))


def test_daemon_does_outlive_an_unguarded_command(tmp_path: Path) -> None:
    """The negative twin: without the guardian the same daemon survives."""
    subprocess.run(python(LEAVE_DAEMON, tmp_path), check=True)
    daemon = pid_in(tmp_path / "daemon")
    assert alive(daemon)
    os.kill(daemon, signal.SIGKILL)


def test_nothing_outlives_a_killed_caller(tmp_path: Path) -> None:
    command = [*START, "--", *python(LEAVE_DAEMON + STAY, tmp_path)]
    code = """
    import subprocess, sys
    guardian = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE)
    open(sys.argv[1], "w").write(str(guardian.pid))
    guardian.wait()
    """
    caller = subprocess.Popen(python(code, tmp_path / "guardian", *command))
    family = [pid_in(tmp_path / name) for name in ("guardian", "command", "daemon")]
    assert all(map(alive, family))
    caller.kill()
    caller.wait()
    assert eventually(lambda: not any(map(alive, family)))


def test_command_dies_with_a_killed_guardian(guard: Guard, tmp_path: Path) -> None:
    process = guard(
        python("import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)", tmp_path / "p")
    )
    command = pid_in(tmp_path / "p")
    process.kill()
    assert eventually(lambda: not alive(command))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, None])
def test_command_is_asked_to_stop_first(guard: Guard, tmp_path: Path, number: signal.Signals | None) -> None:
    code = """
    import os, signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    with open(sys.argv[1], "w") as file:  # closed by a destructor, it could swallow the SystemExit
        file.write(str(os.getpid()))
    time.sleep(600)
    """
    process = guard(python(code, tmp_path / "ready"))
    pid_in(tmp_path / "ready")
    assert process.stdin is not None
    if number:
        process.send_signal(number)
    else:
        process.stdin.close()
    assert process.wait(20) == 75


def test_deaf_tree_is_killed_after_the_grace_period(guard: Guard, tmp_path: Path) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    process = guard(python(deaf + LEAVE_DAEMON + STAY, tmp_path), "--grace=0.3")
    family = [pid_in(tmp_path / name) for name in ("command", "daemon")]
    began = time.monotonic()
    process.terminate()
    assert process.wait(20) == 137
    assert 0.3 <= time.monotonic() - began < 5
    assert not any(map(alive, family))


def test_forking_tree_is_caught(guard: Guard, tmp_path: Path) -> None:
    code = """
    import os, signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(sys.argv[1], "w").write(str(os.getpid()))
    while True:  # hand over to a new process, for ever
        if os.fork():
            time.sleep(0.002)
            os._exit(0)
        os.setsid()
    """
    process = guard(python(code, tmp_path / "ready"), "--grace=0.1")
    pid_in(tmp_path / "ready")
    assert process.wait(30) == 0  # the first of them ended by itself
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path / "ready") in (p.info["cmdline"] or [])]


def test_memory_limit_counts_the_whole_tree(guard: Guard, tmp_path: Path) -> None:
    code = """
    import os, sys, time
    for _ in range(2):
        if os.fork() == 0:
            held = b"x" * (80 << 20)
            time.sleep(600)
    open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(600)
    """
    process = guard(python(code, tmp_path / "p"), f"--memory-limit={130 << 20}")
    assert process.wait(20) == 137
    assert "out of memory" in process.communicate()[1]
    assert not alive(pid_in(tmp_path / "p"))


def test_memory_limit_counts_a_shared_page_once(guard: Guard) -> None:
    code = """
    import os, time
    held = b"x" * (80 << 20)
    children = [os.fork() or (time.sleep(1.0), os._exit(0)) for _ in range(3)]
    for _ in children:
        os.wait()
    """
    assert guard(python(code), f"--memory-limit={130 << 20}").wait(20) == 0


def test_processes_as_ps_tells_agree_with_proc() -> None:
    own = os.getpid()
    by_proc = {row[0]: row for row in guardian.processes()}[own]
    by_ps = {row[0]: row for row in guardian.processes_from_ps()}[own]
    assert by_ps[:3] == by_proc[:3]
    assert by_ps[3] == pytest.approx(by_proc[3], rel=0.2)


def test_start_imports_nothing_heavy(guard: Guard) -> None:
    """It is on the way of every task: about 20 ms, of which typing, subprocess, re or pathlib would be half each."""
    command = [sys.executable, "-I", "-S", "-X", "importtime", guardian.__file__, "--", "true"]
    done = subprocess.run(command, stdin=subprocess.PIPE, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "select" in imported
    assert not imported & {"typing", "subprocess", "re", "pathlib", "contextlib", "argparse", "logging", "site"}
