"""Keys and passwords of the embedded services: made once, kept in one private file of the state folder."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

from pydantic import Field, ValidationError

from evergreen.contract import ConfigurationError
from evergreen.settings import Settings
from evergreen.stored import Part
from evergreen.trust.keys import new_key
from evergreen_laptop.files import make_folder, write_private

_HINT = "Correct the file, or remove it: new passwords are made."


def new_password() -> str:
    """Return a password that needs no quoting anywhere."""
    return secrets.token_urlsafe(18)


def _key() -> str:
    return secrets.token_urlsafe(32)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


class Credentials(Part):
    """Everything secret that a start needs.

    Missing fields are made up, so an old file gains new ones; those that a newer version has added are kept for it.
    """

    airflow_admin: str = Field(default_factory=new_password)
    airflow_user: str = Field(default_factory=new_password)
    airflow_viewer: str = Field(default_factory=new_password)
    airflow_fernet_key: str = Field(default_factory=_fernet_key)
    airflow_jwt_secret: str = Field(default_factory=_key)
    airflow_api_secret: str = Field(default_factory=_key)
    database_airflow: str = Field(default_factory=new_password)
    database_mlflow: str = Field(default_factory=new_password)
    database_steps: str = Field(default_factory=new_password)
    database_serving: str = Field(default_factory=new_password)
    mlflow_admin: str = Field(default_factory=new_password)
    mlflow_steps: str = Field(default_factory=new_password)
    mlflow_registry: str = Field(default_factory=new_password)
    mlflow_serving: str = Field(default_factory=new_password)
    mlflow_session_secret: str = Field(default_factory=_key)
    serving_mask_key: str = Field(default_factory=_key)
    signing_key: str = Field(default_factory=lambda: new_key()[0])

    @property
    def airflow_passwords(self) -> dict[str, str]:
        """Return the passwords of the Airflow UI's users, each called as the role it has.

        There are two who may answer, because one person cannot approve twice, nor what they have started themselves.
        """
        return {"admin": self.airflow_admin, "user": self.airflow_user, "viewer": self.airflow_viewer}

    @property
    def database_passwords(self) -> dict[str, str]:
        """Return the passwords of the embedded PostgreSQL's roles: of those who own databases, and of the server."""
        return {
            "airflow": self.database_airflow,
            "mlflow": self.database_mlflow,
            "steps": self.database_steps,
            "serving": self.database_serving,
        }


def credentials_file(settings: Settings) -> Path:
    """Return the file that holds them (mode 0600)."""
    return settings.state_dir / "secrets" / "credentials.json"


def read_credentials(settings: Settings) -> Credentials:
    """Return the credentials of the services.

    Raises
    ------
    ConfigurationError
        If there are none yet, or the file is damaged.
    """
    path = credentials_file(settings)
    try:
        return Credentials.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: no such file.", "Start the services with: evergreen up") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}.", _HINT) from error
    except ValidationError as error:  # its own text quotes the file
        problems = [f"{'.'.join(map(str, item['loc'])) or 'all of it'}: {item['msg']}" for item in error.errors()]
        raise ConfigurationError(f"{path}: {'; '.join(problems)}.", _HINT) from None


def ensure_credentials(settings: Settings) -> Credentials:
    """Return the credentials, making what is missing."""
    path = credentials_file(settings)
    make_folder(path.parent)
    credentials = read_credentials(settings) if path.exists() else Credentials()
    write_private(path, credentials.model_dump_json(indent=2) + "\n")
    return credentials
