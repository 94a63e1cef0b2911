"""A real MLflow server for tests that need one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from installation import free_ports


@contextmanager
def serve_mlflow(folder: Path, options: list[str], variables: dict[str, str]) -> Iterator[str]:
    """Run an MLflow server; yields its address."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", f"--backend-store-uri=sqlite:///{folder}/mlflow.db"]
    command += [f"--artifacts-destination={folder}/artifacts", f"--port={port}", "--host=127.0.0.1", "--workers=1"]
    fixed = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *options],
            env={**os.environ, **fixed, **variables},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(server, f"{url}/health", folder / "server.log")
            yield url
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer within {seconds} s: {log.read_text()}")
