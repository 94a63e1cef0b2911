"""Where the audit log is kept: records in PostgreSQL, which lets nobody change them, the head in the artifact store.

docs/decisions/audit.md says what is refused when something is wrong with either, and what is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.settings import get_settings
from evergreen.store import ArtifactStore
from evergreen.trust.chain import Head, Record

if TYPE_CHECKING:
    import psycopg

DATABASE = "audit"
TABLES = Path(__file__).with_name("audit.sql")
_COLUMNS: LiteralString = "model, number, at, event, previous, hash, signature"


def records_of(model: str) -> list[Record]:
    """Return a model's records by number, as they are: nothing is verified here."""
    with _connected() as connection:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM audit_log WHERE model = %s ORDER BY number",  # noqa: S608  # a constant
            (model,),
        )
        return [Record(*row) for row in rows]


def newest_number(model: str) -> int:
    """Return the number of a model's newest record, 0 if it has none: who has read that far, need not read again."""
    with _connected() as connection:
        row = connection.execute("SELECT max(number) FROM audit_log WHERE model = %s", (model,)).fetchone()
        return int(row[0] or 0) if row else 0


def models_in_log() -> list[str]:
    """Return every model that has a record."""
    with _connected() as connection:
        return [row[0] for row in connection.execute("SELECT DISTINCT model FROM audit_log ORDER BY model")]


def insert(record: Record) -> bool:
    """Add a record whose number nobody has taken; returns whether this call did.

    The primary key decides: of any number of writers one takes a number, the others judge again.
    """
    with _connected() as connection:
        done = connection.execute(
            f"INSERT INTO audit_log ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s) "  # noqa: S608
            "ON CONFLICT DO NOTHING RETURNING number",
            tuple(vars(record).values()),
        )
        return done.fetchone() is not None


def create_tables(connection: psycopg.Connection, writers: Sequence[str] = (), readers: Sequence[str] = ()) -> None:
    """Make the table, its trigger and what roles may do with it; what exists is kept.

    Parameters
    ----------
    connection
        To the database, as its owner or an administrator.
    writers
        Roles that may read and add, and no more: the steps'.
    readers
        Roles that may read.
    """
    from psycopg import sql

    connection.execute(TABLES.read_bytes())
    database = sql.Identifier(connection.info.dbname)
    for role in (*writers, *readers):
        rights = "SELECT, INSERT" if role in writers else "SELECT"
        connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, sql.Identifier(role)))
        connection.execute(sql.SQL("GRANT {} ON audit_log TO {}").format(sql.SQL(rights), sql.Identifier(role)))


def head_key(model: str) -> str:
    """Return the artifact key of a log's head."""
    return f"audit/{model}/head.json"


def read_head(store: ArtifactStore, model: str) -> Head | None:
    """Return how far a model's log had come when somebody with the key last wrote to it; None if the file is lost.

    Raises
    ------
    BrokenLogError
        If the file is not what somebody with the key has written for this model.
    """
    content = store.read(head_key(model))
    if content is None:
        return None
    return Head.verified(content, model, f"{store.uri(head_key(model))}: the head of the audit log of {model}")


def write_head(store: ArtifactStore, record: Record) -> None:
    """Keep a signed record as the head, unless a later one is there already."""
    assert record.signature is not None  # noqa: S101  # an observation is no head
    key, new = head_key(record.model), record.signature.encode()
    while True:
        old, head = store.read(key), read_head(store, record.model)
        if head is not None and head.number >= record.number:
            return
        if store.create(key, new) if old is None else store.replace(key, old, new):
            return


@contextmanager
def _connected() -> Iterator[psycopg.Connection]:
    """Yield a connection; names the class of what goes wrong with it.

    Raises
    ------
    ConfigurationError
        If the database or its table is not there, or this role may not do what it wants.
    TemporaryError
        If the server does not answer.
    """
    import psycopg

    address = get_settings().database(DATABASE).replace("postgresql+psycopg:", "postgresql:", 1)
    try:
        with psycopg.connect(address, connect_timeout=10) as connection:
            yield connection
    except psycopg.Error as error:
        text = " ".join(str(error).split())
        if isinstance(error, psycopg.errors.UndefinedTable) or f'database "{DATABASE}" does not exist' in text:
            raise ConfigurationError(
                f"there is no audit log: {text}.",
                "`evergreen up` makes it; in a cluster the bootstrap does, or you do: docs/kubernetes.md tells how.",
            ) from error
        if isinstance(error, psycopg.errors.InsufficientPrivilege) or "permission denied" in text:
            raise ConfigurationError(
                f"the audit log: {text}.", "The steps' role needs CONNECT, SELECT and INSERT, and no more."
            ) from error
        if isinstance(error, psycopg.OperationalError):
            raise TemporaryError(f"the audit log: {text}.", "Is the PostgreSQL server up?") from error
        raise ConfigurationError(f"the audit log: {text}.") from error
