"""Create the project's roles and databases, and set the roles' passwords to those of the Secret.

Runs as often as wanted: what exists is kept, and a new password in the Secret becomes that of the role.
The server and its administrator come from libpq's PG* variables; EVERGREEN_ROLES is JSON:
[{"role": ..., "password_from": name of a variable, "databases": [...]}]. A role without a password logs in nowhere;
with "writers" and "readers", lists of roles, its databases hold an audit log that these may add to or read; with
"reads", it may read databases of others: {database: owner}.
With the argument --wait: only wait until the server of predictions, whose EVERGREEN_DATABASE_URL this is, may read all.
"""

import json
import os
import sys
import time

import psycopg
from psycopg import sql

PATIENCE = 300.0  # seconds: the server of a trial starts together with this job
WAITING = 900.0  # for this job
LAST = "audit"  # of the databases: who may enter it may enter all


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


def let_read(name: str, reader: str, owner: str) -> None:
    """Let a role read every table of a database that its owner has made and will make, and no more."""
    with psycopg.connect(dbname=name, autocommit=True) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
        for statement in (
            "GRANT CONNECT ON DATABASE {database} TO {reader}",
            "GRANT USAGE ON SCHEMA public TO {reader}",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {reader}",
        ):
            names = {"database": sql.Identifier(name), "reader": sql.Identifier(reader)}
            connection.execute(sql.SQL(statement).format(**names))


def ensure_audit_log(name: str, owner: str, writers: list[str], readers: list[str]) -> None:
    """Make the audit log's table in a database, as its owner."""
    from evergreen.trust.audit_log import create_tables  # this runs in the step image

    with psycopg.connect(dbname=name, autocommit=True) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(owner)))
        create_tables(connection, writers, readers)


def wait() -> None:
    """Return when the last right is given: the last thing this program does."""
    deadline = time.monotonic() + WAITING
    while time.monotonic() < deadline:
        try:
            psycopg.connect(os.environ["EVERGREEN_DATABASE_URL"], dbname=LAST, connect_timeout=5).close()
        except psycopg.OperationalError as error:
            print(f"waiting: {error}", flush=True)
            time.sleep(2)
        else:
            return
    raise SystemExit("The databases were not prepared: see the log of the bootstrap job.")


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
            for name, owner in entry.get("reads", {}).items():
                let_read(name, entry["role"], owner)
            print(f"{entry['role']}: {', '.join([*entry['databases'], *entry.get('reads', {})])}", flush=True)


if __name__ == "__main__":
    wait() if "--wait" in sys.argv else main()
