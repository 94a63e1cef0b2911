"""Where a process crashed, as far as its last lines tell."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_FATAL = "Fatal Python error: "
_FRAME = re.compile(r'^  File "([^"]+)", line (\d+) in (.+)$')
_NATIVE = re.compile(r"PC: @\s+0x[0-9a-f]+\s+\S+\s+(\w.*)$")
_MODULES = re.compile(r"\(total: \d+\)$")


class CrashReport:
    """Reads a log line by line; its text is the last crash in it, empty if there is none.

    Python's faulthandler, which every step has enabled, writes the error and the Python stack of the thread that
    crashed; the native handler of Ray's core, where Ray runs, writes the native function.
    """

    def __init__(self) -> None:
        self._error = self._function = self._frame = ""

    def read(self, line: str) -> None:
        """Take in the next line of the log."""
        if line.startswith(_FATAL):
            self._error, self._frame = line.removeprefix(_FATAL), ""
        elif self._error and not self._frame and (frame := _FRAME.match(line)):
            self._frame = f"{_place(frame[1])}:{frame[2]} in {frame[3]}"
        elif native := _NATIVE.search(line):
            self._function = native[1]

    def __str__(self) -> str:
        native = f" in {self._function}" if self._function else ""
        called = f", called from {self._frame}" if self._frame else ""
        return f"{self._error}{native}{called}" if self._error else ""


def is_list_of_modules(line: str) -> bool:
    """Tell whether a line is faulthandler's last: every extension module that was loaded, kilobytes of them."""
    return _MODULES.search(line) is not None


def _place(file: str) -> str:
    """Return a file from its library on: ``ray/_private/worker.py``."""
    for folder in ("/site-packages/", "/dist-packages/"):
        if folder in file:
            return file.rpartition(folder)[2]
    return "/".join(PurePosixPath(file).parts[-2:])
