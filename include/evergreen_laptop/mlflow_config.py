"""How the embedded MLflow server is configured."""

from __future__ import annotations

import configparser
import io

from evergreen.settings import Settings
from evergreen_laptop.credentials import Credentials
from evergreen_laptop.files import make_folder, write_private
from evergreen_laptop.step_settings import MLFLOW_USER


def mlflow_environment(settings: Settings, credentials: Credentials) -> dict[str, str]:
    """Write the server's authentication file and return its environment.

    The addresses go through the environment: command lines can be read by every user of the machine.
    """
    folder = make_folder(settings.state_dir / "mlflow", mode=0o700)
    parser = configparser.RawConfigParser()
    parser["mlflow"] = {
        "default_permission": "READ",
        "database_uri": settings.database("mlflow_auth").replace("%", "%%"),
        "admin_username": MLFLOW_USER,
        "admin_password": credentials.mlflow_admin,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": "60",  # otherwise the password is hashed again on every request
    }
    text = io.StringIO()
    parser.write(text)
    write_private(folder / "basic_auth.ini", text.getvalue())
    endpoint = {"MLFLOW_S3_ENDPOINT_URL": settings.s3_endpoint} if settings.s3_endpoint else {}
    return {
        **endpoint,
        "MLFLOW_ARTIFACTS_DESTINATION": f"{settings.artifact_root}/mlflow",
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_BACKEND_STORE_URI": settings.database("mlflow"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": credentials.mlflow_session_secret,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven more processes, 1.7 GB
    }
