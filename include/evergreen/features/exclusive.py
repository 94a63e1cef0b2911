"""One process at a time writes to Feast: a lock in the registry's database."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.data.lake_errors import encryption_hint, refused
from evergreen.settings import get_settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

_LOCK_SECONDS = 300
"""How long to wait for another process that applies or materializes before giving up as temporary."""
_IN_USE_SECONDS = 20
"""How often the lock's transaction is used: proxies and firewalls cut connections that nobody uses for a minute."""
_TRANSIENT = ("08", "40", "53", "55P03", "57")
"""SQLSTATEs and classes of them: connection, lost race, out of resources, lock not to be had, server going down."""


@contextlib.contextmanager
def exclusive(what: str) -> Iterator[None]:
    """Hold a lock in the registry's database: Feast's own writes are not safe against each other.

    It belongs to a transaction that stays open. A session's lock would stay behind with the session when a pooler
    (PgBouncer in transaction mode) gives that to somebody else.

    Raises
    ------
    ConfigurationError
        If the database refuses the user, or is not there.
    TemporaryError
        If the database does not answer, the lock cannot be had in five minutes, or was lost meanwhile: then another
        process may have written as well, and the work has to be repeated.
    """
    from sqlalchemy import NullPool, create_engine

    engine = create_engine(get_settings().database("feast"), poolclass=NullPool)
    with _classified(what), engine.connect() as connection, connection.begin():
        _lock(connection, f"evergreen {what}")
        with _in_use(connection, what):
            yield


def _lock(connection: Connection, name: str) -> None:
    from sqlalchemy import text

    # an installation's time-outs would end the transaction, and with it the lock, while Feast works on another one
    connection.execute(
        text("SELECT set_config(name, '0', true) FROM pg_settings WHERE name = ANY(:names)"),
        {"names": ["idle_in_transaction_session_timeout", "transaction_timeout"]},  # the second since PostgreSQL 17
    )
    connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": name})


@contextlib.contextmanager
def _in_use(connection: Connection, what: str) -> Iterator[None]:
    """Use a connection now and then while the block runs; find out at its end whether it was there all the time."""
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    done = threading.Event()

    def use() -> None:
        with contextlib.suppress(DBAPIError):  # the block's end meets it again
            while not done.wait(_IN_USE_SECONDS):
                connection.execute(text("SELECT 1"))

    user = threading.Thread(target=use, name="feast-lock", daemon=True)
    user.start()
    try:
        yield
    finally:
        done.set()
        user.join()
    try:
        connection.execute(text("SELECT 1"))
    except DBAPIError as error:
        raise TemporaryError(
            f"{what}: the lock in the feature registry's database was lost: {error.orig}.",
            "Another process may have written meanwhile: it is done again.",
        ) from error


@contextlib.contextmanager
def _classified(what: str) -> Iterator[None]:
    """Name the class of what the database says; a statement that is wrong stays a bug."""
    import psycopg
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (DBAPIError, psycopg.Error) as error:  # Feast's registry raises the first, its online store the second
        cause = error.orig if isinstance(error, DBAPIError) else error
        message = f"{what}: the feature store's database: {str(cause).strip()}."
        if refused(cause):
            hint = "Check EVERGREEN_DATABASE_URL and the role's rights."
            raise ConfigurationError(message, encryption_hint(cause) or hint) from error
        state = getattr(cause, "sqlstate", None)
        if isinstance(cause, psycopg.OperationalError) if state is None else state.startswith(_TRANSIENT):
            raise TemporaryError(message, "Is the database up?") from error
        raise
