"""The roles of the embedded PostgreSQL: one for each service, one for the steps; none enters another's databases.

The audit log's owner is a role that nobody can log in as: the steps read and add to it, and change nothing.

In a cluster helm/evergreen/files/databases.py makes the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from evergreen.settings import OWNERS
from evergreen.trust.audit_log import DATABASE, create_tables
from evergreen_laptop.postgres import connect, execute, server_errors

SERVER = "serving"
"""Whose role reads what answers are made of."""
SERVED_FROM = ("online", "serving")
"""The steps' databases that it reads: the online store, and the clients' tokens."""
_MAINTENANCE = ("postgres", "template1")
"""Databases that every PostgreSQL has, and nobody but its administrator needs."""
_CLOSE = "REVOKE ALL ON DATABASE {} FROM PUBLIC"


def role_of(owner: str) -> str:
    """Return the name of an owner's role."""
    return f"evergreen_{owner}"


def role_url(administrator: str, owner: str, password: str) -> str:
    """Return the address of a server as one of the owners' roles knows it."""
    parts = urlsplit(administrator)
    netloc = f"{role_of(owner)}:{quote(password, safe='')}@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(("postgresql", netloc, "", parts.query, ""))


def ensure_roles(administrator: str, passwords: Mapping[str, str]) -> None:
    """Create the roles and their databases, and give them what an earlier version left to the administrator.

    The server of predictions owns nothing: it reads the tables of some of the steps' databases, and the audit log.

    Runs at every start: what exists is kept, and a role has the password of the credentials file.

    Parameters
    ----------
    administrator
        The address of the server, as its superuser.
    passwords
        By owner, see `evergreen.settings.OWNERS`, and the server's; an owner without one logs in nowhere.

    Raises
    ------
    TemporaryError
        If the server does not answer.
    ConfigurationError
        If it refuses.
    """
    with server_errors("the roles of the embedded PostgreSQL", "See postgres.log.", "See postgres.log."):
        with connect(administrator) as connection:
            for owner, databases in OWNERS.items():
                _ensure_role(connection, role_of(owner), passwords.get(owner))
                for name in databases:
                    _ensure_database(connection, name, role_of(owner))
            _ensure_role(connection, role_of(SERVER), passwords[SERVER])
            for name in _MAINTENANCE:
                execute(connection, _CLOSE, name)
        for owner, databases in OWNERS.items():
            for name in databases:
                with connect(administrator, name) as connection:
                    _hand_over(connection, role_of(owner))
        with connect(administrator, DATABASE) as connection:
            execute(connection, "SET ROLE {}", role_of("audit"))
            create_tables(connection, writers=[role_of("steps")], readers=[role_of("airflow"), role_of(SERVER)])
        for name in SERVED_FROM:
            with connect(administrator, name) as connection:
                let_read(connection, role_of(SERVER), role_of("steps"))


def let_read(connection: psycopg.Connection, reader: str, owner: str) -> None:
    """Let a role read every table of a database that its owner has made and will make, and no more."""
    execute(connection, "GRANT CONNECT ON DATABASE {} TO {}", connection.info.dbname, reader)
    execute(connection, "GRANT USAGE ON SCHEMA public TO {}", reader)
    execute(connection, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}", reader)
    execute(
        connection, "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA public GRANT SELECT ON TABLES TO {}", owner, reader
    )


def _ensure_role(connection: psycopg.Connection, role: str, password: str | None) -> None:
    """Create a role that may log in and nothing else, or give it this password; without one it may not even that."""
    exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    connection.execute(
        sql.SQL("{} ROLE {} {} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD {}").format(
            sql.SQL("ALTER" if exists else "CREATE"),
            sql.Identifier(role),
            sql.SQL("NOLOGIN" if password is None else "LOGIN"),
            sql.Literal(password),
        )
    )


def _ensure_database(connection: psycopg.Connection, name: str, owner: str) -> None:
    """Create a database that nobody but its owner may enter, or give it to this owner."""
    exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone()
    execute(connection, "ALTER DATABASE {} OWNER TO {}" if exists else "CREATE DATABASE {} OWNER {}", name, owner)
    execute(connection, _CLOSE, name)


def _hand_over(connection: psycopg.Connection, owner: str) -> None:
    """Give everything in a database that is the administrator's to its owner.

    ``REASSIGN OWNED`` would be one statement, but is refused for the superuser that ``initdb`` made.
    """
    for kind, name in connection.execute(_OF_THE_ADMINISTRATOR).fetchall():
        # the name is quoted already: it comes from PostgreSQL's regclass, regtype and regprocedure
        statement = sql.SQL("ALTER {} {} OWNER TO {}").format(sql.SQL(kind), sql.SQL(name), sql.Identifier(owner))
        connection.execute(statement)


_OF_THE_ADMINISTRATOR = """
WITH ours AS (
    SELECT oid, current_user::regrole AS owner FROM pg_namespace
    WHERE nspname <> 'information_schema' AND nspname !~ '^pg_'
)
SELECT 'SCHEMA', ours.oid::regnamespace::text FROM pg_namespace JOIN ours USING (oid) WHERE nspowner = owner
UNION ALL
SELECT 'TABLE', c.oid::regclass::text FROM pg_class c JOIN ours ON relnamespace = ours.oid
WHERE relowner = owner AND relkind IN ('r', 'p', 'v', 'm', 'f')
UNION ALL
SELECT 'SEQUENCE', c.oid::regclass::text FROM pg_class c JOIN ours ON relnamespace = ours.oid
WHERE relowner = owner AND relkind = 'S'
  AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND refobjsubid > 0)
UNION ALL
SELECT 'TYPE', t.oid::regtype::text FROM pg_type t JOIN ours ON typnamespace = ours.oid
WHERE typowner = owner AND typtype IN ('e', 'd')
UNION ALL
SELECT 'ROUTINE', p.oid::regprocedure::text FROM pg_proc p JOIN ours ON pronamespace = ours.oid WHERE proowner = owner
"""
"""A sequence that belongs to a column goes with its table."""
