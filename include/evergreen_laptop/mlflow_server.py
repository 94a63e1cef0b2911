"""The embedded MLflow server: its configuration and its users."""

from __future__ import annotations

import httpx

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.settings import Settings
from evergreen_laptop.credentials import Credentials, credentials_file
from evergreen_laptop.files import make_folder, write_config_file
from evergreen_laptop.step_settings import MLFLOW_STEPS_USER, MLFLOW_USER

_API = "/api/2.0/mlflow"


def mlflow_environment(settings: Settings, credentials: Credentials) -> dict[str, str]:
    """Write the server's authentication file and return its environment.

    The addresses go through the environment: command lines can be read by every user of the machine.
    """
    auth_file = make_folder(settings.state_dir / "mlflow") / "basic_auth.ini"
    auth = {
        "default_permission": "READ",
        "database_uri": settings.database("mlflow_auth"),
        "admin_username": MLFLOW_USER,
        "admin_password": credentials.mlflow_admin,
        "auth_cache_ttl_seconds": 60,  # otherwise the password is hashed again on every request
    }
    write_config_file(auth_file, {"mlflow": auth})
    endpoint = {"MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint} if settings.s3_endpoint else {}
    return {
        **endpoint,
        "MLFLOW_ARTIFACTS_DESTINATION": f"{settings.artifact_root}/mlflow",
        "MLFLOW_AUTH_CONFIG_PATH": str(auth_file),
        "MLFLOW_BACKEND_STORE_URI": settings.database("mlflow"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": credentials.mlflow_session_secret,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, 1.7 GB
    }


def ensure_users(settings: Settings, credentials: Credentials) -> None:
    """Check the password of ``admin``, people's user, and make the steps' user, which is no administrator.

    A steps' user that exists is given the password of the credentials.

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
            answer = client.get(f"{_API}/users/get", params={"username": MLFLOW_STEPS_USER})
            if answer.status_code in {401, 403}:
                raise ConfigurationError(
                    f"MLflow refuses the password of its user {MLFLOW_USER!r} ({answer.status_code}): "
                    "it was made with another one.",
                    f"Put back the old {credentials_file(settings)}, or drop the database mlflow_auth.",
                )
            if answer.status_code == httpx.codes.NOT_FOUND:
                client.post(f"{_API}/users/create", json=user).raise_for_status()
            else:
                answer.raise_for_status()
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
