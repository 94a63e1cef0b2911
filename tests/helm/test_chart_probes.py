"""The probes of the components that serve no HTTP: what they ask, on Airflow's own table in a real PostgreSQL."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from chart_rendering import objects, pick
from sqlalchemy import create_engine, insert
from sqlalchemy.engine import make_url

COMPONENTS = (("triggerer", "TriggererJob"), ("dag-processor", "DagProcessorJob"))


def _command(component: str) -> list[str]:
    (container,) = pick(objects("production"), "Deployment", f"evergreen-{component}")["spec"]["template"]["spec"][
        "containers"
    ]
    assert container["startupProbe"]["exec"] == container["livenessProbe"]["exec"]
    command: list[str] = container["livenessProbe"]["exec"]["command"]
    return command


def _ask(component: str, address: str) -> subprocess.CompletedProcess[str]:
    program, *arguments = _command(component)
    assert program == "python"
    variables = {"PATH": os.environ["PATH"], "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address}
    return subprocess.run([sys.executable, *arguments], env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def database(postgres_server: str) -> str:
    """A database with the table of Airflow's jobs."""
    from airflow.jobs.job import Job

    server = make_url(postgres_server).set(drivername="postgresql+psycopg")
    with create_engine(server, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE probes")
    address = server.set(database="probes").render_as_string(hide_password=False)
    Job.__table__.create(create_engine(address))
    return address


@pytest.mark.integration
@pytest.mark.parametrize(("component", "job_type"), COMPONENTS)
def test_a_job_lives_as_long_as_its_heart_beats_here(database: str, component: str, job_type: str) -> None:
    from airflow.jobs.job import Job

    here = socket.gethostbyname(socket.getfqdn())

    def beat(age: int, host: str = here, state: str = "running") -> int:
        latest = datetime.now(UTC) - timedelta(seconds=age)
        row = {"job_type": job_type, "hostname": host, "state": state, "latest_heartbeat": latest}
        with create_engine(database).begin() as connection:
            connection.execute(insert(Job.__table__).values(row))
        return _ask(component, database).returncode

    assert _ask(component, database).returncode == 1
    assert beat(5, host="192.0.2.1") == 1  # somebody else's
    assert beat(5, state="success") == 1  # it has ended
    assert beat(600) == 1  # it hangs
    assert f"{job_type} on {here} has had no heartbeat for 90 s" in _ask(component, database).stderr
    assert beat(5) == 0


def test_the_name_of_a_host_is_that_of_airflow() -> None:
    from airflow.utils.net import get_host_ip_address

    assert get_host_ip_address() == socket.gethostbyname(socket.getfqdn())
    for component, _ in COMPONENTS:
        (container,) = pick(objects("production"), "Deployment", f"evergreen-{component}")["spec"]["template"]["spec"][
            "containers"
        ]
        values = {one["name"]: one.get("value") for one in container["env"]}
        assert values["AIRFLOW__CORE__HOSTNAME_CALLABLE"] == "airflow.utils.net.get_host_ip_address"
