"""A whole installation of its own: services on free ports, a state folder, a scaled-down model."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from evergreen.settings import PROJECT_ROOT

PORTS = ("POSTGRES", "AIRFLOW", "AIRFLOW_WORKER_LOG", "AIRFLOW_TRIGGERER_LOG", "MLFLOW")
LOOP = ("loop", "--start=2013-01-15", "--through=2013-01-28", "--step=week")
"""Two weeks of history, then two weeks that arrive one after the other."""
SMALLER = {
    "windows": {
        "training_days": 10,
        "evaluation_days": 4,
        "minimum_training_rows": 2000,
        "minimum_evaluation_rows": 500,
    },
    "drift": {"minimum_rows": 500, "current_days": 4, "reference": "training"},
    "retraining": {"cooldown_days": 0, "minimum_new_labels": 100},
    "gate": {"resamples": 200, "limits": {}},
    "training": {"epochs": 5, "batch_size": 256},
}
"""What differs from the real model: windows that fit into four weeks of winter, and less work."""


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
        return [sys.executable, "-m", "evergreen", *arguments]


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        return [opened.getsockname()[1] for opened in sockets]


def scaled_models(folder: Path) -> Path:
    """Copy the model and make its windows small."""
    models = folder / "models"
    shutil.copytree(
        PROJECT_ROOT / "include" / "models" / "flight_delay",
        models / "flight_delay",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    path = models / "flight_delay" / "model.yaml"
    spec = yaml.safe_load(path.read_text())
    for section, values in SMALLER.items():
        spec[section].update(values)
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return models


@pytest.fixture
def installation() -> Iterator[Installation]:
    """Services that are up, with nothing in them; stopped afterwards."""
    # a short path: socket paths are limited to 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="e2e-"))
    folder.chmod(0o755)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "AIRFLOW", "MLFLOW"))
    }
    ports = {f"EVERGREEN_{name}_PORT": str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    locations = {"EVERGREEN_STATE_DIR": str(folder / "state"), "EVERGREEN_MODELS_DIR": str(scaled_models(folder))}
    made = Installation(folder / "state", {**kept, **ports, **locations, "COLUMNS": "200"})
    try:
        made.run("up")
        yield made
    finally:
        made.run("down")
        shutil.rmtree(folder, ignore_errors=True)
