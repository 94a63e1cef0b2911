"""Which of the lake's troubles are tried again, and which wait for a person."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from psycopg import errors
from sqlalchemy.exc import OperationalError, ProgrammingError

from evergreen.contract import ConfigurationError, DataError, StepError, TemporaryError
from evergreen.data.lake_errors import lake_errors, retrying_races


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        (
            errors.InsufficientPrivilege("keine Berechtigung f\N{LATIN SMALL LETTER U WITH DIAERESIS}r Tabelle"),
            ConfigurationError,
        ),
        (errors.InvalidPassword("mot de passe"), ConfigurationError),
        (errors.UndefinedTable('relation "permission denied" does not exist'), TemporaryError),
        (errors.DiskFull("could not extend file"), ConfigurationError),
        (errors.TooManyConnections("sorry, too many clients already"), TemporaryError),
        (errors.AdminShutdown("the database system is shutting down"), TemporaryError),
        (
            errors.OperationalError('connection failed: FATAL:  password authentication failed for user "s"'),
            ConfigurationError,
        ),
        (errors.OperationalError("connection failed: FATAL:  no pg_hba.conf entry for host"), ConfigurationError),
        (errors.OperationalError("connection failed: SSL error: certificate verify failed"), ConfigurationError),
        (errors.OperationalError('server certificate for "db" does not match host name "d"'), ConfigurationError),
        (errors.OperationalError("server does not support SSL, but SSL was required"), ConfigurationError),
        (errors.OperationalError("SSL SYSCALL error: EOF detected"), TemporaryError),
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
            retrying_races(10)(create)
    else:
        retrying_races(10)(create)
    assert len(made) == attempts


def _write_to_a_full_disk() -> None:
    from pyarrow.fs import LocalFileSystem

    with LocalFileSystem().open_output_stream("/dev/full") as file:
        file.write(b"x" * 100_000)


def _read_what_is_gone() -> None:
    from pyarrow.fs import LocalFileSystem

    LocalFileSystem().open_input_file("/nowhere/00001.metadata.json")


def _raise(error: OSError) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "expected", "said"),
    [
        (_write_to_a_full_disk, ConfigurationError, "make room"),
        (_raise(OSError(errno.EDQUOT, "Disk quota exceeded")), ConfigurationError, "make room"),
        (_raise(OSError("AWS Error UNKNOWN (HTTP status 507) during PutObject")), ConfigurationError, "make room"),
        (_raise(OSError("AWS Error UNKNOWN (HTTP status 403) during PutObject")), ConfigurationError, "AWS_"),
        (_raise(OSError("AWS Error UNKNOWN (HTTP status 429) during PutObject")), TemporaryError, "AWS_"),
        (_raise(OSError("AWS Error UNKNOWN (HTTP status 503) during PutObject")), TemporaryError, "AWS_"),
        (_raise(OSError("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 28")), TemporaryError, ""),
        (_raise(OSError(errno.EIO, "Input/output error")), TemporaryError, "disk"),
        (_read_what_is_gone, DataError, "backup"),
    ],
)
def test_of_what_files_raise_only_what_passes_by_itself_is_temporary(
    act: Callable[[], None], expected: type[StepError], said: str
) -> None:
    if act is _write_to_a_full_disk and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(expected, match=r"the table m\.t: ") as raised, lake_errors("the table m.t"):
        act()
    assert said in raised.value.hint
