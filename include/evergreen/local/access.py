"""How other parts of the project reach the running services."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from evergreen.local import declared
from evergreen.local.airflow_config import airflow_environment, airflow_url
from evergreen.local.credentials import read_credentials
from evergreen.local.environment import service_environment, without_proxy
from evergreen.settings import export_service_environment, get_settings, user_settings

if TYPE_CHECKING:
    from evergreen.local.airflow_api import AirflowApi


def airflow_api() -> AirflowApi:
    """Return a client of the embedded Airflow, logged in as its administrator.

    Raises
    ------
    ConfigurationError
        If the services were never started.
    """
    from evergreen.local.airflow_api import AirflowApi

    os.environ["NO_PROXY"] = os.environ["no_proxy"] = without_proxy(os.environ)
    user = user_settings()
    return AirflowApi(airflow_url(user), "admin", read_credentials(user).airflow_admin)


def mlflow_address() -> str:
    """Return the address of MLflow; its user and password are in the environment afterwards."""
    export_service_environment()
    return get_settings().mlflow_tracking_uri


def load_airflow_settings() -> declared.Declared:
    """Load airflow_settings.yaml into the running Airflow; returns what it declares."""
    user = user_settings()
    found = declared.read()
    declared.load(airflow_url(user), read_credentials(user).airflow_admin, found)
    return found


def run_airflow(arguments: list[str]) -> None:
    """Become Airflow's own command line, set up for the embedded Airflow: ``airflow dags list``."""
    export_service_environment()
    user = user_settings()
    read_credentials(user)
    environment = {**service_environment({"NO_PROXY": without_proxy(os.environ)}), **airflow_environment(user)}
    os.execve(sys.executable, [sys.executable, "-m", "airflow", *arguments], environment)  # noqa: S606
