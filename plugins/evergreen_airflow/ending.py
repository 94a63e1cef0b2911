"""How a step's pod or process ended, seen from outside."""

from __future__ import annotations

import re
import signal
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import PurePosixPath
from typing import Any

from evergreen.contract import FailureClass, failure_class_of

_SIGNALLED = frozenset({129, 130, 143})
"""Ended by SIGHUP, SIGINT or SIGTERM: someone else's decision, e.g. a node that is drained."""
_CANNOT_START = frozenset({126, 127})
_CRASHES = frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGSEGV})
"""Signals that native code (a library, the interpreter) brings upon its own process."""
_FATAL = "Fatal Python error: "
_FRAME = re.compile(r'^  File "([^"]+)", line (\d+) in (.+)$')
_NATIVE = re.compile(r"PC: @\s+0x[0-9a-f]+\s+\S+\s+(\w.*)$")
_MODULES = re.compile(r"\(total: \d+\)$")
"""Faulthandler's last line: every extension module that was loaded, kilobytes of them."""


@dataclass(frozen=True)
class Ending:
    """How a step's pod or process ended, seen from outside."""

    exit_code: int | None
    """None: it cannot be told, e.g. the pod is gone."""
    detail: str = ""
    """Its last words."""
    failure_class: FailureClass | None = None
    """Set when the surroundings, not the step, decided: a deadline, an eviction."""
    ran: bool = True
    """False: its container never started."""
    hint: str = ""

    @property
    def crash(self) -> str:
        """The signal by which its native code died, e.g. ``SIGSEGV``; empty if it ended otherwise."""
        if self.exit_code is None or self.failure_class:
            return ""
        number = -self.exit_code if self.exit_code < 0 else self.exit_code - 128  # a child's code, or a container's
        return signal.Signals(number).name if number in _CRASHES else ""

    @property
    def cause(self) -> FailureClass:
        """The failure class, as far as it can be told without a manifest."""
        if self.failure_class or self.exit_code is None or self.exit_code in _SIGNALLED or self.crash:
            return self.failure_class or FailureClass.TEMPORARY
        if self.exit_code in _CANNOT_START:
            return FailureClass.CONFIGURATION
        return failure_class_of(self.exit_code)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {**asdict(self), "failure_class": self.failure_class and self.failure_class.value}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Ending:
        """Return the ending that `as_dict` wrote, in a triggerer that may be of another version."""
        known = {field.name: document[field.name] for field in fields(cls) if field.name in document}
        failure_class = known.get("failure_class")
        return cls(**{**known, "failure_class": FailureClass(failure_class) if failure_class else None})

    def __str__(self) -> str:
        ended = "ended" if self.ran else "never started"
        if self.exit_code is not None:
            ended = f"{ended} with exit code {self.exit_code}"
        if self.crash:
            ended = f"{ended}, {self.crash}"
        return f"{ended} ({self.detail})" if self.detail else ended


class LastWords:
    """Reads a log line by line; its text is the line that says most about the end.

    Parameters
    ----------
    lines
        How many of the last lines count; default: all.
    """

    def __init__(self, lines: int | None = None) -> None:
        self._tail: deque[str] = deque(maxlen=lines)
        self._error = self._function = self._frame = ""

    def read(self, line: str) -> None:
        """Take in the next line of the log."""
        if line.startswith(_FATAL):
            self._error, self._frame = line.removeprefix(_FATAL), ""
        elif self._error and not self._frame and (frame := _FRAME.match(line)):
            self._frame = f"{_place(frame[1])}:{frame[2]} in {frame[3]}"
        elif native := _NATIVE.search(line):
            self._function = native[1]
        if line.strip() and not _MODULES.search(line):
            self._tail.append(line.strip())

    @property
    def crash(self) -> str:
        """Where the process crashed, by the last crash in the log; empty if there is none.

        Python's faulthandler, which every step has enabled, writes the error and the Python stack of the thread that
        crashed; the native handler of Ray's core, where Ray runs, writes the native function.
        """
        native = f" in {self._function}" if self._function else ""
        called = f", called from {self._frame}" if self._frame else ""
        return f"{self._error}{native}{called}" if self._error else ""

    def __str__(self) -> str:
        errors = [line for line in self._tail if line.startswith(("error: ", "guardian: "))]
        return (errors or list(self._tail) or [""])[-1]


def _place(file: str) -> str:
    """Return a file from its library on: ``ray/_private/worker.py``."""
    for folder in ("/site-packages/", "/dist-packages/"):
        if folder in file:
            return file.rpartition(folder)[2]
    return "/".join(PurePosixPath(file).parts[-2:])
