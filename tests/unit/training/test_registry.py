"""Talking to MLflow does not import Feast: MLflow would, before its first request."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
if len(sys.argv) > 1:
    from evergreen.training.registry import connect
    connect()
from mlflow.tracking.request_header.registry import resolve_request_headers
assert "user-agent" in {name.lower() for name in resolve_request_headers()}, resolve_request_headers()
print("feast" in sys.modules)
"""


def imports_feast(*arguments: str) -> bool:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1] == "True"


def test_mlflows_first_request_does_not_import_feast() -> None:
    assert not imports_feast("connect")


def test_mlflow_alone_would_import_it() -> None:
    """Fails when MLflow or Feast has changed: then the way around is no longer needed."""
    assert imports_feast()
