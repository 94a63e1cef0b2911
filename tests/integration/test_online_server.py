"""The feature server over real HTTP: the online store of real flights, for who holds the token, for reading only."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import date

import httpx
import pytest

from data_steps import MODEL, day, run_all
from evergreen.contract import Window
from evergreen.data.lake import get_lake
from installation import free_ports
from isolation import own_settings

pytestmark = pytest.mark.integration
TOKEN = "0123456789abcdef" * 4
TWO_DAYS = Window(start=date(2013, 1, 30), end=date(2013, 1, 31))
ASKED = {"features": [f"{MODEL}_carrier_history:carrier_late_rate"], "entities": {"carrier": ["UA", "none"]}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[httpx.Client]:
    """A client of the server, without the token."""
    (port,) = free_ports(1)
    with own_settings(tmp_path_factory.mktemp("online"), postgres_url):
        run_all(TWO_DAYS)
        process = subprocess.Popen(
            [sys.executable, "-m", "evergreen.features.online_server", f"--port={port}"],
            env={**os.environ, "EVERGREEN_FEAST_TOKEN": TOKEN},
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
                _await_health(client, process)
                yield client
        finally:
            process.terminate()
            assert process.wait(30) in {0, -15}


def _await_health(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if client.get("/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not come up: {process.poll()}")


def test_with_the_token_it_answers_from_the_online_store(server: httpx.Client) -> None:
    answer = server.post("/get-online-features", json=ASKED, headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200, answer.text
    names = answer.json()["metadata"]["feature_names"]
    found = answer.json()["results"][names.index("carrier_late_rate")]
    newest = get_lake().read(MODEL, "carrier_history", day(str(TWO_DAYS.end))).to_pandas().set_index("carrier")
    assert found["values"] == [pytest.approx(newest.loc["UA", "carrier_late_rate"]), None]


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", TOKEN, f"Basic {TOKEN}"])
def test_without_it_nothing_is_told(server: httpx.Client, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given}
    answer = server.post("/get-online-features", json=ASKED, headers=headers)
    assert answer.status_code == 401
    assert "results" not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/push"),
        ("POST", "/write-to-online-store"),
        ("POST", "/materialize"),
        ("GET", "/docs"),
        ("GET", "/chat"),
        ("GET", "/get-online-features"),
        ("POST", "//get-online-features"),
    ],
)
def test_nobody_writes(server: httpx.Client, method: str, path: str) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert server.request(method, path, json={}, headers=headers).status_code == 403
    assert server.request(method, path, json={}).status_code == 401


@pytest.mark.parametrize("token", ["", "short"])
def test_a_token_that_could_be_guessed_is_refused(token: str) -> None:
    environment = {**os.environ, "EVERGREEN_FEAST_TOKEN": token}
    done = subprocess.run(
        [sys.executable, "-c", "from evergreen.features.online_server import read_token; read_token()"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "EVERGREEN_FEAST_TOKEN has" in done.stderr
