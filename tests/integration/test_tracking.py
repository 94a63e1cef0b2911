"""The run of a training in a real MLflow, found again whenever the step was killed."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from uuid import uuid4

import pytest

from evergreen.contract import TemporaryError
from evergreen.settings import Settings, get_settings
from evergreen.training.registry import TAG, by_alias, by_run, connect
from evergreen.training.signatures import stated_of_run
from evergreen.training.tracking import find_run, start_run
from installation import free_ports

pytestmark = pytest.mark.integration
PARAMS = {"epochs": 5, "network": "network.py:build"}


def test_a_run_is_created_once_with_tags_and_parameters(mlflow_settings: Settings) -> None:
    model, key = f"model-{uuid4()}", uuid4().hex
    first = start_run(model, "one", key, {"partition": "2013-03-01"}, PARAMS)
    assert start_run(model, "one", key, {"partition": "2013-03-01"}, PARAMS) == first
    assert start_run(model, "other", uuid4().hex, {}, PARAMS) != first
    found = connect().get_run(first)
    assert found.info.run_name == "one"
    assert found.data.params == {"epochs": "5", "network": "network.py:build"}
    assert found.data.tags.items() >= {f"{TAG}run_key": key, f"{TAG}partition": "2013-03-01"}.items()


def test_a_run_whose_step_was_killed_before_it_logged_gets_its_parameters(mlflow_settings: Settings) -> None:
    model, key = f"model-{uuid4()}", uuid4().hex
    client = connect()
    killed = client.create_run(client.create_experiment(model), tags={f"{TAG}run_key": key}).info.run_id
    assert start_run(model, "one", key, {}, PARAMS) == killed
    assert client.get_run(killed).data.params == {"epochs": "5", "network": "network.py:build"}


@pytest.fixture
def deaf(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """An MLflow whose server accepts connections and closes them without a word; yields one entry for each."""
    asked: list[int] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            asked.append(1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")  # count, and do not wait
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
        monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
        yield asked
        server.shutdown()


@pytest.mark.parametrize(("seconds", "retries"), [("0", 1), ("4", 2), ("60", 5), ("120", 6), ("300", 8), ("600", 10)])
def test_an_mlflow_that_is_away_is_asked_for_as_long_as_the_setting_says(
    deaf: list[int], monkeypatch: pytest.MonkeyPatch, seconds: str, retries: int
) -> None:
    monkeypatch.setenv("EVERGREEN_MLFLOW_RETRY_SECONDS", seconds)
    get_settings.cache_clear()
    with pytest.raises(TemporaryError, match=r"MLflow at http://127\.0\.0\.1"):
        find_run("m", "key")
    assert len(deaf) == retries + 1


def test_an_mlflow_that_goes_away_is_temporary_wherever_it_is_asked(
    mlflow_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"model-{uuid4()}"
    run = start_run(model, "one", "key", {}, PARAMS)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_ports(1)[0]}")
    get_settings.cache_clear()
    for use in (
        lambda: start_run(model, "one", "key", {}, PARAMS),
        lambda: by_alias(model, "champion"),
        lambda: by_run(model, run),
        lambda: stated_of_run(model, run),
    ):
        with pytest.raises(TemporaryError, match="Is the server up"):
            use()
