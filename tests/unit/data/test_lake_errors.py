"""Which of the lake's troubles are tried again, and which wait for a person."""

from __future__ import annotations

import pytest
from psycopg import errors
from sqlalchemy.exc import OperationalError, ProgrammingError

from evergreen.contract import ConfigurationError, StepError, TemporaryError
from evergreen.data.lake_errors import lake_errors, retrying


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        (
            errors.InsufficientPrivilege("keine Berechtigung f\N{LATIN SMALL LETTER U WITH DIAERESIS}r Tabelle"),
            ConfigurationError,
        ),
        (errors.InvalidPassword("mot de passe"), ConfigurationError),
        (errors.UndefinedTable('relation "permission denied" does not exist'), TemporaryError),
        (errors.AdminShutdown("the database system is shutting down"), TemporaryError),
        (
            errors.OperationalError('connection failed: FATAL:  password authentication failed for user "s"'),
            ConfigurationError,
        ),
        (errors.OperationalError("connection failed: FATAL:  no pg_hba.conf entry for host"), ConfigurationError),
        (errors.OperationalError("connection failed: FATAL:  the database system is starting up"), TemporaryError),
    ],
)
def test_the_state_counts_and_not_the_server_s_language(original: Exception, expected: type[StepError]) -> None:
    with pytest.raises(expected, match="the lake's database"), lake_errors("the table m.t"):
        raise OperationalError("SELECT", {}, original)


@pytest.mark.parametrize(
    ("original", "attempts"),
    [
        (errors.UndefinedTable("relation iceberg_tables does not exist"), 2),
        (errors.DuplicateTable("relation iceberg_tables already exists"), 2),
        (errors.InsufficientPrivilege("keine Berechtigung"), 1),
    ],
)
def test_a_lost_race_is_tried_again_and_a_refusal_is_not(original: Exception, attempts: int) -> None:
    made = []

    def create() -> None:
        made.append(1)
        if len(made) < 2:
            raise ProgrammingError("CREATE", {}, original)

    if attempts == 1:
        with pytest.raises(ProgrammingError):
            retrying(10)(create)
    else:
        retrying(10)(create)
    assert len(made) == attempts
