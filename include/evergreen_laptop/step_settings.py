"""What running services tell the steps: the laptop's stand-ins for the cluster's config map and secret."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import SecretStr

from evergreen.catalog import survey
from evergreen.environment import QUIET
from evergreen.settings import SIGNING_KEY, VERIFICATION_KEYS, Settings
from evergreen.trust.keys import in_one_line, published
from evergreen_airflow.kubelet import BASE_VARIABLES
from evergreen_laptop.credentials import Credentials

MLFLOW_USER = "admin"
"""The administrator of the embedded MLflow, for people."""
MLFLOW_STEPS_USER = "evergreen-steps"
"""Every step's: makes experiments, runs and models, and reads the registry."""
MLFLOW_REGISTRY_USER = "evergreen-registry"
"""That of the steps which register, promote and roll back: the only one, beside the administrator, that may."""
MLFLOW_SERVING_USER = "evergreen-serving"
"""That of the server of predictions, which reads and does no more."""
_MLFLOW_LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_RAY_LOGIN = (
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN_PATH",
    "RAY_TLS_CA_CERT",
    "RAY_TLS_SERVER_CERT",
    "RAY_TLS_SERVER_KEY",
    "RAY_USE_TLS",
)
"""How a Ray cluster is logged in to: files and switches. The token itself is a secret."""
_AWS_SECRETS = ("KEY", "SECRET", "TOKEN")
"""Parts of the names of AWS variables that are secrets. A region is none: logs would show stars in its place."""
_LOOPBACK = ("127.0.0.1", "localhost")


def step_config(settings: Settings) -> dict[str, str]:
    """Return the public half: what a person has set and where the services are."""
    names = settings.model_fields_set | {"state_dir", "artifact_root", "lake_root", "mlflow_tracking_uri"}
    values = {name: getattr(settings, name) for name in names}
    public = {
        f"EVERGREEN_{name.upper()}": str(value)
        for name, value in values.items()
        if value is not None and not isinstance(value, SecretStr)
    }
    return {
        **QUIET,
        "MLFLOW_TRACKING_URI": settings.mlflow_tracking_uri,
        "NO_PROXY": without_proxy(os.environ),
        "RAY_TRAIN_V2_ENABLED": "1",
        **_of_this_shell(_RAY_LOGIN, settings.ray_address != "local"),
        **_aws(settings, secret=False),
        **public,
    }


def step_secrets(settings: Settings, database_url: str, credentials: Credentials) -> dict[str, str]:
    """Return the secret half; with it the keys to S3 and to a Ray cluster, where the project uses these."""
    return {
        **_aws(settings, secret=True),
        **_of_this_shell(["RAY_AUTH_TOKEN"], settings.ray_address != "local"),
        "EVERGREEN_DATABASE_URL": database_url,
        **_mlflow_login(settings, credentials),
    }


def signing_secrets(settings: Settings, credentials: Credentials) -> dict[str, str]:
    """Return what only the steps that sign are given: a person's key, or the one that was made here."""
    own = settings.signing_key
    return {SIGNING_KEY: in_one_line(own.get_secret_value() if own else credentials.signing_key)}


def registry_secrets(settings: Settings, credentials: Credentials) -> dict[str, str]:
    """Return what only the steps that register and promote are given: the login that may move aliases.

    In another MLflow than the embedded one they have the login that every step has.
    """
    if not _is_embedded(settings):
        return {}
    user, password = MLFLOW_REGISTRY_USER, credentials.mlflow_registry
    return {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}


def server_secrets(settings: Settings, database_url: str, credentials: Credentials) -> dict[str, str]:
    """Return what the server of predictions is given in place of the steps' secrets: logins that only read."""
    user, password = MLFLOW_SERVING_USER, credentials.mlflow_serving
    embedded = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    return {
        **_aws(settings, secret=True),
        **(embedded if _is_embedded(settings) else _mlflow_login(settings, credentials)),
        "EVERGREEN_DATABASE_URL": database_url,
        "EVERGREEN_SERVING_MASK_KEY": credentials.serving_mask_key,
    }


def public_keys(settings: Settings, credentials: Credentials) -> dict[str, str]:
    """Return whose signatures are believed: the public half of the key that signs, and what a person has added."""
    private = signing_secrets(settings, credentials)[SIGNING_KEY]
    return {VERIFICATION_KEYS: published(private, settings.verification_keys)}


def _aws(settings: Settings, *, secret: bool) -> dict[str, str]:
    """Return this shell's secret or public AWS variables, if anything is kept on S3 or read from there."""
    places = [settings.artifact_root, settings.lake_root, *_files_of_sources(settings)]
    on_s3 = any(place.startswith("s3://") for place in places)
    names = [name for name in os.environ if name.startswith("AWS_")]
    return _of_this_shell([name for name in names if any(part in name for part in _AWS_SECRETS) is secret], on_s3)


def _files_of_sources(settings: Settings) -> Iterator[str]:
    """Yield where the models' sources of built-in types lie, as model.yaml has it."""
    if settings.models_dir.is_dir():
        for spec in survey(settings.models_dir).models:
            yield from (str(option) for source in spec.sources for option in source.options.values())


def _mlflow_login(settings: Settings, credentials: Credentials) -> dict[str, str]:
    """Return the embedded MLflow's user and password; another server is never shown them, it gets this shell's."""
    if _is_embedded(settings):
        return {"MLFLOW_TRACKING_USERNAME": MLFLOW_STEPS_USER, "MLFLOW_TRACKING_PASSWORD": credentials.mlflow_steps}
    return _of_this_shell(_MLFLOW_LOGIN)


def _is_embedded(settings: Settings) -> bool:
    address = urlsplit(settings.mlflow_tracking_uri)
    return address.hostname in _LOOPBACK and address.port == settings.mlflow_port


def _of_this_shell(names: Iterable[str], wanted: bool = True) -> dict[str, str]:
    return {name: os.environ[name] for name in names if wanted and name in os.environ}


def service_environment(config: Mapping[str, str]) -> dict[str, str]:
    """Return what every service is started with: this process's environment and the public half."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    inherited = {name: value for name, value in os.environ.items() if name != SIGNING_KEY}  # no service signs
    return {**inherited, **config, "PATH": path, "no_proxy": config["NO_PROXY"], "PYTHONUNBUFFERED": "1"}


def step_environment(service: Mapping[str, str], config: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return what the warm service is started with: what every step gets, without the secrets and the attempt."""
    base = {name: service[name] for name in BASE_VARIABLES if name in service}
    return {**base, **config, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}


def without_proxy(environment: Mapping[str, str]) -> str:
    """Return NO_PROXY with this machine in it: a company's proxy knows nothing of our loopback."""
    value = environment.get("NO_PROXY", environment.get("no_proxy", ""))
    hosts = [host for host in value.split(",") if host]
    return ",".join([*hosts, *(host for host in _LOOPBACK if host not in hosts)])
