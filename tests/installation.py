"""A whole installation of its own: a state folder, services on free ports."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from evergreen.settings import PROJECT_ROOT

PORTS = ("POSTGRES", "AIRFLOW", "MLFLOW", "SERVING")
TWO_WEEKS = ("loop", "--start=2013-01-29", "--through=2013-02-11", "--step=week")
"""Four weeks of history, then two weeks that arrive one after the other."""


@dataclass(frozen=True)
class Installation:
    """One running Evergreen."""

    state: Path
    environment: dict[str, str]

    def run(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run an ``evergreen`` command to its end; a failure shows what it printed."""
        done = subprocess.run(
            self._command(arguments), env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"evergreen {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start an ``evergreen`` command and leave it running."""
        return subprocess.Popen(
            self._command(arguments),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "evergreen_laptop", *arguments]


def free_ports(count: int) -> list[int]:
    """Return ports nobody uses, which no connection is given as its own end before a server takes them.

    Connections are given ports from 32768 on (Linux) or 49152 on (macOS), and so is who binds to port 0; Ray takes its
    own from 10002 to 23999.
    """
    free: list[int] = []
    with ExitStack() as stack:
        for port in random.sample(range(24_000, 32_000), 200):
            probe = stack.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                free.append(port)
            if len(free) == count:
                return free
    raise AssertionError(f"no {count} free ports")


@contextmanager
def installed(
    models: Callable[[Path], Path] | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[Installation]:
    """Start services with nothing in them, and remove everything afterwards.

    ``models`` makes the models folder inside the given one; without it, the project's own models are used.
    ``variables`` are set on top of the environment.
    """
    # a short path: socket paths are limited to 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="e2e-"))
    folder.chmod(0o755)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "AIRFLOW", "MLFLOW"))
    }
    ports = {f"EVERGREEN_{name}_PORT": str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    models_dir = models(folder) if models else PROJECT_ROOT / "include" / "models"
    locations = {"EVERGREEN_STATE_DIR": str(folder / "state"), "EVERGREEN_MODELS_DIR": str(models_dir)}
    made = Installation(folder / "state", {**kept, **ports, **locations, "COLUMNS": "200", **(variables or {})})
    try:
        made.run("up")
        yield made
    finally:
        made.run("down")
        shutil.rmtree(folder, ignore_errors=True)
