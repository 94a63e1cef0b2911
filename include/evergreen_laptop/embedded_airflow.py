"""The Airflow of this machine: its configuration, a client of it or of the one that is named, its command line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from evergreen.environment import add
from evergreen.settings import PROJECT_ROOT, Settings, export_service_environment, get_settings, user_settings
from evergreen_airflow.replay.command import named_addresses, named_airflow
from evergreen_laptop.credentials import Credentials, credentials_file, read_credentials
from evergreen_laptop.files import clear_disk_errors, make_folder, write_config_file, write_private
from evergreen_laptop.step_settings import service_environment, without_proxy

if TYPE_CHECKING:
    from evergreen_airflow.rest_api import AirflowApi

Sections = dict[str, dict[str, str | int | float]]


def airflow_home(settings: Settings) -> Path:
    """Return AIRFLOW_HOME."""
    return settings.state_dir / "airflow"


def airflow_url(settings: Settings) -> str:
    """Return the address of the UI and the API."""
    return f"http://127.0.0.1:{settings.airflow_port}"


def airflow_sections(settings: Settings, credentials: Credentials) -> Sections:
    """Return the options that differ from Airflow's defaults, and why.

    The tuned ones were measured on six trivial sequential tasks: 6.7 to 12 s with the defaults, 1.3 s so.
    """
    home, url = airflow_home(settings), airflow_url(settings)
    logs = settings.state_dir / "logs"
    database = settings.database("airflow")
    return {
        "core": {
            "parallelism": max(4, 2 * (os.cpu_count() or 1)),
            "dags_folder": str(PROJECT_ROOT / "dags"),
            "plugins_folder": str(PROJECT_ROOT / "plugins"),
            "load_examples": "False",
            "dagbag_import_timeout": 180,  # a starved machine takes longer than the default 30 s
            # else the graph of assets fails: its query, json #> text, is json #> varchar from psycopg 3
            "compress_serialized_dags": "True",
            "fernet_key": credentials.airflow_fernet_key,
            "hostname_callable": "socket.gethostname",  # a full name costs a DNS query, offline a timeout
            "simple_auth_manager_users": ",".join(f"{name}:{name}" for name in credentials.airflow_passwords),
            "simple_auth_manager_passwords_file": str(home / "passwords.json"),
            "execution_api_server_url": f"{url}/execution/",
        },
        "database": {"sql_alchemy_conn": database, "sql_alchemy_conn_async": database},
        "logging": {
            "base_log_folder": str(logs / "tasks"),
            "dag_processor_child_process_log_directory": str(logs / "dag_processor"),
            "file_task_handler_new_folder_permissions": "0o700",  # the default lets everybody read them
            "file_task_handler_new_file_permissions": "0o600",
        },
        "api": {
            "host": "127.0.0.1",
            "port": settings.airflow_port,
            "base_url": url,
            "instance_name": "Evergreen",
            "secret_key": credentials.airflow_api_secret,
        },
        "api_auth": {"jwt_secret": credentials.airflow_jwt_secret},
        # a task may wait longer in the queue than the default 10 minutes, behind a training
        "execution_api": {"jwt_expiration_time": 6 * 3600},
        "workers": {
            "min_heartbeat_interval": 1,  # the default, 5 s, holds a finished task's slot that long
            # tasks ride out a restart of the API server instead of failing
            "max_failed_heartbeats": 30,
            "execution_api_retries": 12,
            "execution_api_retry_wait_max": 5,
        },
        "scheduler": {
            "scheduler_idle_sleep_time": 0.1,
            "orphaned_tasks_check_interval": 30,
            "task_instance_heartbeat_timeout": 120,
        },
        "dag_processor": {
            "refresh_interval": 10,  # the default, 300 s, hides new files
            "dag_file_processor_timeout": 240,
            "dag_bundle_storage_path": str(home / "bundles"),
        },
    }


def write_airflow_config(settings: Settings, credentials: Credentials) -> None:
    """Write Airflow's home folder; ``AIRFLOW__*`` variables of the user still win over it."""
    home = make_folder(airflow_home(settings))
    write_config_file(home / "airflow.cfg", airflow_sections(settings, credentials))
    write_private(home / "passwords.json", json.dumps(credentials.airflow_passwords) + "\n")
    # Airflow puts $AIRFLOW_HOME/config on its path: airflow_local_settings.py is found there
    link, target = home / "config", PROJECT_ROOT / "config"
    with clear_disk_errors(link):
        if not (link.is_symlink() and link.readlink() == target):
            link.unlink(missing_ok=True)
            link.symlink_to(target)


def airflow_environment(settings: Settings) -> dict[str, str]:
    """Return what every Airflow process needs on top of `service_environment`."""
    # LocalExecutor forks: on macOS the system's libraries abort a forked child without these two
    return {
        "AIRFLOW_HOME": str(airflow_home(settings)),
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",
        "PYTHONFAULTHANDLER": "true",
    }


def connect() -> AirflowApi:
    """Return a client of the Airflow that is named by ``EVERGREEN_AIRFLOW_URL``, else of this machine's.

    Raises
    ------
    ConfigurationError
        If no password is given for the one named, or this machine's was never started.
    """
    return client() if get_settings().airflow_url is None else named_airflow()


def client() -> AirflowApi:
    """Return a client of this machine's Airflow."""
    from evergreen_airflow.rest_api import AirflowApi

    user = user_settings()
    add(dict.fromkeys(("NO_PROXY", "no_proxy"), without_proxy(os.environ)))  # the loop reads what lies on this machine
    return AirflowApi(airflow_url(user), "admin", read_credentials(user).airflow_admin)


def addresses() -> dict[str, str]:
    """Return where a person looks: the addresses of the user interfaces, and the file with the passwords."""
    settings = get_settings()
    if settings.airflow_url is not None:
        return named_addresses()
    return {
        "Airflow": airflow_url(settings),
        "MLflow": settings.mlflow_tracking_uri,
        "Predictions": f"http://127.0.0.1:{settings.serving_port}",
        "Passwords": str(credentials_file(settings)),
    }


def run(arguments: list[str]) -> None:
    """Become Airflow's own command line, set up for the embedded Airflow: ``airflow dags list``."""
    export_service_environment()
    user = user_settings()
    if arguments and not {"-h", "--help"} & set(arguments):  # help needs no Airflow
        read_credentials(user)
    environment = {**service_environment({"NO_PROXY": without_proxy(os.environ)}), **airflow_environment(user)}
    os.execve(sys.executable, [sys.executable, "-m", "airflow", *arguments], environment)  # noqa: S606
