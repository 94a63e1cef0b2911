"""MLflow and PostgreSQL behind TLS of a private authority: verified, and refused at once where they cannot be."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest

from certificate_kit import self_signed
from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError, Window
from evergreen.data.lake import get_lake
from evergreen.features.feast_repo import definitions, get_feature_store
from evergreen.settings import Settings, get_settings
from evergreen.training.registry import by_alias
from evergreen_laptop import postgres
from evergreen_laptop.postgres import EmbeddedPostgres
from installation import free_ports
from process_kit import eventually

pytestmark = pytest.mark.integration


class NoSuchModel(BaseHTTPRequestHandler):
    """Answers as MLflow does of a model that it does not know."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()
        self.wfile.write(b'{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such model"}')


@contextmanager
def served(certificate: Path | None) -> Iterator[int]:
    """Serve it on 127.0.0.1, with a certificate or without TLS; yields the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), NoSuchModel)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join(30)
    server.server_close()


@pytest.mark.parametrize(
    ("host", "trusted", "encrypted", "said"),
    [
        ("127.0.0.1", True, True, None),
        ("127.0.0.1", False, True, "Name the authority of its certificate in REQUESTS_CA_BUNDLE"),
        ("localhost", True, True, "a host that the certificate is for"),
        ("127.0.0.1", True, False, "it speaks no TLS"),
    ],
)
def test_mlflow_with_a_certificate_that_is_not_accepted_is_configuration_at_once(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    host: str,
    trusted: bool,
    encrypted: bool,
    said: str | None,
) -> None:
    """MLflow itself asks again for as long as it asks a server that is away: the steps wait, and are retried."""
    both, authority = self_signed(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")  # 28 s
    if trusted:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
    with served(both if encrypted else None) as port:
        monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", f"https://{host}:{port}")
        get_settings.cache_clear()
        if said is None:
            assert by_alias("m", "champion") is None
            return
        began = time.monotonic()
        with pytest.raises(ConfigurationError, match=said) as caught:
            by_alias("m", "champion")
    assert time.monotonic() - began < 20, "asked again"
    assert f"https://{host}:{port}" in str(caught.value)


BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
"""Debian's: the embedded server is built without TLS."""


@pytest.fixture(scope="module")
def authority() -> Iterator[tuple[Path, Path]]:
    """A certificate for 127.0.0.1 with its key, and alone; in a folder that the server's account may enter."""
    folder = Path(tempfile.mkdtemp(prefix="ca-"))
    folder.chmod(0o755)
    yield self_signed(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def database(authority: tuple[Path, Path]) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that speaks TLS with that certificate, and has all databases."""
    if not BINARIES:
        pytest.skip("needs a PostgreSQL with TLS: apt install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="tls-"))
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres, "binaries", lambda: BINARIES[-1].parent)
        embedded = EmbeddedPostgres(Settings(state_dir=folder, postgres_port=port))
        embedded.prepare()
        certificate = embedded.folder / "server.pem"
        shutil.copyfile(authority[0], certificate)
        certificate.chmod(0o600)
        owner = embedded.data.stat()
        os.chown(certificate, owner.st_uid, owner.st_gid)
        with (embedded.data / "postgresql.conf").open("a") as file:
            file.write(f"ssl = on\nssl_cert_file = '{certificate}'\nssl_key_file = '{certificate}'\n")
        command = embedded.command()
    server = subprocess.Popen(command, env=postgres.plain_environment(), start_new_session=True)
    try:
        assert eventually(lambda: _answers(embedded))
        postgres.create_databases(embedded.url)
        yield embedded
    finally:
        os.killpg(server.pid, signal.SIGQUIT)  # at once: nothing in it is worth a checkpoint
        server.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(embedded: EmbeddedPostgres) -> bool:
    try:
        postgres.connect(embedded.url).close()
    except psycopg.OperationalError:
        return False
    return True


def use_lake() -> None:
    day = Window(start=date(2013, 3, 1), end=date(2013, 3, 1))
    get_lake.cache_clear()
    get_lake().write("tls", "t", pa.table({"ds": ["2013-03-01"], "value": [1]}), day)


def use_feast() -> None:
    get_feature_store.cache_clear()
    store = get_feature_store()
    spec = load_model("flight_delay")
    store.apply(definitions(spec))
    (view,) = spec.features.views[:1]
    keys = [dict.fromkeys(view.entities, "UA")]
    store.get_online_features(features=[f"{spec.feast_name(view)}:{view.features[0]}"], entity_rows=keys)


@pytest.mark.parametrize("in_the_address", [True, False])
def test_every_client_of_the_database_verifies_it(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    database: EmbeddedPostgres,
    authority: tuple[Path, Path],
    in_the_address: bool,
) -> None:
    """The catalog, Feast's registry and online store, and MLflow's store; as the chart says it, and otherwise."""
    query = "?sslmode=verify-full" + (f"&sslrootcert={authority[1]}" if in_the_address else "")
    monkeypatch.setenv("PGSSLROOTCERT", "" if in_the_address else str(authority[1]))
    monkeypatch.setenv("EVERGREEN_DATABASE_URL", f"{database.url}{query}")
    get_settings.cache_clear()
    use_lake()
    use_feast()
    from mlflow.store.db.utils import create_sqlalchemy_engine_with_retry

    create_sqlalchemy_engine_with_retry(get_settings().database("mlflow")).dispose()
    with postgres.connect(database.url) as connection:
        plain = (
            "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE NOT ssl AND usename IS NOT NULL"
        )
        assert connection.execute(f"{plain} AND pid <> pg_backend_pid()").fetchone() == (0,)


@pytest.mark.parametrize(
    ("host", "mode", "trusted", "said"),
    [
        ("127.0.0.1", "verify-full", "", "in PGSSLROOTCERT"),
        ("127.0.0.1", "verify-full", "another", "in PGSSLROOTCERT"),
        ("localhost", "verify-full", "it", "a host that the database's certificate is for"),
        ("127.0.0.1", "verify_full", "it", "Correct sslmode in EVERGREEN_DATABASE_URL"),
    ],
)
def test_a_database_that_cannot_be_verified_is_configuration_at_once(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    database: EmbeddedPostgres,
    authority: tuple[Path, Path],
    host: str,
    mode: str,
    trusted: str,
    said: str,
) -> None:
    file = {"it": authority[1], "another": self_signed(tmp_path)[1], "": tmp_path / "none"}[trusted]
    monkeypatch.setenv("PGSSLROOTCERT", str(file))
    url = database.url.replace("127.0.0.1", host)
    monkeypatch.setenv("EVERGREEN_DATABASE_URL", f"{url}?sslmode={mode}")
    get_settings.cache_clear()
    for use in (use_lake, use_feast):
        began = time.monotonic()
        with pytest.raises(ConfigurationError, match=said):
            use()
        assert time.monotonic() - began < 20, "asked again"


def test_a_database_without_tls_is_configuration_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, database: EmbeddedPostgres
) -> None:
    monkeypatch.setenv("EVERGREEN_DATABASE_URL", f"{database.url}?sslmode=require")
    get_settings.cache_clear()
    _switch(database, "SET ssl = off")
    try:
        for use in (use_lake, use_feast):
            with pytest.raises(ConfigurationError, match="Switch TLS on at the database"):
                use()
    finally:
        _switch(database, "RESET ssl")


def _switch(database: EmbeddedPostgres, how: str) -> None:
    with postgres.connect(database.url) as connection:
        connection.autocommit = True
        connection.execute(f"ALTER SYSTEM {how}")
        connection.execute("SELECT pg_reload_conf()")
    expected = ("off",) if how.startswith("SET") else ("on",)

    def switched() -> bool:
        with postgres.connect(database.url) as connection:
            return connection.execute("SHOW ssl").fetchone() == expected

    assert eventually(switched)
