"""How other parts of the project reach the running services."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from evergreen.contract import ConfigurationError
from evergreen.local import declared
from evergreen.local.airflow_config import airflow_environment, airflow_url
from evergreen.local.credentials import credentials_file, read_credentials
from evergreen.local.environment import service_environment, without_proxy
from evergreen.settings import export_service_environment, get_settings, user_settings

if TYPE_CHECKING:
    from evergreen.local.airflow_api import AirflowApi


def airflow_api() -> AirflowApi:
    """Return a client of the Airflow that is named by ``EVERGREEN_AIRFLOW_URL``, else of this machine's own.

    Raises
    ------
    ConfigurationError
        If no password is given for the one named, or this machine's own was never started.
    """
    from evergreen.local.airflow_api import AirflowApi

    settings = get_settings()
    if settings.airflow_url is not None:
        if settings.airflow_password is None:
            raise ConfigurationError(
                f"EVERGREEN_AIRFLOW_URL is {settings.airflow_url}, but EVERGREEN_AIRFLOW_PASSWORD is not set.",
                f"Give the password of the user {settings.airflow_user!r} there.",
            )
        return AirflowApi(settings.airflow_url, settings.airflow_user, settings.airflow_password.get_secret_value())
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = without_proxy(os.environ)
    user = user_settings()
    return AirflowApi(airflow_url(user), "admin", read_credentials(user).airflow_admin)


def places() -> dict[str, str]:
    """Return where a person looks: the addresses of the user interfaces, and the file with the passwords."""
    settings = get_settings()
    if settings.airflow_url is not None:
        return {"Airflow": settings.airflow_url, "MLflow": settings.mlflow_tracking_uri}
    return {
        "Airflow": airflow_url(settings),
        "MLflow": settings.mlflow_tracking_uri,
        "Passwords": str(credentials_file(settings)),
    }


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
    if arguments and not {"-h", "--help"} & set(arguments):  # help needs no Airflow
        read_credentials(user)
    environment = {**service_environment({"NO_PROXY": without_proxy(os.environ)}), **airflow_environment(user)}
    os.execve(sys.executable, [sys.executable, "-m", "airflow", *arguments], environment)  # noqa: S606
