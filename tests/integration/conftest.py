"""Real servers of the integration tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evergreen.settings import Settings, get_settings
from installation import free_ports


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on a free port of loopback; its address."""
    with serve_mlflow(tmp_path_factory.mktemp("mlflow"), [], {}) as url:
        yield url


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


@pytest.fixture
def mlflow_settings(settings: Settings, mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of this test that point to the session's MLflow."""
    monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", mlflow_server)
    get_settings.cache_clear()
    return get_settings()
