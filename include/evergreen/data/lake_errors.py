"""What databases, file systems and other writers raise, by class; and trying again after a lost race."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from evergreen.contract import ConfigurationError, DataError, StepError, TemporaryError
from evergreen.store.base import FULL, UNTRUSTED, retrying

if TYPE_CHECKING:
    from tenacity import Retrying


def retrying_races(seconds: float) -> Retrying:
    """Return a retrier for lost races: another process committed, or created the catalog's tables, first."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException
    from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

    def lost(error: BaseException) -> bool:
        races = (CommitFailedException, ValidationException, IntegrityError, ProgrammingError)
        return isinstance(error, races) and not (isinstance(error, DBAPIError) and refused(error.orig))

    return retrying(lost, seconds)


@contextmanager
def lake_errors(what: str) -> Iterator[None]:
    """Name the class of what databases and file systems raise."""
    from pyiceberg.exceptions import CommitFailedException, ValidationException
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (CommitFailedException, ValidationException) as error:
        raise TemporaryError(f"{what}: other writers kept committing first: {error}.") from error
    except DBAPIError as error:
        message = f"{what}: the lake's database: {error.orig}."
        if refused(error.orig):
            hint = "Check EVERGREEN_DATABASE_URL, the role's rights and the disk."
            raise ConfigurationError(message, encryption_hint(error.orig) or hint) from error
        raise TemporaryError(message, "Is the database up?") from error
    except OSError as error:
        raise _of_files(what, error) from error


def _of_files(what: str, error: OSError) -> StepError:
    """Name the class of what a file system raises, local or S3: only silence and a busy server pass by themselves."""
    if isinstance(error, PermissionError):
        return ConfigurationError(f"{what}: {error}.", "Check EVERGREEN_LAKE_ROOT and the rights on it.")
    if isinstance(error, FileNotFoundError):
        return DataError(
            f"{what}: a file that its catalog names is gone: {error}.",
            "Is EVERGREEN_LAKE_ROOT what it was, and its volume mounted? If so restore the file from your backup, "
            "or drop the table and backfill it.",
        )
    if error.errno in FULL or _S3_FULL in str(error):
        return ConfigurationError(
            f"{what}: {error}.", "The lake's disk or bucket is full: make room, then clear the task."
        )
    if UNTRUSTED.search(str(error)):
        return ConfigurationError(f"{what}: {error}.", "Name the authority of S3's certificate in SSL_CERT_FILE.")
    hint = "Check EVERGREEN_LAKE_ROOT, EVERGREEN_S3_ENDPOINT, the AWS_* keys and the disk."
    if any(name in str(error) for name in _S3_REFUSALS) or _S3_REFUSED.search(str(error)):
        return ConfigurationError(f"{what}: {error}.", hint)
    return TemporaryError(f"{what}: {error}.", hint)


def refused(error: BaseException | None) -> bool:
    """Tell whether a database will go on refusing, from what its driver has raised."""
    state: str | None = getattr(error, "sqlstate", None)
    if state is not None:
        return state in {_NO_RIGHT, _DISK_FULL} or state.startswith(_NO_ENTRY)
    return any(words in str(error) for words in _ENTRY_REFUSALS) or bool(encryption_hint(error))


def encryption_hint(error: BaseException | None) -> str:
    """Return what to do about a database that cannot be spoken to as ``sslmode`` asks; empty if that is not it."""
    message = str(error)
    if UNTRUSTED.search(message) or "root certificate file" in message:
        return "Name the file with the authority of the database's certificate in PGSSLROOTCERT (the chart's caBundle)."
    if "does not match host name" in message:
        return "In EVERGREEN_DATABASE_URL write a host that the database's certificate is for."
    if "does not support SSL" in message:
        return "Switch TLS on at the database (ssl = on), or write sslmode=disable in EVERGREEN_DATABASE_URL."
    return "Correct sslmode in EVERGREEN_DATABASE_URL." if "invalid sslmode" in message else ""


_NO_RIGHT = "42501"
_DISK_FULL = "53100"
_NO_ENTRY = ("28", "3D")
"""SQLSTATE, and classes of it: insufficient privilege; wrong user or password, no such database."""
_ENTRY_REFUSALS = ("authentication failed", "permission denied", "no pg_hba.conf entry", '" does not exist')
"""What PostgreSQL says to who may not connect: libpq does not pass on its SQLSTATE."""
_S3_REFUSALS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "NO_SUCH_BUCKET")
"""The AWS SDK's names of what S3 will go on refusing; PyArrow passes them on in its messages only."""
_S3_FULL = "HTTP status 507"
_S3_REFUSED = re.compile(r"HTTP status 4(?!08|29)\d\d")
"""Of what that SDK has no name for: a request that is refused, but neither too late nor one too many."""
