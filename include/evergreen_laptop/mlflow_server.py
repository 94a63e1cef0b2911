"""The embedded MLflow server: its configuration and its users."""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.settings import Settings
from evergreen_laptop.credentials import Credentials, credentials_file
from evergreen_laptop.files import make_folder, write_config_file
from evergreen_laptop.step_settings import (
    MLFLOW_REGISTRY_USER,
    MLFLOW_SERVING_USER,
    MLFLOW_STEPS_USER,
    MLFLOW_USER,
)

_API = "/api/2.0/mlflow"
_RIGHTS = "/api/3.0/mlflow/users/permissions"


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
    """Check the password of ``admin``, people's user, and make those of steps and server, which are no administrators.

    A user that exists is given the password of the credentials, and loses what an earlier version let it do: the steps'
    own could move aliases.

    Raises
    ------
    ConfigurationError
        If MLflow refuses the administrator's password.
    TemporaryError
        If it does not answer.
    """
    url = f"http://127.0.0.1:{settings.mlflow_port}"
    login = (MLFLOW_USER, credentials.mlflow_admin)
    try:
        with httpx.Client(base_url=url, auth=login, timeout=30, trust_env=False) as client:
            for name, (password, rights) in _users(credentials).items():
                _ensure_user(client, settings, name, password)
                _permit(client, name, rights)
    except httpx.HTTPError as error:
        raise TemporaryError(f"MLflow at {url}: {error}.", "See `evergreen status`.") from error


def _users(credentials: Credentials) -> dict[str, tuple[str, dict[str, str]]]:
    """Return the users of steps and server: password, and what each may do with experiments and registered models.

    All read, by the server's default, and that is all that the steps' own may do with registered models.
    """
    return {
        MLFLOW_STEPS_USER: (credentials.mlflow_steps, {"experiment": "MANAGE"}),
        MLFLOW_REGISTRY_USER: (credentials.mlflow_registry, {"experiment": "EDIT", "registered_model": "MANAGE"}),
        MLFLOW_SERVING_USER: (credentials.mlflow_serving, {}),
    }


def _ensure_user(client: httpx.Client, settings: Settings, name: str, password: str) -> None:
    user = {"username": name, "password": password}
    answer = client.get(f"{_API}/users/get", params={"username": name})
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


def _permit(client: httpx.Client, user: str, rights: Mapping[str, str]) -> None:
    """Give a user these rights on everything of a kind, also on what a person made.

    Taken away is any other right on everything, and any on a registered model: whoever creates one may do all with it.
    """
    answer = client.get(f"{_RIGHTS}/list", params={"username": user}).raise_for_status()
    held = {(row["resource_type"], row["resource_pattern"]): row["permission"] for row in answer.json()["permissions"]}
    wanted = {(kind, "*"): permission for kind, permission in rights.items()}
    for (kind, name), permission in held.items():
        if (name == "*" or kind == "registered_model") and wanted.get((kind, name)) != permission:
            _change(client, "revoke", username=user, resource_type=kind, resource_id=name)
    for (kind, name), permission in wanted.items():
        if held.get((kind, name)) != permission:
            _change(client, "grant", username=user, resource_type=kind, resource_id=name, permission=permission)


def _change(client: httpx.Client, verb: str, **right: str) -> None:
    client.post(f"{_RIGHTS}/{verb}", json=right).raise_for_status()
