"""The bootstrap's own programs, run as its containers run them, against a real PostgreSQL."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import psycopg
import pytest
from chart_bootstrap import SCRIPTS, container_of, run, values_of
from psycopg.conninfo import conninfo_to_dict

ROLES = ("airflow", "mlflow", "steps", "serving")


@pytest.fixture(scope="module")
def administrator(postgres_server: str) -> dict[str, str]:
    """The variables that lead libpq to the session's server, as its administrator."""
    told = conninfo_to_dict(postgres_server)
    return {"PGHOST": str(told["host"]), "PGUSER": str(told["user"]), "PGDATABASE": "postgres"}


@pytest.fixture(scope="module")
def names() -> list[dict[str, object]]:
    """The roles that the chart asks for, under names that no other test of the session's server has."""
    rendered = json.loads(values_of(container_of("trial", "databases"))["EVERGREEN_ROLES"])
    lists = ("databases", "writers", "readers")
    roles = [
        {
            **entry,
            "role": f"chart_{entry['role']}",
            **{key: [f"chart_{name}" for name in entry[key]] for key in lists if key in entry},
            "reads": {f"chart_{name}": f"chart_{owner}" for name, owner in entry.get("reads", {}).items()},
        }
        for entry in rendered
    ]
    return roles


def _connect(administrator: dict[str, str], **more: str) -> psycopg.Connection:
    told = {"host": administrator["PGHOST"], "user": administrator["PGUSER"], "dbname": "postgres", **more}
    return psycopg.connect(**told, autocommit=True)


def _create(administrator: dict[str, str], names: list[dict[str, object]], password: str) -> None:
    passwords = {f"{role.upper()}_PASSWORD": f"{role} {password}" for role in ROLES}
    done = run("databases.py", {**administrator, **passwords, "EVERGREEN_ROLES": json.dumps(names)})
    assert done.returncode == 0, done.stderr


def _stored(administrator: dict[str, str], role: str) -> str:
    with _connect(administrator) as connection:
        row = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", (role,)).fetchone()
    assert row
    return str(row[0])


@pytest.mark.integration
def test_databases_are_made_once_and_passwords_follow_the_secret(
    administrator: dict[str, str], names: list[dict[str, object]]
) -> None:
    _create(administrator, names, 'it\'s a "secret" $(x)')
    first = _stored(administrator, "chart_evergreen_steps")
    with _connect(administrator, dbname="chart_lake") as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept ()")
    _create(administrator, names, "another")
    assert _stored(administrator, "chart_evergreen_steps") != first
    with _connect(administrator) as connection:
        owners = dict(
            connection.execute(
                "SELECT datname, pg_get_userbyid(datdba) FROM pg_database WHERE datname LIKE 'chart%'"
            ).fetchall()
        )
    assert owners == {database: entry["role"] for entry in names for database in entry["databases"]}
    assert {name.removeprefix("chart_") for name in owners} == {
        "airflow",
        "mlflow",
        "mlflow_auth",
        "feast",
        "online",
        "lake",
        "serving",
        "audit",
    }
    with _connect(administrator, dbname="chart_lake") as connection:
        connection.execute("SELECT * FROM kept")


@pytest.mark.integration
def test_the_steps_cannot_enter_the_databases_of_the_platform(
    administrator: dict[str, str], names: list[dict[str, object]]
) -> None:
    _create(administrator, names, "any")
    with _connect(administrator, user="chart_evergreen_steps", dbname="chart_lake") as connection:
        connection.execute("CREATE TABLE mine ()")
    for database in ("chart_airflow", "chart_mlflow", "chart_mlflow_auth"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            _connect(administrator, user="chart_evergreen_steps", dbname=database)
    with _connect(administrator, user="chart_evergreen_steps", dbname="chart_audit") as connection:
        connection.execute("INSERT INTO audit_log VALUES ('m', 1, now(), '{}', '', '', NULL) ON CONFLICT DO NOTHING")
        for statement in ("DELETE FROM audit_log", "DROP TABLE audit_log", "CREATE TABLE mine ()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    with _connect(administrator, user="chart_evergreen_airflow", dbname="chart_audit") as connection:
        assert connection.execute("SELECT count(*) FROM audit_log").fetchone() == (1,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("INSERT INTO audit_log VALUES ('m', 2, now(), '{}', '', '', NULL)")
    with pytest.raises(psycopg.OperationalError, match='role "chart_evergreen_audit" is not permitted to log in'):
        _connect(administrator, user="chart_evergreen_audit", dbname="chart_audit")


@pytest.mark.integration
def test_the_server_of_predictions_reads_what_the_steps_have_and_will_have_in_two_databases(
    administrator: dict[str, str], names: list[dict[str, object]]
) -> None:
    _create(administrator, names, "any")
    server = "chart_evergreen_serving"
    for database in ("chart_online", "chart_serving"):
        with _connect(administrator, user="chart_evergreen_steps", dbname=database) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS later (id integer)")
        with _connect(administrator, user=server, dbname=database) as connection:
            connection.execute("SELECT * FROM later")
            for change in ("INSERT INTO later VALUES (1)", "DROP TABLE later", "CREATE TABLE mine (id integer)"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(change)
    with _connect(administrator, user=server, dbname="chart_audit") as connection:
        connection.execute("SELECT * FROM audit_log")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM audit_log")
    for database in ("chart_feast", "chart_lake", "chart_airflow", "chart_mlflow", "chart_mlflow_auth"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            _connect(administrator, user=server, dbname=database)


@pytest.mark.integration
def test_an_administrator_who_is_no_superuser_may_do_all_of_it(
    administrator: dict[str, str], names: list[dict[str, object]]
) -> None:
    renamed = json.loads(json.dumps(names).replace("chart_", "plain_"))
    with _connect(administrator) as connection:
        connection.execute("CREATE ROLE plain LOGIN CREATEROLE CREATEDB")
    _create({**administrator, "PGUSER": "plain"}, renamed, "any")
    with _connect(administrator, user="plain_evergreen_steps", dbname="plain_online") as connection:
        connection.execute("CREATE TABLE later (id integer)")
    with _connect(administrator, user="plain_evergreen_serving", dbname="plain_online") as connection:
        connection.execute("SELECT * FROM later")


@pytest.mark.integration
def test_a_server_of_predictions_waits_until_it_may_read(
    administrator: dict[str, str], names: list[dict[str, object]]
) -> None:
    text = (SCRIPTS / "databases.py").read_text().replace("WAITING = 900.0", "WAITING = 0.5")
    text = text.replace('LAST = "audit"', 'LAST = "chart_audit"')
    _create(administrator, names, "any")

    def wait(user: str) -> subprocess.CompletedProcess[str]:
        address = f"postgresql://{user}@/?host={administrator['PGHOST']}"
        environment = {"PATH": os.environ["PATH"], "EVERGREEN_DATABASE_URL": address}
        command = [sys.executable, "-c", text, "--wait"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert wait("chart_evergreen_serving").returncode == 0
    refused = wait("chart_evergreen_mlflow")
    assert refused.returncode == 1
    assert 'permission denied for database "chart_audit"' in refused.stdout
    assert "see the log of the bootstrap job" in refused.stderr


def test_without_a_server_the_bootstrap_makes_nothing_for_it() -> None:
    for case, there in (("trial", True), ("trial-without-serving", False)):
        databases = container_of(case, "databases")
        roles = {entry["role"]: entry for entry in json.loads(values_of(databases)["EVERGREEN_ROLES"])}
        assert ("evergreen_serving" in roles) is there
        assert ("serving" in roles["evergreen_steps"]["databases"]) is there
        assert ("evergreen_serving" in roles["evergreen_audit"]["readers"]) is there
        variables = {
            one["name"] for name in ("databases", "mlflow-bootstrap") for one in container_of(case, name)["env"]
        }
        assert variables >= {"STEPS_PASSWORD", "MLFLOW_STEPS_PASSWORD"}
        assert (variables >= {"SERVING_PASSWORD", "MLFLOW_SERVING_PASSWORD"}) is there


GRANTS = (
    "SELECT username, resource_type, resource_pattern, permission FROM users "
    "JOIN roles ON roles.name = '__user_' || users.id || '__' JOIN role_permissions ON role_id = roles.id"
)
RIGHTS = {
    ("evergreen-steps", "experiment", "*", "MANAGE"),
    ("evergreen-registry", "experiment", "*", "EDIT"),
    ("evergreen-registry", "registered_model", "*", "MANAGE"),
}


def _id_of(connection: psycopg.Connection, user: str) -> int:
    found = connection.execute("SELECT id FROM users WHERE username = %s", (user,)).fetchone()
    assert found is not None
    return int(found[0])


@pytest.mark.integration
def test_mlflow_s_users_follow_the_secret(administrator: dict[str, str], names: list[dict[str, object]]) -> None:
    _create(administrator, names, "any")
    asked = values_of(container_of("trial", "mlflow-bootstrap"))
    environment = {
        variable: re.sub(
            r"^(postgresql\+psycopg)://(\w+)@[^/]+/(\w+)\?.*$",
            rf"\1://chart_\2@/chart_\3?host={administrator['PGHOST']}",
            asked[variable],
        )
        for variable in ("MLFLOW_BACKEND_STORE_URI", "EVERGREEN_MLFLOW_AUTH_URI")
    }
    assert all("chart_evergreen_mlflow@/chart_mlflow" in address for address in environment.values())

    def bootstrap(password: str) -> str:
        users = ("AUTH_ADMIN", "STEPS", "REGISTRY", "SERVING")
        secrets = {f"MLFLOW_{name}_PASSWORD": f"{name} {password}" for name in users}
        done = run("mlflow_bootstrap.py", environment | secrets | {"MLFLOW_DISABLE_TELEMETRY": "true"})
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "user admin created\nuser evergreen-steps created" in bootstrap("the first")
    with _connect(administrator, user="chart_evergreen_mlflow", dbname="chart_mlflow_auth") as connection:
        assert set(connection.execute(GRANTS).fetchall()) == RIGHTS
        # of an earlier version: the steps' user managed what it had registered, and a wildcard grant may be a person's
        earlier = "INSERT INTO role_permissions (role_id, resource_type, resource_pattern, permission) "
        role = "SELECT id, 'registered_model', %s, 'MANAGE' FROM roles WHERE name = %s"
        for pattern in ("flight_delay", "*"):
            connection.execute(f"{earlier} {role}", (pattern, f"__user_{_id_of(connection, 'evergreen-steps')}__"))
        assert len(connection.execute(GRANTS).fetchall()) == len(RIGHTS) + 2
    assert "user admin has the new password\nuser evergreen-steps has the new password" in bootstrap("the second")
    assert run("mlflow_bootstrap.py", environment, "--wait").returncode == 0
    with _connect(administrator, user="chart_evergreen_mlflow", dbname="chart_mlflow_auth") as connection:
        rights = dict(connection.execute("SELECT username, is_admin FROM users").fetchall())
        assert set(connection.execute(GRANTS).fetchall()) == RIGHTS
    users = dict.fromkeys(("evergreen-steps", "evergreen-registry", "evergreen-serving"), False)
    assert rights == {"admin": True, **users}
    with _connect(administrator, user="chart_evergreen_mlflow", dbname="chart_mlflow") as connection:
        assert connection.execute("SELECT count(*) FROM registered_models").fetchone() == (0,)


def test_a_server_that_refuses_is_named() -> None:
    program = SCRIPTS / "databases.py"
    text = program.read_text().replace("PATIENCE = 300.0", "PATIENCE = 0.0")
    environment = {"PATH": os.environ["PATH"], "PGHOST": "127.0.0.1", "PGPORT": "1", "EVERGREEN_ROLES": "[]"}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "127.0.0.1 does not let us in" in done.stderr
