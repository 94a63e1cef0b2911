"""The server as people run it: a process that follows a real MLflow, under load while things around it go wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import httpx
import pyarrow as pa
import pytest
import yaml
from sqlalchemy.engine import make_url

from evergreen.contract import Window
from evergreen.serving.log_files import log_keys, read_log
from evergreen.serving.tokens import create_token
from evergreen.settings import get_settings
from evergreen.store import get_store
from evergreen.training.registry import CHAMPION, Version, by_run, connect, remove_alias, set_alias, set_tags
from installation import free_ports
from isolation import own_settings
from lifecycle_kit import PARTITION, Run, training_rows, write_model
from mlflow_kit import serve_mlflow

ROW = {"x": 2.0, "gap": None, "site": "north", "hour": "5"}
WINDOW = Window(start=PARTITION - timedelta(days=59), end=PARTITION - timedelta(days=20))


@pytest.fixture(scope="module")
def registered(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Version, Version]]:
    """Two signed versions of a model, in an MLflow of their own."""
    folder = tmp_path_factory.mktemp("live")
    with (
        own_settings(folder, postgres_url, used=("audit", "serving")),
        serve_mlflow(folder, [], {}) as url,
        pytest.MonkeyPatch.context() as patch,
    ):
        name = write_model(folder / "models", "binary")
        path = folder / "models" / name / "model.yaml"
        # no request is refused for a machine that is slow
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "serving": {"maximum_wait_ms": 30_000}}))
        patch.setenv("EVERGREEN_MODELS_DIR", str(folder / "models"))
        patch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", url)
        patch.setenv("EVERGREEN_SERVING_FOLLOW_SECONDS", "0.2")
        patch.setenv("EVERGREEN_SERVING_DRAIN_SECONDS", "0.2")
        get_settings.cache_clear()
        versions = []
        for number in range(2):
            run = Run(name, f"run-{number}")
            run.assemble()
            run.train_without_ray(training_rows("binary").iloc[number * 200 :], WINDOW)
            versions.append(_registered(run))
        yield versions[0], versions[1]


@pytest.fixture
def live(registered: tuple[Version, Version]) -> Iterator[tuple[Version, Version]]:
    """Those versions; none is champion."""
    yield registered
    remove_alias(registered[0].model, CHAMPION)


def _registered(run: Run) -> Version:
    from evergreen.store import read_manifest
    from evergreen.training.registration import register
    from evergreen.training.signatures import stated_of_run

    trained = read_manifest(get_store(), run.identity("train"))
    assert trained
    signed = stated_of_run(run.model, str(trained.facts["run_id"]))
    register(signed, "A small model.", signed.bound.facts)
    version = by_run(run.model, signed.bound.run_id)
    assert version
    return version


class Asker:
    """Asks in threads until told to stop, and keeps every answer."""

    def __init__(self, port: int, token: str, model: str) -> None:
        self.url, self.headers = f"http://127.0.0.1:{port}/models/{model}/predict", {"Authorization": f"Bearer {token}"}
        self.answers: list[tuple[int, str, str]] = []
        self.lost = 0
        self._stop = threading.Event()

    def once(self, client: httpx.Client) -> None:
        """Ask once."""
        try:
            answer = client.post(self.url, json=ROW, headers=self.headers)
        except httpx.TransportError:
            self.lost += 1
            return
        row = answer.json().get("predictions", [{}])[0]
        self.answers.append((answer.status_code, row.get("version", ""), row.get("prediction_id", "")))

    @contextmanager
    def asking(self, threads: int = 4) -> Iterator[None]:
        """Ask all the time."""

        def ask() -> None:
            with httpx.Client(timeout=30) as client:
                while not self._stop.is_set():
                    self.once(client)

        with ThreadPoolExecutor(threads) as pool:
            done = [pool.submit(ask) for _ in range(threads)]
            try:
                yield
            finally:
                self._stop.set()
            for one in done:
                one.result()


class Server:
    """``evergreen serve`` as a process."""

    def __init__(self, model: str, *options: str) -> None:
        (self.port,) = free_ports(1)
        self.model, self.token = model, create_token("test", "test")
        command = [sys.executable, "-m", "evergreen", "serve", f"--model={model}", f"--port={self.port}", *options]
        self.log = get_settings().state_dir / f"serve-{self.port}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # what this process has told its own MLflow client is not the server's business
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_HTTP")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def wait(self, condition: Callable[[], bool], seconds: float = 90) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def healthy(self, how: str) -> bool:
        """Whether it says that it is ``live``, or ``ready``."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/v2/health/{how}").status_code == 200
        except httpx.TransportError:
            return False

    def ready(self) -> bool:
        """Whether it can be asked."""
        return self.healthy("ready")

    def answers(self, version: str) -> bool:
        """Whether a version answers now."""
        asker = self.asker()
        with httpx.Client() as client:
            asker.once(client)
        return bool(asker.answers) and asker.answers[0][:2] == (200, version)

    def asker(self) -> Asker:
        """Return somebody who asks it."""
        return Asker(self.port, self.token, self.model)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it."""
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def serving(model: str, *options: str) -> Iterator[Server]:
    """Run a server until the end of the block."""
    server = Server(model, *options)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


def _logged(model: str) -> list[str]:
    store = get_store()
    return read_log(store, log_keys(store, model), {"prediction_id": pa.string()}).table["prediction_id"].to_pylist()


def test_a_server_without_a_champion_refuses_to_start(live: tuple[Version, Version]) -> None:
    with serving(live[0].model) as server:
        assert server.process.wait(90) == 78
        assert "no champion yet" in server.log.read_text()


def test_a_server_that_waits_is_ready_when_there_is_a_champion(live: tuple[Version, Version]) -> None:
    with serving(live[0].model, "--wait") as server:
        server.wait(lambda: server.healthy("live"))
        assert not server.ready()
        set_alias(live[0], CHAMPION)
        server.wait(server.ready)
        assert server.answers(live[0].number)


def test_an_alias_that_moves_fifty_times_drops_no_request(live: tuple[Version, Version]) -> None:
    set_alias(live[0], CHAMPION)
    with serving(live[0].model) as server:
        server.wait(server.ready)
        asker = server.asker()
        with asker.asking():
            for move in range(1, 51):
                set_alias(live[move % 2], CHAMPION)
                time.sleep(0.1)
            set_alias(live[1], CHAMPION)
            server.wait(lambda: server.answers(live[1].number))
        assert server.stop() == 0
        statuses = {status for status, _, _ in asker.answers}
        assert (statuses, asker.lost) == ({200}, 0)
        assert {version for _, version, _ in asker.answers} == {version.number for version in live}
        assert set(_logged(server.model)) >= {identity for _, _, identity in asker.answers}


def test_a_server_that_is_told_to_stop_under_load_drops_no_request(
    live: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_SERVING_DRAIN_SECONDS", "5")
    set_alias(live[0], CHAMPION)
    with serving(live[0].model) as server:
        server.wait(server.ready)
        asker = server.asker()
        with asker.asking():
            server.wait(lambda: len(asker.answers) > 100)
            server.process.send_signal(signal.SIGTERM)
            server.wait(lambda: not server.ready())
            told = len(asker.answers)
            server.wait(lambda: len(asker.answers) > told + 20)  # not ready, and it answers on
        # nobody asks any more, as nobody does who goes by its readiness
        assert server.process.wait(60) == 0
        assert {status for status, _, _ in asker.answers} == {200}
        assert asker.lost == 0
        assert set(_logged(server.model)) >= {identity for _, _, identity in asker.answers}


def test_a_version_that_was_changed_never_takes_the_place_of_one_that_was_not(live: tuple[Version, Version]) -> None:
    set_alias(live[0], CHAMPION)
    with serving(live[0].model) as server:
        server.wait(server.ready)
        set_tags(live[1], {"training_end": "2030-01-01"})
        set_alias(live[1], CHAMPION)
        server.wait(lambda: f"version {live[0].number} serves on" in server.log.read_text())
        assert server.ready()
        assert server.answers(live[0].number)
        connect().set_model_version_tag(live[1].model, live[1].number, "evergreen.training_end", str(WINDOW.end))
        server.wait(lambda: server.answers(live[1].number))


def test_a_registry_that_is_away_stops_no_answer(
    live: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(get_settings().mlflow_tracking_uri)
    with gate:
        monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", gate.url)
        set_alias(live[0], CHAMPION)
        with serving(live[0].model) as server:
            server.wait(server.ready)
            asker = server.asker()
            with asker.asking(2):
                gate.close()
                server.wait(lambda: f"version {live[0].number} serves on" in server.log.read_text())
                set_alias(live[1], CHAMPION)
                gate.open()
                server.wait(lambda: server.answers(live[1].number))
            assert {status for status, _, _ in asker.answers} == {200}
            assert asker.lost == 0


def test_a_server_that_is_killed_under_load_loses_no_record_of_an_answer(live: tuple[Version, Version]) -> None:
    set_alias(live[0], CHAMPION)
    asked: list[tuple[int, str, str]] = []
    with serving(live[0].model) as server:
        server.wait(server.ready)
        asker = server.asker()
        with asker.asking():
            server.wait(lambda: len(asker.answers) > 200)
            server.stop(signal.SIGKILL)
        asked = [answer for answer in asker.answers if answer[0] == 200]
    with serving(live[0].model) as again:
        again.wait(again.ready)
        again.wait(lambda: set(_logged(again.model)) >= {identity for _, _, identity in asked})
        assert again.stop() == 0
    assert len(asked) > 200


def test_a_database_that_cannot_be_reached_takes_nobody_s_token_away(
    live: tuple[Version, Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_alias(live[0], CHAMPION)
    address = get_settings().database_url
    assert address
    folder = make_url(address.get_secret_value()).query["host"]
    way = tmp_path / "way"  # to the server's socket
    way.symlink_to(str(folder))
    monkeypatch.setenv(
        "EVERGREEN_DATABASE_URL", address.get_secret_value().replace(quote(str(folder), safe=""), str(way))
    )
    get_settings.cache_clear()
    assert str(way) in get_settings().database("serving")
    with serving(live[0].model) as server:
        server.wait(server.ready)
        assert server.answers(live[0].number)
        way.unlink()
        server.wait(lambda: "tokens of before go on to count" in server.log.read_text())
        assert server.answers(live[0].number)
    get_settings.cache_clear()


class _Gate:
    """A way to a server that can be closed: what goes through it is cut, and nobody is let in."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)
        (self.port,) = free_ports(1)
        user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
        self.url = urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{self.port}"))
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Let connections through."""
        code = (
            "import asyncio, sys\n"
            "async def pipe(reader, writer):\n"
            "    try:\n"
            "        while data := await reader.read(65536):\n"
            "            writer.write(data); await writer.drain()\n"
            "    except OSError: pass\n"
            "    writer.close()\n"
            "async def serve(reader, writer):\n"
            f"    up_reader, up_writer = await asyncio.open_connection({self._target[0]!r}, {self._target[1]})\n"
            "    await asyncio.gather(pipe(reader, up_writer), pipe(up_reader, writer))\n"
            "async def main():\n"
            f"    server = await asyncio.start_server(serve, '127.0.0.1', {self.port})\n"
            "    print('open', flush=True)\n"
            "    await server.serve_forever()\n"
            "asyncio.run(main())\n"
        )
        self._process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert self._process.stdout
        assert self._process.stdout.readline() == b"open\n"

    def close(self) -> None:
        """Cut what goes through it."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)

    def __enter__(self) -> _Gate:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
