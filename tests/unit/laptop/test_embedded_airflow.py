"""Which Airflow `evergreen loop` drives: the one that is named, else this machine's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from evergreen.contract import ConfigurationError
from evergreen.settings import get_settings, user_settings
from evergreen_laptop import embedded_airflow
from evergreen_laptop.credentials import credentials_file, ensure_credentials


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("EVERGREEN_STATE_DIR", str(tmp_path))
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_a_secret_that_a_newer_version_has_added_is_kept_for_it() -> None:
    before = ensure_credentials(user_settings())
    path = credentials_file(user_settings())
    path.write_text(json.dumps({**json.loads(path.read_text()), "database_serving": "s3cret"}))
    assert ensure_credentials(user_settings()).airflow_fernet_key == before.airflow_fernet_key
    assert json.loads(path.read_text())["database_serving"] == "s3cret"


def _account(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The account that the client logs in with."""
    seen: dict[str, str] = {}

    class Client:
        def __init__(self, url: str, user: str, password: str) -> None:
            seen.update(url=url, user=user, password=password)

    monkeypatch.setattr("evergreen_airflow.rest_api.AirflowApi", Client)
    embedded_airflow.connect()
    return seen


def test_the_named_one_with_its_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_AIRFLOW_URL", "http://evergreen-api-server.evergreen.svc:8080")
    monkeypatch.setenv("EVERGREEN_AIRFLOW_USER", "operator")
    with pytest.raises(ConfigurationError, match=r"EVERGREEN_AIRFLOW_PASSWORD is not set.*'operator'"):
        embedded_airflow.connect()
    monkeypatch.setenv("EVERGREEN_AIRFLOW_PASSWORD", "s3cret")
    get_settings.cache_clear()
    url = "http://evergreen-api-server.evergreen.svc:8080"
    assert _account(monkeypatch) == {"url": url, "user": "operator", "password": "s3cret"}
    assert embedded_airflow.addresses()["Airflow"] == url
    assert "Passwords" not in embedded_airflow.addresses()


def test_else_this_machine_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="evergreen up"):
        embedded_airflow.connect()
    made = ensure_credentials(user_settings())
    account = _account(monkeypatch)
    assert (account["user"], account["password"]) == ("admin", made.airflow_admin)
    assert account["url"].startswith("http://127.0.0.1:")
    assert embedded_airflow.addresses()["Passwords"].startswith(str(tmp_path))


@pytest.mark.parametrize(("arguments", "code"), [(["dags", "--help"], 0), (["dags", "list"], 78)])
def test_only_airflow_s_help_needs_no_airflow(tmp_path: Path, arguments: list[str], code: int) -> None:
    command = [sys.executable, "-m", "evergreen_laptop", "airflow", *arguments]
    environment = {**os.environ, "EVERGREEN_STATE_DIR": str(tmp_path / "state")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == code, done.stderr
    assert ("Usage: airflow dags" in done.stdout) is (code == 0)
    assert ("evergreen up" in done.stderr) is (code != 0)


def test_what_reads_this_machine_s_services_asks_no_proxy_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop itself reads manifests, from an S3 on loopback say; a company's proxy knows nothing of that."""
    ensure_credentials(user_settings())
    monkeypatch.setenv("NO_PROXY", "intern.example.com")
    monkeypatch.setenv("no_proxy", "intern.example.com")  # put back after the test, whatever is written meanwhile
    _account(monkeypatch)
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == "intern.example.com,127.0.0.1,localhost"
