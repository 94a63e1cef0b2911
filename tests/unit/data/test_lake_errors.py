"""Which of the lake's troubles are tried again, and which wait for a person."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError, ProgrammingError

from evergreen.contract import ConfigurationError, StepError, TemporaryError
from evergreen.data.lake_errors import lake_errors, retrying


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ('password authentication failed for user "steps"', ConfigurationError),
        ('database "lake" does not exist', ConfigurationError),
        ("permission denied for table iceberg_tables", ConfigurationError),
        ("the database system is shutting down", TemporaryError),
    ],
)
def test_what_a_database_says_has_a_class(said: str, expected: type[StepError]) -> None:
    with pytest.raises(expected, match="the lake's database"), lake_errors("the table m.t"):
        raise OperationalError("SELECT", {}, Exception(said))


@pytest.mark.parametrize(
    ("said", "attempts"), [("relation iceberg_tables does not exist", 2), ("permission denied for table x", 1)]
)
def test_a_lost_race_is_tried_again_and_a_refusal_is_not(said: str, attempts: int) -> None:
    made = []

    def create() -> None:
        made.append(1)
        if len(made) < 2:
            raise ProgrammingError("CREATE", {}, Exception(said))

    if attempts == 1:
        with pytest.raises(ProgrammingError):
            retrying(10)(create)
    else:
        retrying(10)(create)
    assert len(made) == attempts
