"""The embedded PostgreSQL lets each role into its own databases only, also after an earlier version's upgrade."""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from evergreen.settings import DATABASES, OWNERS, Settings, user_settings
from evergreen_laptop.credentials import Credentials
from evergreen_laptop.postgres import EmbeddedPostgres, connect, create_databases, plain_environment
from evergreen_laptop.roles import SERVED_FROM, SERVER, ensure_roles, role_of, role_url
from evergreen_laptop.services import build_services
from installation import free_ports

pytestmark = pytest.mark.integration
CREDENTIALS = Credentials()

FORMER = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TABLE things (id serial PRIMARY KEY, other integer GENERATED ALWAYS AS IDENTITY, mood mood);
CREATE SEQUENCE alone;
CREATE VIEW seen AS SELECT * FROM things;
CREATE FUNCTION one() RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE SCHEMA more;
CREATE TABLE more.things (id integer);
CREATE TABLE more."{odd}" (id integer);
INSERT INTO things (mood) VALUES ('good');
"""
"""Made by the one superuser that an earlier version had for everything."""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A server of an earlier version, with something in every database, that this version has started twice."""
    folder = Path(tempfile.mkdtemp(prefix="eg-"))
    (port,) = free_ports(1)
    embedded = EmbeddedPostgres(Settings(state_dir=folder, postgres_port=port))
    embedded.prepare()
    (embedded.folder / "password").chmod(0o644)  # somebody restored a backup, say
    embedded.prepare()
    process = subprocess.Popen(embedded.command(), env=plain_environment(), start_new_session=True)
    try:
        _wait(embedded, process)
        create_databases(embedded.url)
        for name in DATABASES:
            with connect(embedded.url, name) as connection:
                connection.execute(FORMER)
        for _ in range(2):
            ensure_roles(embedded.url, CREDENTIALS.database_passwords)
        yield embedded
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(embedded: EmbeddedPostgres, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        assert process.poll() is None
        try:
            connect(embedded.url).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


def _as(server: EmbeddedPostgres, owner: str, database: str) -> psycopg.Connection:
    return connect(role_url(server.url, owner, CREDENTIALS.database_passwords[owner]), database)


@pytest.mark.parametrize(
    ("owner", "database"),
    [(owner, name) for owner in CREDENTIALS.database_passwords for name in OWNERS.get(owner, ())],
)
def test_a_role_owns_what_an_earlier_version_made_in_its_databases(
    server: EmbeddedPostgres, owner: str, database: str
) -> None:
    with _as(server, owner, database) as connection:
        connection.execute("INSERT INTO things (mood) VALUES ('bad')")
        assert connection.execute("SELECT count(*), max(other) FROM seen").fetchone() == (2, 2)
        for change in (
            "ALTER TABLE things ADD COLUMN extra text",
            "ALTER TABLE more.things ADD COLUMN extra text",
            'ALTER TABLE more."{odd}" ADD COLUMN extra text',
            "ALTER TYPE mood ADD VALUE 'middling'",
            "ALTER SEQUENCE alone RESTART",
            "DROP FUNCTION one()",
            "DROP VIEW seen",
            "CREATE TABLE new (id integer)",
        ):
            connection.execute(change)
        mine = connection.execute(
            "SELECT count(*) FILTER (WHERE relowner = current_user::regrole), count(*) FROM pg_class"
            " WHERE relnamespace IN ('public'::regnamespace, 'more'::regnamespace)"
        ).fetchone()
        assert mine
        assert mine[0] == mine[1] > 5


@pytest.mark.parametrize("owner", CREDENTIALS.database_passwords)
def test_a_role_enters_no_other_database(server: EmbeddedPostgres, owner: str) -> None:
    read = {"audit"} if owner != "mlflow" else set()  # which the steps add to, Airflow and the server read
    read |= set(SERVED_FROM) if owner == SERVER else set()
    for database in {*DATABASES, "postgres", "template1"} - {*OWNERS.get(owner, ())} - read:
        with pytest.raises(psycopg.OperationalError, match=f'permission denied for database "{database}"'):
            _as(server, owner, database)


@pytest.mark.parametrize("database", SERVED_FROM)
def test_the_server_reads_what_the_steps_have_and_will_have_in_two_databases(
    server: EmbeddedPostgres, database: str
) -> None:
    with _as(server, "steps", database) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS later (id integer)")
    with _as(server, SERVER, database) as connection:
        for table in ("things", "later"):
            connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(table)))
        for change in ("INSERT INTO later VALUES (1)", "DELETE FROM things", "CREATE TABLE mine (id integer)"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(change)


@pytest.mark.parametrize(
    "statement",
    [
        "COPY things FROM PROGRAM 'echo 1'",
        "COPY (SELECT 1) TO PROGRAM 'cat'",
        "COPY (SELECT 1) TO '/tmp/of_the_steps'",
        "SELECT pg_read_file('/etc/passwd')",
        "CREATE ROLE another SUPERUSER",
        "ALTER ROLE evergreen_steps SUPERUSER",
        "ALTER ROLE evergreen_airflow PASSWORD 'known'",
        "CREATE DATABASE another",
        "SET ROLE evergreen_airflow",
        "ALTER SYSTEM SET fsync = off",
        "SELECT rolpassword FROM pg_authid",
    ],
)
def test_the_steps_run_no_programs_and_become_nobody_else(server: EmbeddedPostgres, statement: str) -> None:
    with _as(server, "steps", "lake") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET event = '{}'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "DROP TABLE audit_log",
        "ALTER TABLE audit_log DISABLE TRIGGER ALL",
        "CREATE TABLE another ()",
        "SET session_replication_role = replica",
        "SET ROLE evergreen_audit",
    ],
)
def test_the_steps_add_to_the_audit_log_and_change_nothing(server: EmbeddedPostgres, statement: str) -> None:
    with _as(server, "steps", "audit") as connection:
        connection.execute(
            "INSERT INTO audit_log VALUES ('m', 1, now(), '{}', '', '', NULL) ON CONFLICT DO NOTHING RETURNING number"
        )
        assert connection.execute("SELECT count(*) FROM audit_log").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)


def test_nobody_logs_in_as_the_owner_of_the_audit_log(server: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        connect(role_url(server.url, "audit", "any"), "audit")
    with connect(server.url, "audit") as connection:
        owner = connection.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'audit_log'").fetchone()
        assert owner == (role_of("audit"),)
        for statement in ("UPDATE audit_log SET event = ''", "DELETE FROM audit_log", "TRUNCATE audit_log"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="only ever added to"):
                connection.execute(statement)


def test_the_superuser_may_what_the_steps_may_not(server: EmbeddedPostgres) -> None:
    with connect(server.url, "lake") as connection:
        connection.execute("COPY (SELECT 1) TO PROGRAM 'cat > /dev/null'")
        assert connection.execute("SELECT count(*) FROM pg_authid").fetchone()


@pytest.mark.parametrize("apart", [True, False])
def test_a_server_of_one_s_own_is_used_by_the_roles_that_are_given(
    settings: Settings, postgres_url: str, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    with connect(postgres_url) as connection:
        for owner in OWNERS:
            connection.execute(f"DROP ROLE IF EXISTS {role_of(owner)}; CREATE ROLE {role_of(owner)} LOGIN PASSWORD 'x'")
    monkeypatch.setenv("EVERGREEN_DATABASE_URL", role_url(postgres_url, "steps", "x"))
    for owner in ("airflow", "mlflow") if apart else ():
        monkeypatch.setenv(f"EVERGREEN_{owner.upper()}_DATABASE_URL", role_url(postgres_url, owner, "x"))
    user = user_settings()
    services = {service.name: service for service in build_services(user)}
    assert "postgres" not in services
    config = configparser.RawConfigParser()
    config.read(user.state_dir / "airflow" / "airflow.cfg")
    used = {"airflow": config["database"]["sql_alchemy_conn"]}
    used["mlflow"] = services["mlflow"].environment["MLFLOW_BACKEND_STORE_URI"]
    assert {urlsplit(url).username for url in used.values()} == (
        {role_of("airflow"), role_of("mlflow")} if apart else {role_of("steps")}
    )
    told = user.config_file.read_text() + user.secrets_file.read_text()
    assert role_of("steps") in told
    assert role_of("airflow") not in told
    assert role_of("mlflow") not in told


def test_a_password_is_asked_for_and_its_file_is_private(server: EmbeddedPostgres) -> None:
    address = urlsplit(server.url)
    for user in (role_of("steps"), "evergreen"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://{user}:wrong@{address.hostname}:{address.port}/lake")
    assert (server.folder / "password").stat().st_mode & 0o777 == 0o600
    assert server.folder.stat().st_mode & 0o777 == 0o700
