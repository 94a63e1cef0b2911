"""Hands a step to the warm service: a process that has the heavy libraries imported, and forks.

A step spends seconds on importing what a fork of a process that has done so gets for nothing. The fork becomes what
a step's process is otherwise: the guardian and under it the command, with exactly the environment, folder and pipes
it is given. Whatever stands in the way (no service, other code, another environment) is no failure: the caller is
told why, and starts a process as usual.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from evergreen.contract import TemporaryError
from evergreen_airflow.kubelet import guardian

READY, STARTED = b"ready", b"started"
_READY_SECONDS = 5.0
_STARTED_SECONDS = 30.0
_LARGEST_ANSWER = 4096


@dataclass(frozen=True)
class ForkRequest:
    """A step that is to be started; its lifeline and its output are sent beside it.

    Parameters
    ----------
    arguments
        The guardian's.
    environment
        All of the step's environment.
    code, python
        The caller's lifecycle code and interpreter.
    """

    arguments: list[str]
    environment: dict[str, str]
    code: str
    python: str

    @classmethod
    def read(cls, message: bytes) -> ForkRequest:
        """Return the request that a message is.

        Raises
        ------
        NotWarmError
            If it is none; nothing of it is told, for its environment has secrets.
        """
        with suppress(AttributeError, TypeError, ValueError):
            request = cls(**json.loads(message))
            values: list[object] = [*request.arguments, *request.environment.values(), request.code, request.python]
            if all(isinstance(value, str) for value in values):
                return request
        raise NotWarmError("the warm service does not understand the request")


class NotWarmError(Exception):
    """The step has to be started as a process of its own; the message says why."""


class WarmStep:
    """A step that runs as a fork of the warm service; as much of `subprocess.Popen` as its caller needs.

    Parameters
    ----------
    connection
        Tells the exit code; closes without one if the service itself ends.
    lifeline
        Held by this process alone: the step is stopped when it closes.
    output
        What the step prints.
    """

    def __init__(self, connection: socket.socket, lifeline: int, output: int) -> None:
        self._connection = connection
        self.stdin: TextIO = os.fdopen(lifeline, "w")
        self.stdout: TextIO = os.fdopen(output, encoding="utf-8", errors="backslashreplace")
        self._code: int | None = None

    def terminate(self) -> None:
        """Ask to stop; returns at once."""
        self.stdin.close()

    def wait(self) -> int:
        """Return the exit code, once nothing of the step is left.

        Raises
        ------
        NotWarmError
            If the service was killed, and the step with it.
        """
        if self._code is None:
            answer = _receive(self._connection)  # may be interrupted by Airflow's time limit, and asked again
            self._connection.close()
            if not answer:
                raise NotWarmError("the warm service was killed, and this step with it")
            self._code = int(answer)
        return self._code


def socket_path(state_dir: Path) -> Path:
    """Return where the service listens."""
    return state_dir / "run" / "warm.sock"


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Give a socket's address, by way of its opened folder: a socket's path may have 107 bytes at most."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def is_own(connection: socket.socket) -> bool:
    """Return whether the other end of a connection is a process of this user."""
    if sys.platform != "linux":
        return False
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", credentials)[1] == os.getuid())


def connect(path: Path) -> socket.socket:
    """Return a connection to the service, once it has answered.

    Raises
    ------
    NotWarmError
        If it does not.
    """
    if sys.platform != "linux":
        raise NotWarmError("there is no warm service on this system")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.settimeout(_READY_SECONDS)
        with address_of(path) as address:
            connection.connect(address)
        if not is_own(connection):
            raise NotWarmError(f"{path} is another user's")
        if connection.recv(len(READY)) != READY:
            raise NotWarmError("the warm service is ending")
    except OSError as error:
        connection.close()
        raise NotWarmError(f"the warm service does not answer: {error}") from error
    except NotWarmError:
        connection.close()
        raise
    return connection


def start(path: Path, options: Sequence[str], command: Sequence[str], environment: Mapping[str, str]) -> WarmStep:
    """Start a step as a fork of the service.

    Parameters
    ----------
    path
        The service's socket.
    options
        The guardian's, with a ``--scratch`` folder: the step's working folder.
    command
        The step's, as `evergreen_airflow.kubelet.guardian` takes it.
    environment
        All of the step's environment.

    Raises
    ------
    NotWarmError
        If it cannot be, or may not be; nothing was started.
    TemporaryError
        If the service took the step but does not say whether it runs.
    """
    connection = connect(path)
    request = ForkRequest([*options, "--", *command], dict(environment), guardian.__file__, sys.executable)
    (lifeline, held), (seen, output) = os.pipe(), os.pipe()
    try:
        socket.send_fds(connection, [json.dumps(asdict(request)).encode()], [lifeline, output])
        connection.settimeout(_STARTED_SECONDS)
        answer = connection.recv(_LARGEST_ANSWER)
        if answer != STARTED:
            raise NotWarmError(answer.decode() or "the warm service has ended")
        connection.settimeout(None)
        return WarmStep(connection, held, seen)
    except BaseException as error:
        for opened in (connection.detach(), held, seen):
            os.close(opened)  # the lifeline among them: whatever was started ends
        if isinstance(error, TimeoutError):
            raise TemporaryError("The warm service took the step but does not answer.", "See warm-steps.log.") from None
        if isinstance(error, OSError):
            raise NotWarmError(f"the warm service cannot be asked: {error}") from error
        raise
    finally:
        os.close(lifeline)
        os.close(output)


def _receive(connection: socket.socket) -> bytes:
    with suppress(OSError):
        return connection.recv(_LARGEST_ANSWER)
    return b""
