"""How a person on this machine reaches the Airflow that runs here, or the one that is named."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from evergreen.settings import export_service_environment, get_settings, user_settings
from evergreen_airflow.replay.command import named_addresses, named_airflow
from evergreen_laptop.airflow_config import airflow_environment, airflow_url
from evergreen_laptop.credentials import credentials_file, read_credentials
from evergreen_laptop.step_settings import service_environment, without_proxy

if TYPE_CHECKING:
    from evergreen_airflow.rest_api import AirflowApi


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
    return AirflowApi(airflow_url(user), "admin", read_credentials(user).airflow_admin)


def addresses() -> dict[str, str]:
    """Return where a person looks: the addresses of the user interfaces, and the file with the passwords."""
    settings = get_settings()
    if settings.airflow_url is not None:
        return named_addresses()
    return {
        "Airflow": airflow_url(settings),
        "MLflow": settings.mlflow_tracking_uri,
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
