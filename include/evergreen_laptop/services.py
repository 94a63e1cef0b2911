"""The embedded services: what each runs, what it needs first, and how to tell that it is well."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path

import psycopg
from pydantic import SecretStr

from evergreen.contract import ConfigurationError
from evergreen.settings import OWNERS, Settings, get_settings
from evergreen_airflow import airflow_settings
from evergreen_airflow.kubelet import check_warm_service, warm_service
from evergreen_airflow.rest_api import AirflowApi
from evergreen_laptop.credentials import Credentials, ensure_credentials
from evergreen_laptop.embedded_airflow import airflow_environment, airflow_home, airflow_url, write_airflow_config
from evergreen_laptop.files import make_folder, write_env_file, write_private
from evergreen_laptop.mlflow_server import ensure_users, mlflow_environment
from evergreen_laptop.postgres import (
    EmbeddedPostgres,
    connect,
    create_audit_log,
    create_databases,
    plain_environment,
)
from evergreen_laptop.roles import SERVER, ensure_roles, role_url
from evergreen_laptop.status import run_folder
from evergreen_laptop.step_settings import (
    public_keys,
    registry_secrets,
    server_secrets,
    service_environment,
    signing_secrets,
    step_config,
    step_environment,
    step_secrets,
)

HEARTBEAT_SECONDS = 30.0
"""An Airflow component beats every 5 s; without a beat for this long it is not well."""


class NotHealthyError(Exception):
    """A service runs but does not answer as it should; the message says how."""


@dataclass(frozen=True)
class Service:
    """One supervised process."""

    name: str
    command: Callable[[], list[str]]
    environment: Mapping[str, str]
    check: Callable[[float], None]
    """Raises while the service is not well; given the Unix time of its start."""
    needs: tuple[str, ...] = ()
    """Services that must be healthy before it starts."""
    prepare: Callable[[], None] = field(default=lambda: None)
    """Runs before every start."""
    ready: Callable[[], None] = field(default=lambda: None)
    """Runs after a start, as soon as the check passes."""
    data: Path | None = None
    """The folder of what it keeps; when that is removed under it, nothing can go on."""
    ports: Mapping[str, int] = field(default_factory=dict)
    """The setting of each port it listens on."""
    address: str = ""
    stop_signal: int | None = None
    """Sent to the process first on a stop, where SIGTERM is not the one to ask with."""
    grace: float = 10.0
    """Seconds between asking and SIGKILL."""


def build_services(user: Settings) -> list[Service]:
    """Write the services' configuration and return them, in the order they start.

    Parameters
    ----------
    user
        What a person has set: a server in ``database_url`` takes the place of the embedded PostgreSQL.
    """
    credentials = ensure_credentials(user)
    services: list[Service] = []
    if user.database_url is None:
        postgres = EmbeddedPostgres(user)
        postgres.prepare()
        passwords = credentials.database_passwords
        urls = {owner: role_url(postgres.url, owner, password) for owner, password in passwords.items()}
        services.append(_postgres(postgres, credentials))
    else:
        airflow, mlflow = user.airflow_database_url, user.mlflow_database_url
        servers = {"airflow": airflow or user.database_url, "mlflow": mlflow or user.database_url}
        urls = {owner: servers.get(owner, user.database_url).get_secret_value() for owner in OWNERS}
        for owner, url in urls.items():
            user.database(OWNERS[owner][0])  # a wrong address is an error now, before anything starts
            create_databases(url, OWNERS[owner])
        create_audit_log(urls["audit"])
        urls[SERVER] = urls["steps"]
    config = {**step_config(user), **public_keys(user, credentials)}
    secrets = step_secrets(user, urls["steps"], credentials)
    write_env_file(user.config_file, config)  # where the steps, and `Settings`, read them
    write_env_file(user.secrets_file, secrets)
    write_env_file(user.step_secret_file("signing"), signing_secrets(user, credentials))
    write_env_file(user.step_secret_file("registry"), registry_secrets(user, credentials))
    get_settings.cache_clear()
    # what follows is for the services: the steps are never told these two
    addresses = {f"{owner}_database_url": SecretStr(urls[owner]) for owner in ("airflow", "mlflow")}
    settings = get_settings().model_copy(update=addresses)
    write_airflow_config(settings, credentials)
    environment = {**service_environment(config), **secrets}
    needs = tuple(service.name for service in services)
    return [
        *services,
        _mlflow(settings, credentials, environment, needs),
        *_airflow(settings, credentials, {**environment, **airflow_environment(settings)}, needs),
        *_warm_steps(settings, environment, config),
        _serving(settings, {**service_environment(config), **server_secrets(user, urls[SERVER], credentials)}, needs),
    ]


def _postgres(server: EmbeddedPostgres, credentials: Credentials) -> Service:
    def check(_: float) -> None:
        with connect(server.url) as connection:
            connection.execute("SELECT 1")

    return Service(
        name="postgres",
        command=server.command,
        environment=plain_environment(),
        check=check,
        prepare=server.prepare,
        ready=lambda: ensure_roles(server.url, credentials.database_passwords),
        data=server.data,
        ports={"EVERGREEN_POSTGRES_PORT": server.port},
        address=f"127.0.0.1:{server.port}",
        stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for every client to leave
    )


def _mlflow(
    settings: Settings, credentials: Credentials, environment: Mapping[str, str], needs: tuple[str, ...]
) -> Service:
    port = settings.mlflow_port
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--serve-artifacts"]
    return Service(
        name="mlflow",
        command=lambda: [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        environment={**environment, **mlflow_environment(settings, credentials)},
        check=lambda _: _check_http(port, "/health"),
        needs=needs,
        ready=lambda: ensure_users(settings, credentials),
        ports={"EVERGREEN_MLFLOW_PORT": port},
        address=f"http://127.0.0.1:{port}",
        grace=5,
    )


def _airflow(
    settings: Settings, credentials: Credentials, environment: Mapping[str, str], needs: tuple[str, ...]
) -> list[Service]:
    lock = threading.Lock()  # four services need the tables: whoever comes first makes them

    def prepare(job: str = "") -> None:
        with lock:
            _migrate(settings, environment)
        if job:
            _bury(settings, job)

    def load_settings() -> None:
        client = AirflowApi(airflow_url(settings), "admin", credentials.airflow_admin, patience=0)
        airflow_settings.load(client, airflow_settings.read())

    api = Service(
        name="api-server",
        command=lambda: [sys.executable, "-m", "airflow", "api-server"],
        environment=environment,
        check=lambda _: _check_http(settings.airflow_port, "/api/v2/monitor/health"),
        needs=needs,
        prepare=prepare,
        ready=load_settings,
        ports={"EVERGREEN_AIRFLOW_PORT": settings.airflow_port},
        address=airflow_url(settings),
    )

    def component(name: str, job: str, *options: str) -> Service:
        return Service(
            name=name,
            command=lambda: [sys.executable, "-m", "airflow", name, *options],
            environment=environment,
            check=partial(_check_heartbeat, settings, job),
            needs=needs,
            prepare=partial(prepare, job),
            grace=5,  # the executor's idle workers ignore SIGTERM: every kill -9 of the scheduler waits this long
        )

    return [
        api,
        # no log servers: they would listen on every interface, and the API server reads the same files from the disk
        component("scheduler", "SchedulerJob", "--skip-serve-logs"),
        component("dag-processor", "DagProcessorJob"),
        component("triggerer", "TriggererJob", "--skip-serve-logs"),
    ]


def _warm_steps(settings: Settings, environment: Mapping[str, str], config: Mapping[str, str]) -> list[Service]:
    """Return the service that forks steps; none where processes that have imported much cannot safely fork."""
    if not (settings.warm_steps and sys.platform == "linux"):
        return []
    scratch = run_folder(settings) / "warm"

    def prepare() -> None:
        shutil.rmtree(scratch, ignore_errors=True)
        make_folder(scratch)

    return [
        Service(
            name="warm-steps",
            command=lambda: warm_service(settings.state_dir),
            environment=step_environment(environment, config, scratch),
            check=lambda _: check_warm_service(settings.state_dir),
            prepare=prepare,
            grace=5,
        )
    ]


def _serving(settings: Settings, environment: Mapping[str, str], needs: tuple[str, ...]) -> Service:
    """Return the server of predictions: up before there is a champion, and ready as soon as there is."""
    port = settings.serving_port
    return Service(
        name="serving",
        command=lambda: [sys.executable, "-m", "evergreen", "serve", "--wait", "--port", str(port)],
        environment=environment,
        check=lambda _: _check_http(port, "/v2/health/live"),
        needs=(*needs, "mlflow"),
        ports={"EVERGREEN_SERVING_PORT": port},
        address=f"http://127.0.0.1:{port}/docs",
        grace=20,  # it answers what it has, and keeps its log
    )


def _migrate(settings: Settings, environment: Mapping[str, str]) -> None:
    """Bring Airflow's tables up to date, unless this version has done so (asking Airflow takes seconds)."""
    stamp = airflow_home(settings) / "migrated.json"
    current = {"airflow": version("apache-airflow"), "revision": _revision(settings)}
    if current["revision"] and stamp.exists() and json.loads(stamp.read_text()) == current:
        return
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    result = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if result.returncode:
        raise ConfigurationError(f"airflow db migrate failed: {(result.stderr or result.stdout).strip()[-1000:]}")
    write_private(stamp, json.dumps({**current, "revision": _revision(settings)}))


def _revision(settings: Settings) -> str:
    """Return the version of Airflow's tables; empty if there are none."""
    with suppress(psycopg.errors.UndefinedTable), _airflow_database(settings) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""
    return ""


def _check_heartbeat(settings: Settings, job: str, started: float) -> None:
    query = """SELECT extract(epoch FROM max(latest_heartbeat)) FROM job
               WHERE job_type = %s AND state = 'running' AND hostname = %s"""
    with _airflow_database(settings) as connection:
        row = connection.execute(query, (job, socket.gethostname())).fetchone()
    beat = float(row[0]) if row and row[0] is not None else 0.0
    if beat < started:
        raise NotHealthyError("no heartbeat yet")
    if (age := time.time() - beat) > HEARTBEAT_SECONDS:
        raise NotHealthyError(f"last heartbeat {age:.0f} s ago")


def _bury(settings: Settings, job: str) -> None:
    """Write down that the last process of this kind is dead.

    Its guardian has seen to it that nothing of it is left. Airflow would wait for 30 s or more without a
    heartbeat before it runs the tasks and triggers of that process again.
    """
    statement = """UPDATE job SET state = 'failed', end_date = now()
                   WHERE job_type = %s AND state = 'running' AND hostname = %s"""
    with _airflow_database(settings) as connection:
        connection.execute(statement, (job, socket.gethostname()))


def _airflow_database(settings: Settings) -> psycopg.Connection:
    return connect(settings.database("airflow"), "airflow")


def _check_http(port: int, path: str) -> None:
    with closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:  # knows no proxies
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise NotHealthyError(f"{path} answered {response.status}")
