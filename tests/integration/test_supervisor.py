"""The real services: up, closed to strangers, healed after kill -9, gone after down."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from evergreen.settings import DATABASES, OWNERS, Settings
from evergreen_airflow.kubelet.scratch import make_scratch
from evergreen_laptop.credentials import Credentials, read_credentials
from evergreen_laptop.postgres import EmbeddedPostgres
from evergreen_laptop.processes import is_alive
from evergreen_laptop.status import State, SupervisorStatus, read_status
from evergreen_laptop.step_settings import MLFLOW_REGISTRY_USER, MLFLOW_STEPS_USER
from installation import PORTS, free_ports

pytestmark = pytest.mark.integration

SERVICES = ("postgres", "mlflow", "api-server", "scheduler", "dag-processor", "triggerer")
if sys.platform == "linux":
    SERVICES = (*SERVICES, "warm-steps")
SERVICES = (*SERVICES, "serving")
KILLED = {"mlflow", "scheduler", "triggerer", "warm-steps", "serving"} & set(SERVICES)


@dataclass
class Stack:
    """One state folder with ports of its own, and the commands on it."""

    folder: Path
    ports: dict[str, int]
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def user(self) -> Settings:
        return Settings(state_dir=self.folder, **{f"{name.lower()}_port": port for name, port in self.ports.items()})

    @property
    def credentials(self) -> Credentials:
        return read_credentials(self.user)

    def evergreen(self, *arguments: str, seconds: float = 420) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "AIRFLOW"))}
        own = {f"EVERGREEN_{name}_PORT": str(port) for name, port in self.ports.items()}
        return subprocess.run(
            [sys.executable, "-m", "evergreen_laptop", *arguments],
            env={**clean, **own, "EVERGREEN_STATE_DIR": str(self.folder), "COLUMNS": "160", **self.extra},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def status(self) -> SupervisorStatus:
        found = read_status(self.user)
        assert found is not None
        return found

    def until(self, condition: Callable[[SupervisorStatus], bool], seconds: float = 240) -> SupervisorStatus:
        deadline = time.monotonic() + seconds
        while not condition(self.status()):
            assert time.monotonic() < deadline, self.status()
            time.sleep(0.1)
        return self.status()

    def settle(self, seconds: float = 6) -> None:
        """Wait until all are healthy and stay so: a service that lost its database may take a check to show it."""
        well = time.monotonic()
        while time.monotonic() - well < seconds:
            self.until(lambda now: now.healthy)
            time.sleep(0.2)
            if not self.status().healthy:
                well = time.monotonic()

    def processes(self) -> list[psutil.Process]:
        """Every process of the services, and the supervisor."""
        found = [psutil.Process(self.status().pid)]
        return [*found, *found[0].children(recursive=True)]

    def request(
        self, port: str, method: str, path: str, headers: dict[str, str] | None = None, body: Any = None
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=30)
        connection.request(
            method,
            path,
            json.dumps(body) if body is not None else None,
            {"Content-Type": "application/json", **(headers or {})},
        )
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, json.loads(text) if text.startswith(("{", "[")) else text

    def token(self, name: str, password: str) -> dict[str, str]:
        _, answer = self.request("AIRFLOW", "POST", "/auth/token", body={"username": name, "password": password})
        return {"Authorization": f"Bearer {answer['access_token']}"}


def lives(status: SupervisorStatus) -> list[tuple[int | None, int]]:
    """Return what a restart changes, and a check that failed for a moment does not."""
    return [(service.pid, service.restarts) for service in status.services]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if is_alive(process)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Services that are up; the tests of this module take turns on them."""
    folder = Path(tempfile.mkdtemp(prefix="eg-"))
    one = Stack(folder / "state", dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))
    try:
        done = one.evergreen("up")
        assert done.returncode == 0, done.stdout + done.stderr
        yield one
    finally:
        down = one.evergreen("down")
        shutil.rmtree(folder, ignore_errors=True)
        assert down.returncode == 0, down.stdout + down.stderr


def of_the_living(ask: Callable[..., list[Any]], *arguments: str) -> list[Any]:
    """Ask a process, which may have ended meanwhile: Airflow's make some that live for a second."""
    try:
        return ask(*arguments)
    except psutil.NoSuchProcess:
        return []


def test_up_again_changes_nothing_and_status_agrees(stack: Stack) -> None:
    before = stack.until(lambda now: now.healthy)
    assert [service.name for service in before.services] == list(SERVICES)
    again = stack.evergreen("up")
    assert again.returncode == 0, again.stdout + again.stderr
    after = stack.until(lambda now: now.healthy)
    assert (after.pid, lives(after)) == (before.pid, lives(before))
    shown = stack.evergreen("status")
    for service in before.services:
        assert f"{service.pid}" in shown.stdout
    assert f"http://127.0.0.1:{stack.ports['AIRFLOW']}" in again.stdout
    assert stack.credentials.airflow_admin not in again.stdout


def test_everything_listens_on_loopback_only(stack: Stack) -> None:
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in stack.processes()
        for connection in of_the_living(process.net_connections, "inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {port for _, port in listening} >= set(stack.ports.values())
    assert {ip for ip, _ in listening} == {"127.0.0.1"}


def test_no_secret_is_in_a_command_line_and_the_files_are_private(stack: Stack) -> None:
    lines = "\n".join(" ".join(of_the_living(process.cmdline)) for process in stack.processes())
    assert "mlflow" in lines
    for secret in json.loads(stack.credentials.model_dump_json()).values():
        assert secret not in lines
    for path in (
        "secrets/credentials.json",
        "secrets/evergreen-secrets.env",
        "airflow/airflow.cfg",
        "airflow/passwords.json",
    ):
        assert (stack.folder / path).stat().st_mode & 0o077 == 0, path
    assert (stack.folder / "postgres").stat().st_mode & 0o077 == 0


def test_postgres_lets_nobody_in_without_the_password(stack: Stack) -> None:
    address = EmbeddedPostgres(stack.user).url
    with psycopg.connect(f"{address}/postgres") as connection:
        have = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
    assert have >= set(DATABASES)
    password = address.split(":")[2].split("@")[0]
    for wrong in (address.replace(password, "wrong"), address.replace(f":{password}", "")):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"{wrong}/postgres")
    server = psutil.Process(stack.status().services[0].pid)
    assert server.username() != "root"


def test_the_steps_have_their_own_databases_and_no_others(stack: Stack) -> None:
    url = Settings(_env_file=(stack.user.secrets_file,)).database_url
    assert url is not None
    for name in OWNERS["steps"]:
        with psycopg.connect(f"{url.get_secret_value()}/{name}") as connection:
            connection.execute("SELECT 1")
    for name in ("airflow", "mlflow", "mlflow_auth", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(f"{url.get_secret_value()}/{name}")


def test_nothing_in_the_state_folder_is_for_other_users(stack: Stack) -> None:
    assert stack.folder.stat().st_mode & 0o767 == 0o700
    stack.until(lambda now: now.healthy)
    for path in stack.folder.rglob("*"):
        with suppress(FileNotFoundError):  # the services come and go with some
            assert path.is_symlink() or path.stat().st_mode & 0o077 == 0, path


def test_the_steps_user_of_mlflow_is_no_administrator(stack: Stack) -> None:
    login = base64.b64encode(f"{MLFLOW_STEPS_USER}:{stack.credentials.mlflow_steps}".encode()).decode()
    headers = {"Authorization": f"Basic {login}"}
    user = {"username": "another", "password": "a-password-of-twelve"}
    assert stack.request("MLFLOW", "POST", "/api/2.0/mlflow/users/create", headers, user)[0] == 403
    change = {"username": "admin", "password": "a-password-of-twelve"}
    assert stack.request("MLFLOW", "PATCH", "/api/2.0/mlflow/users/update-password", headers, change)[0] == 403
    # what an earlier version's steps made as the administrator, or a person did, is theirs to go on with
    admin = base64.b64encode(f"admin:{stack.credentials.mlflow_admin}".encode()).decode()
    of_admin = {"Authorization": f"Basic {admin}"}
    model, version = {"name": "of_the_admin"}, {"name": "of_the_admin", "key": "k", "value": "v"}
    assert stack.request("MLFLOW", "POST", "/api/2.0/mlflow/registered-models/create", of_admin, model)[0] == 200
    assert stack.request("MLFLOW", "POST", "/api/2.0/mlflow/registered-models/set-tag", headers, version)[0] == 403
    registry = base64.b64encode(f"{MLFLOW_REGISTRY_USER}:{stack.credentials.mlflow_registry}".encode()).decode()
    of_registry = {"Authorization": f"Basic {registry}"}
    assert stack.request("MLFLOW", "POST", "/api/2.0/mlflow/registered-models/set-tag", of_registry, version)[0] == 200
    experiment = {"name": "of_the_admin"}
    made = stack.request("MLFLOW", "POST", "/api/2.0/mlflow/experiments/create", of_admin, experiment)[1]
    run = {"experiment_id": made["experiment_id"]}
    assert stack.request("MLFLOW", "POST", "/api/2.0/mlflow/runs/create", headers, run)[0] == 200


def test_mlflow_lets_nobody_in_without_the_password(stack: Stack) -> None:
    path = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert stack.request("MLFLOW", "GET", path)[0] == 401
    login = base64.b64encode(f"admin:{stack.credentials.mlflow_admin}".encode()).decode()
    status, answer = stack.request("MLFLOW", "GET", path, {"Authorization": f"Basic {login}"})
    assert status == 200
    assert answer["experiment"]["name"] == "Default"
    assert answer["experiment"]["artifact_location"].startswith("mlflow-artifacts:")


def test_airflow_knows_its_users_and_what_the_project_declares(stack: Stack) -> None:
    assert stack.request("AIRFLOW", "GET", "/api/v2/pools")[0] == 401
    viewer = stack.token("viewer", stack.credentials.airflow_viewer)
    status, pools = stack.request("AIRFLOW", "GET", "/api/v2/pools", viewer)
    assert status == 200
    assert {pool["name"]: pool["slots"] for pool in pools["pools"]}["training"] == 1
    assert stack.request("AIRFLOW", "DELETE", "/api/v2/pools/training", viewer)[0] == 403


def test_declared_settings_are_brought_back_and_the_rest_is_left_alone(stack: Stack) -> None:
    admin = stack.token("admin", stack.credentials.airflow_admin)
    changed = {"pool": "training", "slots": 7, "include_deferred": False}
    assert stack.request("AIRFLOW", "PATCH", "/api/v2/pools/training?update_mask=slots", admin, changed)[0] == 200
    assert stack.request("AIRFLOW", "POST", "/api/v2/pools", admin, {"name": "mine", "slots": 3})[0] == 201
    done = stack.evergreen("airflow-settings")
    assert done.returncode == 0, done.stderr
    pools = stack.request("AIRFLOW", "GET", "/api/v2/pools", admin)[1]["pools"]
    slots = {pool["name"]: pool["slots"] for pool in pools}
    assert (slots["training"], slots["mine"]) == (1, 3)


def test_airflows_own_command_line_works_and_all_dags_load(stack: Stack) -> None:
    admin = stack.token("admin", stack.credentials.airflow_admin)
    stack.until(lambda _: stack.request("AIRFLOW", "GET", "/api/v2/dags/flight_delay.ingest", admin)[0] == 200)
    answers = {}
    for command in ("list", "list-import-errors"):
        done = stack.evergreen("airflow", "dags", command, "--output=json")
        assert done.returncode == 0, done.stdout + done.stderr
        answers[command] = json.loads(done.stdout.strip().splitlines()[-1])
    assert "flight_delay.ingest" in {dag["dag_id"] for dag in answers["list"]}
    assert answers["list-import-errors"] == []


def test_a_killed_service_is_started_again(stack: Stack) -> None:
    before = {service.name: service for service in stack.status().services}
    for name in KILLED:
        assert before[name].pid is not None
        os.kill(before[name].pid, signal.SIGKILL)
    after = stack.until(
        lambda now: now.healthy and all(s.restarts > before[s.name].restarts for s in now.services if s.name in KILLED)
    )
    for service in after.services:
        assert (service.pid == before[service.name].pid) == (service.name not in KILLED)
    assert "SIGKILL" in stack.evergreen("status").stdout


def test_everything_heals_when_the_database_is_killed_under_it(stack: Stack) -> None:
    admin = stack.token("admin", stack.credentials.airflow_admin)
    stack.request("AIRFLOW", "POST", "/api/v2/pools", admin, {"name": "mine", "slots": 3})
    before = {service.name: service for service in stack.status().services}
    assert before["postgres"].pid is not None
    os.kill(before["postgres"].pid, signal.SIGKILL)
    stack.until(lambda now: now.services[0].restarts > before["postgres"].restarts)
    stack.settle()
    assert stack.request("AIRFLOW", "GET", "/api/v2/pools/mine", admin)[0] == 200  # nothing is lost


def start_a_run(stack: Stack) -> Callable[[], Any]:
    """Start a run of a DAG that needs no data; returns what asks for its state."""
    admin = stack.token("admin", stack.credentials.airflow_admin)
    runs = "/api/v2/dags/maintenance.reap_pods/dagRuns"
    stack.until(lambda _: stack.request("AIRFLOW", "GET", runs, admin)[0] == 200)
    code, run = stack.request("AIRFLOW", "POST", runs, admin, {"logical_date": None})
    assert code == 200, run

    def state() -> Any:
        fresh = stack.token("admin", stack.credentials.airflow_admin)
        return stack.request("AIRFLOW", "GET", f"{runs}/{run['dag_run_id']}", fresh)[1]["state"]

    return state


@pytest.mark.slow
def test_services_that_get_no_cpu_are_left_alone(stack: Stack) -> None:
    before = lives(stack.until(lambda now: now.healthy))
    state = start_a_run(stack)
    begin, turn = time.monotonic(), itertools.cycle(stack.status().services)
    while time.monotonic() - begin < 120:
        guardian = psutil.Process(next(turn).guardian)
        tree = guardian.children(recursive=True)
        for process in tree:
            process.suspend()
        stopped = time.monotonic()
        while time.monotonic() - stopped < 20:
            assert lives(stack.status()) == before
            time.sleep(0.5)
        for process in tree:
            of_the_living(lambda process=process: [process.resume()])
    after = stack.until(lambda now: now.healthy)
    assert lives(after) == before
    stack.until(lambda _: state() == "success")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [45, 200])
def test_a_laptop_that_sleeps_starts_nothing_again(stack: Stack, seconds: int) -> None:
    before = lives(stack.until(lambda now: now.healthy))
    state = start_a_run(stack)
    everything = stack.processes()
    for process in everything:
        of_the_living(lambda process=process: [process.suspend()])
    time.sleep(seconds)  # the longer one is over every time-out of Airflow's components
    for process in everything:
        of_the_living(lambda process=process: [process.resume()])
    stack.settle(seconds=90)
    assert lives(stack.status()) == before
    stack.until(lambda _: state() == "success")


def test_a_killed_supervisor_leaves_nothing_and_up_starts_afresh(stack: Stack) -> None:
    admin = stack.token("admin", stack.credentials.airflow_admin)
    stack.request("AIRFLOW", "POST", "/api/v2/pools", admin, {"name": "mine", "slots": 3})
    old = stack.processes()
    os.kill(stack.status().pid, signal.SIGKILL)
    assert stack.evergreen("status").returncode == 1
    done = stack.evergreen("up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert alive(old) == []
    assert stack.request("AIRFLOW", "GET", "/api/v2/pools/mine", admin)[0] == 200


def test_a_port_in_use_is_named_before_anything_starts(stack: Stack) -> None:
    other = Stack(stack.folder.parent / "other", {**stack.ports, "POSTGRES": stack.ports["MLFLOW"]})
    done = other.evergreen("up")
    assert done.returncode == 78
    port = stack.ports["MLFLOW"]
    assert f"error: Port {port} is in use by " in done.stderr
    assert "EVERGREEN_POSTGRES_PORT" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_down_leaves_nothing_behind(stack: Stack) -> None:
    everything = stack.processes()
    scratch = Path(make_scratch(stack.folder))  # of a step that was killed with all that watched over it
    done = stack.evergreen("down")
    assert done.returncode == 0, done.stderr
    assert alive(everything) == []
    assert not scratch.exists()
    assert {service.state for service in stack.status().services} == {State.STOPPED}
    assert not (stack.folder / "postgres" / "data" / "postmaster.pid").exists()
    assert stack.evergreen("status").returncode == 1
    assert stack.evergreen("down").returncode == 0  # again: nothing to do
