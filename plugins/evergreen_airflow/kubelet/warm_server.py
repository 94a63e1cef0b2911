"""The warm service: ``python -m evergreen_airflow.kubelet.warm_server SOCKET``; Linux only.

It imports what the steps import, and then does nothing but fork: no threads of its own, no connections, no Ray, no
model's code. A model's files are loaded by the step that needs them. When the lifecycle's own code or the installed
packages change it refuses steps, and starts itself anew as soon as none is running.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import runpy
import select
import signal
import socket
import sys
import sysconfig
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import evergreen
from evergreen.logs import configure
from evergreen.pipelines import STEPS
from evergreen_airflow.kubelet import guardian
from evergreen_airflow.kubelet.warm_client import READY, STARTED, ForkRequest, NotWarmError, address_of, is_own

log = logging.getLogger("evergreen.warm_steps")  # it is run as __main__

LIBRARIES = (
    "duckdb",
    "evidently.metrics",
    "evidently.tests",
    "great_expectations",
    "mlflow.pytorch",
    "pandas",
    "psycopg",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "pyiceberg.catalog.sql",
    "pyiceberg.io.pyarrow",
    "torch._dynamo",
)
"""What steps import, and is safe to have in a process that forks: only imported, it opens and starts nothing.

Not Ray: it reads its settings when it is imported, and a step's own Ray has others than a cluster's.
"""
MAY_DIFFER = ("AWS_", "EVERGREEN_", "MLFLOW_TRACKING_", "RAY_", "TMPDIR")
"""How variables begin that no library reads when it is imported; in all others a step must agree with the service."""
CODE = (Path(evergreen.__file__).parent, Path(guardian.__file__).parent)
"""The lifecycle's code, and what runs its steps."""
_REQUEST_BYTES = 1 << 20
_REQUEST_SECONDS = 2.0


class _Guardian(guardian.Guardian):
    """A guardian whose command, ``python -m evergreen argument ...``, is run by this interpreter."""

    def execute(self) -> None:
        """Run the command in its own process; never returns."""
        try:
            _renew()
            Path("/proc/self/comm").write_text(self.command[4])  # the step's name, for ps and top
            sys.argv = ["evergreen", *self.command[3:]]
            runpy.run_module("evergreen", run_name="__main__", alter_sys=True)  # it ends this process
        except BaseException:
            traceback.print_exc()
        os._exit(1)


class Server:
    """Forks a step for each request.

    Parameters
    ----------
    path
        Where to listen.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started_with = environment_at_start()
        self.code = code_stamp()
        self.imports_set: dict[str, str] = {}
        self._steps: dict[int, socket.socket] = {}
        self._stale = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)  # a signal handler writes to it

    def run(self) -> None:
        """Import, listen, and serve; never returns."""
        warm_up()
        self.imports_set = {name: value for name, value in os.environ.items() if name not in self.started_with}
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the wake-up pipe carries it
        self._listen()
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while self._steps or not self._stale:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._woken in ready:
                os.read(self._woken, 512)
                self._reap()
            if self._listener.fileno() in ready:
                self._answer(self._listener.accept()[0])
        log.info("the code has changed: starting anew")
        self.path.unlink(missing_ok=True)
        os.execve(sys.executable, sys.orig_argv, self.started_with)  # noqa: S606  # itself

    def _listen(self) -> None:
        self.path.unlink(missing_ok=True)
        before = os.umask(0o177)
        with address_of(self.path) as address:
            self._listener.bind(address)
        os.umask(before)
        self._listener.listen()

    def _answer(self, connection: socket.socket) -> None:
        """Start the step that is asked for, or say why not."""
        descriptors: list[int] = []
        try:
            connection.settimeout(_REQUEST_SECONDS)
            if not is_own(connection):
                connection.close()
                return
            connection.send(READY)
            message, descriptors, _, _ = socket.recv_fds(connection, _REQUEST_BYTES, 2)
            if not message:  # somebody only looked whether it is well
                connection.close()
                return
            request = self._accepted(message, descriptors)
            connection.settimeout(None)
            self._steps[self._fork(request, descriptors)] = connection
            connection.send(STARTED)
        except NotWarmError as refusal:
            with suppress(OSError):
                connection.send(str(refusal).encode())
            connection.close()
        except OSError as error:
            log.warning("a request was dropped: %s", error)
            connection.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _accepted(self, message: bytes, descriptors: Sequence[int]) -> ForkRequest:
        """Return the request, unless a fork of this process would not be what it asks for."""
        request = ForkRequest.read(message)
        if len(descriptors) != 2:
            raise NotWarmError(f"the warm service was given {len(descriptors)} open files, not lifeline and output")
        if (request.code, request.python) != (guardian.__file__, sys.executable):
            raise NotWarmError("the warm service belongs to another installation")
        self._stale = self._stale or self.code != code_stamp()  # asked by a step only: an editor saves often
        if self._stale:
            raise NotWarmError("the code has changed since the warm service started")
        ours, asked = self.started_with, request.environment
        differ = {name for name in ours.keys() | asked.keys() if ours.get(name) != asked.get(name)}
        if wrong := sorted(name for name in differ if not name.startswith(MAY_DIFFER)):
            raise NotWarmError(f"the warm service has other values of {', '.join(wrong)}")
        return request

    def _fork(self, request: ForkRequest, descriptors: list[int]) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            code = self._guard(request, descriptors)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _guard(self, request: ForkRequest, descriptors: list[int]) -> int:
        """Be the guardian of a step; returns its exit code."""
        signal.set_wakeup_fd(-1)
        lifeline, output = descriptors
        for target, source in ((0, lifeline), (1, output), (2, output)):
            os.dup2(source, target)
        for opened in (*descriptors, self._woken, self._wake):
            os.close(opened)
        for connection in (self._listener, *self._steps.values()):
            connection.close()
        os.environ.clear()
        os.environ.update({**self.imports_set, **request.environment})
        limit, grace, scratch, command = guardian.parse(request.arguments)
        os.chdir(scratch)
        code = _Guardian(command, limit, grace).run()
        guardian.remove(scratch)
        return code

    def _reap(self) -> None:
        """Tell the exit codes of guardians that have ended."""
        while self._steps:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            with self._steps.pop(pid) as connection:
                try:
                    connection.send(str(code if code >= 0 else 128 - code).encode())
                except OSError as error:  # its caller is gone
                    log.debug("process %d: %s", pid, error)


def environment_at_start() -> dict[str, str]:
    """Return the environment this process was given: the interpreter adds to it (LC_CTYPE) before any code runs."""
    entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    pairs = [os.fsdecode(entry).partition("=") for entry in entries if b"=" in entry]
    return {name: value for name, _, value in pairs}


def code_stamp() -> tuple[tuple[str, int, int], ...]:
    """Return what changes with the lifecycle's code or with what is installed."""
    files = sorted(path for folder in CODE for path in folder.rglob("*.py"))
    stats = [(path, path.stat()) for path in (*files, Path(sysconfig.get_path("purelib")))]
    return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in stats)


def warm_up() -> None:
    """Import every step, and the libraries they import."""
    from evergreen.features.feast_repo import import_feast
    from evergreen.training.registry import import_mlflow

    import_feast()  # before torch: it does without
    import_mlflow()
    for name in (*(f"evergreen.steps.{step}" for step in STEPS), *LIBRARIES, "evergreen.cli"):
        try:
            importlib.import_module(name)
        except Exception as error:  # the step that needs it says so
            log.warning("cannot import %s: %s", name, error)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page it marks
    log.info("%d modules are imported", len(sys.modules))


def _renew() -> None:
    """Make anew what is made when a process starts, or a library is imported, and two processes must not share."""
    logging.root.handlers.clear()
    tempfile.tempdir = None
    sys.path[0] = str(Path.cwd())
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if loop := sys.modules.get("evidently.legacy.utils.sync"):
        importlib.reload(loop)  # it holds an event loop


def main() -> None:
    """Serve."""
    configure()
    Server(Path(sys.argv[1])).run()


if __name__ == "__main__":
    main()
