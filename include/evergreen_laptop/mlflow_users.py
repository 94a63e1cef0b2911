"""The users of the embedded MLflow: ``admin`` for people, and one for the steps, which is no administrator."""

from __future__ import annotations

import httpx

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.settings import Settings
from evergreen_laptop.credentials import Credentials, credentials_file
from evergreen_laptop.step_settings import MLFLOW_STEPS_USER, MLFLOW_USER

_API = "/api/2.0/mlflow"


def ensure_users(settings: Settings, credentials: Credentials) -> None:
    """Check the administrator's password, and create the steps' user or give it the password of the credentials.

    Raises
    ------
    ConfigurationError
        If MLflow refuses the administrator's password.
    TemporaryError
        If it does not answer.
    """
    url = f"http://127.0.0.1:{settings.mlflow_port}"
    login = (MLFLOW_USER, credentials.mlflow_admin)
    user = {"username": MLFLOW_STEPS_USER, "password": credentials.mlflow_steps}
    try:
        with httpx.Client(base_url=url, auth=login, timeout=30, trust_env=False) as client:
            found = client.get(f"{_API}/users/get", params={"username": MLFLOW_STEPS_USER})
            if found.status_code in {401, 403}:
                raise ConfigurationError(
                    f"MLflow refuses the password of its user {MLFLOW_USER!r} ({found.status_code}): "
                    "it was made with another one.",
                    f"Put back the old {credentials_file(settings)}, or drop the database mlflow_auth.",
                )
            if found.status_code == httpx.codes.NOT_FOUND:
                client.post(f"{_API}/users/create", json=user).raise_for_status()
            else:
                found.raise_for_status()
                client.patch(f"{_API}/users/update-password", json=user).raise_for_status()
            _let_manage(client, MLFLOW_STEPS_USER)
    except httpx.HTTPError as error:
        raise TemporaryError(f"MLflow at {url}: {error}.", "See `evergreen status`.") from error


def _let_manage(client: httpx.Client, user: str) -> None:
    """Let a user manage every experiment and registered model, also those that a person or an earlier version made."""
    for kind in ("experiment", "registered_model"):
        grant = {"username": user, "resource_type": kind, "resource_id": "*", "permission": "MANAGE"}
        answer = client.post("/api/3.0/mlflow/users/permissions/grant", json=grant)
        if answer.is_error and answer.json().get("error_code") != "RESOURCE_ALREADY_EXISTS":
            answer.raise_for_status()
