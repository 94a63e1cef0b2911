"""``evergreen serve``: what its process is given before anything of it runs."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

from evergreen.cli import app


@pytest.mark.parametrize(("told", "seconds"), [(None, "2"), ("7", "7")])
def test_a_server_waits_two_seconds_for_a_postgresql_to_let_it_in(
    monkeypatch: pytest.MonkeyPatch, told: str | None, seconds: str
) -> None:
    seen: list[str | None] = []
    monkeypatch.setattr("evergreen.logs.configure", lambda: None)  # it would replace pytest's handlers
    monkeypatch.setattr(
        "evergreen.serving.server.run_server", lambda *_, **__: seen.append(os.environ.get("PGCONNECT_TIMEOUT"))
    )
    for name in ("EVERGREEN_MLFLOW_RETRY_SECONDS", "PGCONNECT_TIMEOUT"):
        monkeypatch.setenv(name, told or "")  # so that it is put back afterwards
        if told is None:
            monkeypatch.delenv(name)
    done = CliRunner().invoke(app, ["serve"])
    assert done.exit_code == 0, done.output
    assert seen == [seconds]
