"""Create the project's roles and databases, and set the roles' passwords to those of the Secret.

Runs as often as wanted: what exists is kept, and a new password in the Secret becomes that of the role.
The server and its administrator come from libpq's PG* variables; EVERGREEN_ROLES is JSON:
[{"role": ..., "password_from": name of a variable, "databases": [...]}]. A role without a password logs in nowhere;
with "writers" and "readers", lists of roles, its databases hold an audit log that these may add to or read.
"""

import json
import os
import time

import psycopg
from psycopg import sql

PATIENCE = 300.0  # seconds: the server of a trial starts together with this job


def connect(deadline: float) -> psycopg.Connection:
    """Return a connection to the server as soon as it answers."""
    while True:
        try:
            return psycopg.connect(dbname="postgres", autocommit=True, connect_timeout=5)
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"{os.environ.get('PGHOST')} does not let us in: {error}") from None
            print(f"waiting for the server: {error}", flush=True)
            time.sleep(2)


def ensure_role(connection: psycopg.Connection, role: str, password: str | None) -> None:
    """Create a role that may log in, or give it this password; without one nobody logs in as it."""
    known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    verb, login = sql.SQL("ALTER" if known else "CREATE"), sql.SQL("NOLOGIN" if password is None else "LOGIN")
    connection.execute(
        sql.SQL("{} ROLE {} {} PASSWORD {}").format(verb, sql.Identifier(role), login, sql.Literal(password))
    )
    # an administrator who is no superuser may give databases to members of its own roles only
    connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(role)))


def ensure_database(connection: psycopg.Connection, name: str, owner: str) -> None:
    """Create a database that nobody but its owner may enter."""
    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(owner)))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))


def ensure_audit_log(name: str, owner: str, writers: list[str], readers: list[str]) -> None:
    """Make the audit log's table in a database, as its owner."""
    from evergreen.trust.audit_log import create_tables  # this runs in the step image

    with psycopg.connect(dbname=name, autocommit=True) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
        create_tables(connection, writers, readers)


def main() -> None:
    """Do it."""
    with connect(time.monotonic() + PATIENCE) as connection:
        for entry in json.loads(os.environ["EVERGREEN_ROLES"]):
            password = os.environ[entry["password_from"]] if "password_from" in entry else None
            ensure_role(connection, entry["role"], password)
            for name in entry["databases"]:
                ensure_database(connection, name, entry["role"])
                if "writers" in entry:
                    ensure_audit_log(name, entry["role"], entry["writers"], entry["readers"])
            print(f"{entry['role']}: {', '.join(entry['databases'])}", flush=True)


if __name__ == "__main__":
    main()
