"""Runs one command and sees to it that nothing it started outlives it, or outlives its caller.

``python -I -S guardian.py [--memory-limit=BYTES] [--grace=SECONDS] [--scratch=FOLDER] -- command argument ...``

The caller holds the write end of the guardian's standard input. When that closes (the caller ended,
however it ended), on SIGTERM, SIGINT or SIGHUP, and when the command ends, every process of the command's tree
is stopped: the command first (SIGTERM, as a container runtime does), what it leaves behind next, and
what is still there after the grace period by SIGKILL. On Linux the guardian is the tree's child
subreaper, so that daemons that left the session belong to it too; elsewhere processes are followed
by parent and by process group. Over its memory limit the tree is killed and the exit code is 137.
The scratch folder is removed last, whatever happened before.
The exit code is otherwise the command's own, 128 + n if signal n ended it; 126 or 127 if it cannot start.

Standard library only, and little of it: this is on the way of every task (about 20 ms).
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

OUT_OF_MEMORY = 137
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
PATIENCE = 30.0
"""Seconds to wait for killed processes to go (a process in uninterruptible sleep cannot) before giving up."""
_PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

Process = tuple[int, int, int, int]
"""Process id, parent's id, process group, resident bytes."""


TYPE_CHECKING = False  # typing costs 5 ms to import; type checkers know the name
if TYPE_CHECKING:
    from collections.abc import Callable


def main(arguments: list[str]) -> int:
    """Run the command after ``--`` and return its exit code."""
    try:
        limit, grace, scratch, command = parse(arguments)
    except ValueError as error:
        say(f"{error}; usage: guardian.py [--memory-limit=BYTES] [--grace=SECONDS] [--scratch=FOLDER] -- command ...")
        return 64
    code = Guardian(command, limit, grace).run()
    if scratch:
        remove(scratch)
    return code


def parse(arguments: list[str]) -> tuple[int, float, str, list[str]]:
    """Return memory limit (bytes, 0: none), grace (seconds), scratch and command; argparse would cost 10 ms."""
    limit, grace, scratch = 0, 10.0, ""
    for position, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if argument == "--" and arguments[position + 1 :]:
            return limit, grace, scratch, arguments[position + 1 :]
        if name == "--memory-limit":
            limit = int(value)
        elif name == "--grace":
            grace = float(value)
        elif name == "--scratch":
            scratch = value
        else:
            raise ValueError(f"unexpected argument {argument!r}")
    raise ValueError("no command")


class Guardian:
    """One command, its process tree and the limits on it."""

    def __init__(self, command: list[str], memory_limit: int, grace: float) -> None:
        self.command = command
        self.memory_limit = memory_limit
        self.grace = grace
        self.child = 0
        self.status: int | None = None
        """The command's exit code, once it has ended."""
        self.childless = False

    def run(self) -> int:
        """Start the command, wait, and leave nothing behind."""
        if sys.platform == "linux":
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        if os.getpid() != os.getpgid(0):
            os.setsid()  # a Ctrl-C at the caller's terminal is the caller's to pass on
        woken, wake = os.pipe()
        os.set_blocking(wake, False)  # a signal handler writes to it
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wake-up pipe carries them
        self._start()
        code = self._watch(woken)
        self._stop()
        if code is None:
            code = self.status
        return 128 + signal.SIGKILL if code is None else code

    def _start(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # until the child has its own dispositions
        guardian = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            self._become_command(guardian)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _become_command(self, guardian: int) -> None:
        code = 126
        try:
            signal.set_wakeup_fd(-1)
            for number in (*STOP_SIGNALS, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            if sys.platform == "linux":
                prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # should the guardian itself be killed
            if os.getppid() != guardian:
                os._exit(OUT_OF_MEMORY)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            self.execute()
        except OSError as error:
            say(f"{self.command[0]}: {error.strerror}")
            code = 127 if isinstance(error, FileNotFoundError) else 126
        finally:
            os._exit(code)

    def execute(self) -> None:
        """Become the command, in its own process."""
        os.execvp(self.command[0], self.command)  # noqa: S606  # no shell is the point

    def _watch(self, woken: int) -> int | None:
        """Wait for a reason to stop; return the exit code if the reason decides it."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(woken, select.POLLIN)
        interval: float | None = 0.02 if self.memory_limit else None
        while self.status is None:
            ready = {descriptor for descriptor, _ in poll.poll(interval and interval * 1000)}
            if woken in ready and STOP_SIGNALS & set(os.read(woken, 512)):
                return None
            if 0 in ready and not _read_input():
                return None
            self._reap()
            if self.memory_limit:
                began = time.monotonic()
                if used := self._over_limit():
                    say(f"out of memory: {used >> 20} MiB used, limit {self.memory_limit >> 20} MiB; killed")
                    self._signal_all(signal.SIGKILL)
                    return OUT_OF_MEMORY
                interval = max(0.2, 20 * (time.monotonic() - began))  # at most 5 % of a core
        return None

    def _over_limit(self) -> int:
        """Return the tree's memory if it is over the limit, else 0.

        Resident sizes count a shared page once per process; proportional sizes do not, but
        cost milliseconds: they are asked for only when the first sum is over, and twice, because
        a process that ends while they are read leaves its share to the ones read after it.
        """
        if sum(resident for _, _, _, resident in self._tree()) <= self.memory_limit:
            return 0
        used = min(sum(proportional_bytes(pid, size) for pid, _, _, size in self._tree()) for _ in range(2))
        return used if used > self.memory_limit else 0

    def _stop(self) -> None:
        deadline = time.monotonic() + self.grace
        if self.status is None:
            _signal(self.child, signal.SIGTERM)
            self._wait(deadline, lambda: self.status is not None)
        if self.status is not None:
            self._signal_all(signal.SIGTERM)
            self._wait(deadline, self._gone)
        deadline = time.monotonic() + PATIENCE
        while not self._gone():
            self._signal_all(signal.SIGKILL)  # again and again: a tree may fork while it is read
            self._wait(time.monotonic() + 0.05, self._gone)
            if time.monotonic() > deadline:
                say(f"cannot kill: {', '.join(str(pid) for pid, *_ in self._tree())}")
                return

    def _wait(self, deadline: float, done: Callable[[], bool]) -> None:
        pause = 0.001
        self._reap()
        while not done() and time.monotonic() < deadline:
            time.sleep(pause)
            pause = min(pause * 2, 0.05)
            self._reap()

    def _gone(self) -> bool:
        # a subreaper inherits every orphan of its tree: no children means that the tree is empty
        return self.childless and (sys.platform == "linux" or not self._tree())

    def _reap(self) -> None:
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.child:
                    code = os.waitstatus_to_exitcode(status)
                    self.status = code if code >= 0 else 128 - code
        except ChildProcessError:
            self.childless = True

    def _tree(self) -> list[Process]:
        guardian = os.getpid()
        others = [process for process in processes() if process[0] != guardian]
        parents, tree, grown = {guardian, self.child}, set[Process](), True
        while grown:  # until no process is added: children may be listed before their parents
            size = len(tree)
            tree.update(row for row in others if row[0] == self.child or row[1] in parents or row[2] == self.child)
            parents |= {pid for pid, *_ in tree}
            grown = len(tree) > size
        return list(tree)

    def _signal_all(self, number: int) -> None:
        for pid, *_ in self._tree():
            _signal(pid, number)


def processes() -> list[Process]:
    """Return every process that can be seen."""
    if sys.platform != "linux":
        return processes_from_ps()
    page, rows = os.sysconf("SC_PAGE_SIZE"), []
    for name in os.listdir("/proc"):  # noqa: PTH208  # pathlib costs 10 ms to import
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                    fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
            except OSError:
                continue
            rows.append((int(name), int(fields[1]), int(fields[2]), int(fields[21]) * page))
    return rows


def processes_from_ps() -> list[Process]:
    """Return every process, as ``ps`` tells (macOS)."""
    import subprocess

    command = ("ps", "-A", "-o", "pid=,ppid=,pgid=,rss=")
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [tuple(map(int, line.split())) for line in lines]
    return [(pid, parent, group, kibibytes * 1024) for pid, parent, group, kibibytes in rows]


def proportional_bytes(pid: int, resident: int) -> int:
    """Return the memory of a process with shared pages divided among their users, where the kernel tells."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:  # noqa: PTH123
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError as error:
        return resident if isinstance(error, PermissionError) else 0  # it has ended
    return 0


def prctl(option: int, value: int) -> None:
    """Set a Linux process attribute."""
    import ctypes

    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        say(f"prctl({option}) failed: {os.strerror(ctypes.get_errno())}")


def remove(folder: str) -> None:
    """Remove a folder and what is in it, as far as possible."""
    try:
        os.rmdir(folder)  # noqa: PTH106
    except OSError:  # it is seldom empty, but then shutil's 10 ms are saved
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def say(message: str) -> None:
    """Write a line to standard error, if anyone still listens."""
    try:  # noqa: SIM105  # contextlib costs 2 ms to import
        os.write(2, f"guardian: {message}\n".encode())
    except OSError:
        pass


def _signal(pid: int, number: int) -> None:
    try:  # noqa: SIM105
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _read_input() -> bytes:
    try:
        return os.read(0, 4096)
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
