"""The lock around Feast's writes, in a real PostgreSQL: it is held, given back, and its loss is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.features.exclusive import exclusive
from evergreen.settings import Settings
from installation import free_ports
from isolation import inside

pytestmark = pytest.mark.integration
LOCKED = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"


def connect(settings: Settings) -> psycopg.Connection:
    url = make_url(settings.database("feast")).set(drivername="postgresql")
    return psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)


@pytest.fixture
def somebody(lake_settings: Settings) -> Iterator[psycopg.Connection]:
    with closing(connect(lake_settings)) as connection:
        yield connection


def locks(connection: psycopg.Connection) -> int:
    row = connection.execute(LOCKED).fetchone()
    assert row is not None
    return int(row[0])


def test_it_is_held_while_the_block_runs_and_belongs_to_a_transaction(somebody: psycopg.Connection) -> None:
    """A session's lock would stay with the server's connection that a pooler gives to somebody else."""
    with exclusive("test"):
        assert locks(somebody) == 1
        assert not somebody.execute("SELECT pg_try_advisory_lock(hashtext('evergreen test'))").fetchone()[0]  # type: ignore[index]
        (query,) = somebody.execute(
            "SELECT query FROM pg_stat_activity WHERE pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
        ).fetchone() or ("",)
        assert "pg_advisory_xact_lock" in query
    assert locks(somebody) == 0


def test_the_time_outs_of_an_installation_do_not_end_it(somebody: psycopg.Connection, lake_settings: Settings) -> None:
    somebody.execute("ALTER DATABASE feast SET idle_in_transaction_session_timeout = '200ms'")
    try:
        with exclusive("test"), closing(connect(lake_settings)) as idle:
            idle.autocommit = False
            idle.execute("SELECT 1")
            while somebody.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [idle.info.backend_pid]).fetchone():
                somebody.execute("SELECT pg_sleep(0.05)")  # whoever was idle since later than the lock is thrown out
            assert locks(somebody) == 1
    finally:
        somebody.execute("ALTER DATABASE feast RESET idle_in_transaction_session_timeout")


def test_its_loss_is_noticed(somebody: psycopg.Connection) -> None:
    with pytest.raises(TemporaryError, match="test: the lock in the feature registry's database was lost"):  # noqa: SIM117
        with exclusive("test"):
            somebody.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")


@pytest.mark.parametrize(
    ("change", "expected", "message"),
    [
        ({"username": "nobody"}, ConfigurationError, 'role "nobody" does not exist'),
        ({"host": "127.0.0.1", "query": {}}, TemporaryError, "onnection refused"),
    ],
)
def test_what_the_database_says_has_its_class(
    lake_settings: Settings, change: dict[str, Any], expected: type[Exception], message: str
) -> None:
    assert lake_settings.database_url is not None
    url = make_url(lake_settings.database_url.get_secret_value()).set(**change)
    if "host" in change:
        url = url.set(port=free_ports(1)[0])
    refused(url.render_as_string(hide_password=False), expected, message)


def test_a_database_that_is_not_there_is_a_mistake(lake_settings: Settings, postgres_server: str) -> None:
    assert lake_settings.database_url is not None
    with closing(psycopg.connect(postgres_server, autocommit=True)) as administrator:
        # tests before this one may have left connections to it in a pool
        administrator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'feast'")
        administrator.execute("ALTER DATABASE feast RENAME TO elsewhere")
        try:
            url = lake_settings.database_url.get_secret_value()
            refused(url, ConfigurationError, 'database "feast" does not exist')
        finally:
            administrator.execute("ALTER DATABASE elsewhere RENAME TO feast")


def refused(url: str, expected: type[Exception], message: str) -> None:
    with inside({"EVERGREEN_DATABASE_URL": url}), pytest.raises(expected, match=message), exclusive("test"):
        pytest.fail("there is no lock")


def test_a_wrong_statement_stays_the_bug_that_it_is(lake_settings: Settings) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ProgrammingError

    engine = create_engine(lake_settings.database("feast"))
    with pytest.raises(ProgrammingError), exclusive("test"), engine.connect() as connection:
        connection.execute(text("SELECT nonsense FROM nowhere"))
    engine.dispose()
