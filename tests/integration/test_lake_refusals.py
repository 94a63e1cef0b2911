"""What a real PostgreSQL refuses waits for a person; what may come back is tried again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import NullPool

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.data.lake_errors import lake_errors
from isolation import execute

pytestmark = pytest.mark.integration

STRANGER = "lake_errors_stranger"


@pytest.fixture(scope="module")
def stranger(postgres_url: str) -> Iterator[URL]:
    """The lake's database for a role that has no rights."""
    url = make_url(postgres_url).set(drivername="postgresql+psycopg", database="lake")
    engine = create_engine(url, poolclass=NullPool)
    for make in ("ROLE {} LOGIN", "TABLE {} (i int)", "DATABASE {}"):
        execute(engine, f"CREATE {make.format(STRANGER)}")
    execute(engine, f"REVOKE CONNECT ON DATABASE {STRANGER} FROM PUBLIC")
    # other tests make the schema anew, without the right that a new database gives to everybody
    execute(engine, f"GRANT USAGE ON SCHEMA public TO {STRANGER}")
    yield url.set(username=STRANGER)
    execute(engine, f"DROP OWNED BY {STRANGER}")
    for made in ("DATABASE", "TABLE", "ROLE"):
        execute(engine, f"DROP {made} {STRANGER}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "permission denied for table"),
        ({"database": STRANGER}, "permission denied for database"),
        ({"database": "nope"}, 'database "nope" does not exist'),
        ({"username": "nobody_at_all"}, 'role "nobody_at_all" does not exist'),
    ],
)
def test_a_database_that_will_go_on_refusing_waits_for_a_person(
    stranger: URL, change: dict[str, str], said: str
) -> None:
    engine = create_engine(stranger.set(**change), poolclass=NullPool)  # type: ignore[arg-type]
    with (
        pytest.raises(ConfigurationError, match=f"the table m.t: the lake's database: .*{said}"),
        lake_errors("the table m.t"),
    ):
        execute(engine, f"SELECT * FROM {STRANGER}")


def test_a_server_that_is_not_there_may_come_back(stranger: URL, tmp_path: object) -> None:
    engine = create_engine(stranger.update_query_dict({"host": str(tmp_path)}), poolclass=NullPool)
    with pytest.raises(TemporaryError, match=r"the lake's database: .*No such file"), lake_errors("the table m.t"):
        execute(engine, "SELECT 1")
