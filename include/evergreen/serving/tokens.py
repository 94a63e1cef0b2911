"""The tokens of clients: made once, kept as a digest, taken back by anybody who may write the table.

A token is ``evg_<id>_<secret>``. Its secret has 256 random bits, so one round of SHA-256 keeps it: there is nothing to
guess. The table ``serving_tokens`` is in the database ``serving``, which the steps' role owns and the server reads.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from evergreen.contract import ConfigurationError, TemporaryError, utc_now
from evergreen.serving.deadlines import DEADLINES, shut_down
from evergreen.settings import get_settings

if TYPE_CHECKING:
    import psycopg

DATABASE = "serving"
PREFIX = "evg"
ANSWER_SECONDS = 3
"""So long PostgreSQL may take to let us in, and as long to answer."""
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TABLE = """
CREATE TABLE IF NOT EXISTS serving_tokens (
    id text PRIMARY KEY,
    client text NOT NULL,
    digest text NOT NULL,
    models text[],
    requests_per_second double precision,
    created timestamptz NOT NULL,
    created_by text NOT NULL,
    expires timestamptz,
    revoked timestamptz
)
"""


@dataclass(frozen=True)
class Token:
    """What is known of a client's token; not the token.

    Parameters
    ----------
    id, client, digest
        Its public part, whose it is, and the SHA-256 of its secret.
    models
        Those it may ask; None is all.
    requests_per_second
        Its limit; None is that of the model.
    created, created_by, expires, revoked
        When, and by whom.
    """

    id: str
    client: str
    digest: str
    models: frozenset[str] | None
    requests_per_second: float | None
    created: datetime
    created_by: str
    expires: datetime | None = None
    revoked: datetime | None = None

    def valid(self, now: datetime) -> bool:
        """Tell whether it opens anything at a moment."""
        return self.revoked is None and (self.expires is None or now < self.expires)


def create_token(
    client: str,
    by: str,
    models: Sequence[str] = (),
    expires: datetime | None = None,
    requests_per_second: float | None = None,
) -> str:
    """Make a token for a client and return it: nobody can read it again.

    Raises
    ------
    ConfigurationError
        If the client's name has a character by which it could be taken for another's.
    """
    if not _CLIENT.fullmatch(client):
        raise ConfigurationError(
            f"{client!r} cannot be a client's name.", "Use up to 64 letters, digits, dots, dashes and underscores."
        )
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    row = (
        *(identity, client, digest_of(secret), list(models) or None, requests_per_second),
        *(utc_now(), by, expires),
    )
    with _connected(create=True) as connection:
        connection.execute(
            "INSERT INTO serving_tokens"
            " (id, client, digest, models, requests_per_second, created, created_by, expires)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
            row,
        )
    return f"{PREFIX}_{identity}_{secret}"


def revoke_token(identity: str) -> Token:
    """Take a token back, and return it.

    Raises
    ------
    ConfigurationError
        If there is none of that id.
    """
    with _connected() as connection:
        connection.execute(
            "UPDATE serving_tokens SET revoked = coalesce(revoked, %s) WHERE id = %s", (utc_now(), identity)
        )
    tokens = {token.id: token for token in read_tokens()}
    if identity not in tokens:
        raise ConfigurationError(f"There is no token {identity!r}.", "evergreen tokens list has their ids.")
    return tokens[identity]


def read_tokens() -> list[Token]:
    """Return every token there is, the oldest first; none before the first was made."""
    import psycopg

    with _connected() as connection:
        try:
            rows = connection.execute(
                "SELECT id, client, digest, models, requests_per_second, created, created_by, expires, revoked"
                " FROM serving_tokens ORDER BY created, id"
            ).fetchall()
        except psycopg.errors.UndefinedTable:
            return []
    return [Token(**{**row, "models": None if row["models"] is None else frozenset(row["models"])}) for row in rows]


def digest_of(secret: str) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


@contextmanager
def _connected(*, create: bool = False) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    import psycopg
    from psycopg.rows import dict_row

    address = get_settings().database(DATABASE).replace("postgresql+psycopg:", "postgresql:", 1)
    try:
        connection = psycopg.connect(address, connect_timeout=ANSWER_SECONDS, row_factory=dict_row)
        with DEADLINES.within(ANSWER_SECONDS, partial(shut_down, connection)), connection:
            # a server that does answer ends it itself: one that waits for a lock would go on without us
            connection.execute(f"SET LOCAL statement_timeout = '{ANSWER_SECONDS}s'")
            if create:
                connection.execute(_TABLE)
            yield connection
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"the tokens of clients: {error}.", "The server's role reads them: use the steps'."
        ) from error
    except psycopg.OperationalError as error:
        text = " ".join(str(error).split())
        if f'database "{DATABASE}" does not exist' in text:
            raise ConfigurationError(
                f"there is no database {DATABASE!r}: {text}.",
                "`evergreen up` makes it; in a cluster the bootstrap does.",
            ) from error
        raise TemporaryError(f"the tokens of clients: {text}.", "Is the PostgreSQL server up?") from error
