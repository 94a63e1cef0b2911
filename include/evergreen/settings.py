"""All settings of the project: one frozen class, read from ``EVERGREEN_*`` variables and ``.env``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from evergreen.contract import ConfigurationError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The checkout this package runs from (in an image: the project folder it was copied to)."""


def _without_trailing_slash(uri: str) -> str:
    return uri.rstrip("/")


Location = Annotated[str, AfterValidator(_without_trailing_slash)]
"""An absolute local path or an ``s3://bucket/prefix`` address."""


class Settings(BaseSettings):
    """Where everything lives. Field ``x`` is read from ``EVERGREEN_X``; defaults are the laptop's."""

    model_config = SettingsConfigDict(
        env_prefix="EVERGREEN_", env_file=PROJECT_ROOT / ".env", extra="ignore", frozen=True
    )

    state_dir: Path = PROJECT_ROOT / ".evergreen"
    """Everything the laptop writes: services' data, logs, artifacts, the lake."""
    models_dir: Path = PROJECT_ROOT / "include" / "models"
    feature_repo: Path = PROJECT_ROOT / "feature_repo"
    artifact_root: Location = str(PROJECT_ROOT / ".evergreen" / "artifacts")
    """Manifests, reports, decisions, datasets, checkpoints."""
    lake_root: Location = str(PROJECT_ROOT / ".evergreen" / "lake")
    """The Iceberg warehouse."""
    database_url: SecretStr | None = None
    """A PostgreSQL server (``postgresql://user:password@host:port``); unset: the embedded one."""
    s3_endpoint: str | None = None
    """S3 endpoint when it is not Amazon's, e.g. a SeaweedFS. Keys come from the usual ``AWS_*`` variables."""
    mlflow_tracking_uri: str = "http://127.0.0.1:5000"
    """User and password come from ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``."""
    airflow_port: int = Field(default=8080, ge=1, le=65535)
    mlflow_port: int = Field(default=5000, ge=1, le=65535)
    ray_address: str = "local"
    """``local`` starts a private Ray in the step's process; otherwise the address of a cluster."""
    runtime: str = Field(default="process", pattern="^(process|kubernetes)$")
    """How the StepOperator runs pods. Read when a task executes, never at parse time."""
    step_image: str = "evergreen/step:0.1.0"
    namespace: str = "evergreen-steps"
    """Kubernetes namespace of the step pods."""
    code_version: str = ""
    """Set in images; in a checkout the git commit is used."""


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process.

    Raises
    ------
    ConfigurationError
        If a variable has a wrong value; the message names variable and value.
    """
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"EVERGREEN_{'_'.join(str(part) for part in item['loc']).upper()}={item['input']!r}: {item['msg']}."
            for item in error.errors()
        ]
        raise ConfigurationError(" ".join(lines), "Correct the variable in the environment or in .env.") from error
