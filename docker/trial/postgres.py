"""Start a trial's PostgreSQL, with the interface of the official images: POSTGRES_PASSWORD_FILE, PGDATA, port 5432.

At the first start the cluster is created, with the superuser POSTGRES_USER (postgres) and the password of the file.
Nothing is written but PGDATA, the new cluster beside it, and the socket in /tmp.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

OPTIONS = {
    "listen_addresses": "*",
    "unix_socket_directories": "/tmp",  # noqa: S108  # a volume of this pod alone
    "password_encryption": "scram-sha-256",
    "max_connections": "200",
    "jit": "off",  # compiles for longer than Airflow's short queries run
    "log_timezone": "UTC",
    "timezone": "UTC",
}
HBA = "local all all scram-sha-256\nhost all all all scram-sha-256\n"


def setting(name: str, default: str = "") -> str:
    """Return a variable's value; without a default it is required."""
    value = os.environ.get(name, default)
    if not value:
        sys.exit(f"error: {name} is not set.")
    return value


def create(data: Path) -> None:
    """Create the cluster; an interrupted attempt is thrown away, so that a cluster is always a whole one."""
    password = Path(setting("POSTGRES_PASSWORD_FILE"))
    if not password.is_file() or not password.read_text().strip():
        sys.exit(f"error: POSTGRES_PASSWORD_FILE={password} holds no password.")
    new = data.with_name(data.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    options = [f"--username={setting('POSTGRES_USER', 'postgres')}", f"--pwfile={password}", "--auth=scram-sha-256"]
    options += [f"--pgdata={new}", "--encoding=UTF8", "--locale=C"]
    subprocess.run(["initdb", *options], check=True)  # noqa: S607
    (new / "pg_hba.conf").write_text(HBA)
    new.rename(data)


def main() -> None:
    """Become the server."""
    data = Path(setting("PGDATA"))
    if not (data / "PG_VERSION").exists():
        create(data)
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    os.execvp("postgres", ["postgres", "-D", str(data), *options])  # noqa: S606, S607


if __name__ == "__main__":
    main()
