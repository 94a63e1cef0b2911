"""All settings of the project: one frozen class, read from ``EVERGREEN_*`` variables and ``.env``."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit, urlunsplit

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from evergreen.contract import ConfigurationError
from evergreen.yaml_files import MOST_BYTES

PROJECT_ROOT = Path(__file__).resolve().parents[2]
"""The checkout this package runs from (in an image: the project folder it was copied to)."""


OWNERS: Mapping[str, tuple[str, ...]] = {
    "airflow": ("airflow",),
    "mlflow": ("mlflow", "mlflow_auth"),
    "steps": ("feast", "online", "lake", "serving"),
    "audit": ("audit",),
}
"""Whose each database is: Airflow's, MLflow's, the steps', or that of the audit log's owner, as whom nobody logs in."""

DATABASES = tuple(name for databases in OWNERS.values() for name in databases)
"""Every database of the project, all on one PostgreSQL server."""

ENV_FILE = PROJECT_ROOT / ".env"
"""What a person sets for this checkout; the environment wins over it."""

PREFIX = "EVERGREEN_"
SIGNING_KEY, VERIFICATION_KEYS = f"{PREFIX}SIGNING_KEY", f"{PREFIX}VERIFICATION_KEYS"
"""The variables of the private key and of the public ones."""
NO_SETTINGS = frozenset(
    (
        *("ATTEMPT", "IMAGE", "MEMORY"),  # told to a step by its operator
        *("FEAST_REGISTRY", "FEAST_TOKEN"),
        "HEARTBEAT_FILE",  # told to Airflow's components by the chart
        *(f"ONLINE_{part}" for part in ("DATABASE", "HOST", "PASSWORD", "PORT", "SSLMODE", "USER")),
    )
)
"""Variables of the project, after their prefix, that are no settings of a person's."""

_SERVICE_LINK = re.compile(r"\w+_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
"""What Kubernetes tells a pod of a Service ``evergreen-…`` in its namespace, unless ``enableServiceLinks`` is false."""


def _location(uri: str) -> str:
    if uri.startswith("s3://"):
        return uri.rstrip("/")
    if "://" in uri or not uri:
        raise ValueError("give a local path, or s3://bucket/prefix")
    return str(Path(uri).expanduser().absolute())


Location = Annotated[str, AfterValidator(_location)]
"""A local path (made absolute) or an ``s3://bucket/prefix`` address."""


AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
"""A local path; a relative one is taken from the current folder, ``~`` is the home folder."""

Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """Where everything lives. Field ``x`` is read from ``EVERGREEN_X``; defaults are the laptop's."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True)

    state_dir: AbsolutePath = PROJECT_ROOT / ".evergreen"
    """Everything the laptop writes: services' data, logs, artifacts, the lake."""
    models_dir: AbsolutePath = PROJECT_ROOT / "include" / "models"
    feature_repo: AbsolutePath = PROJECT_ROOT / "feature_repo"
    artifact_root: Location = Field(default_factory=lambda data: str(data["state_dir"] / "artifacts"))
    """Manifests, reports, decisions, datasets, checkpoints."""
    lake_root: Location = Field(default_factory=lambda data: str(data["state_dir"] / "lake"))
    """The Iceberg warehouse."""
    database_url: SecretStr | None = None
    """A PostgreSQL server (``postgresql://user:password@host:port``); unset: the embedded one."""
    airflow_database_url: SecretStr | None = None
    """That server for Airflow's own role, which no step is told; unset: ``EVERGREEN_DATABASE_URL``."""
    mlflow_database_url: SecretStr | None = None
    """The same for MLflow's."""
    audit_database_url: SecretStr | None = None
    """That server for a role that reads the audit log and no more; unset: ``EVERGREEN_DATABASE_URL``."""
    s3_endpoint: str | None = None
    """S3 endpoint when it is not Amazon's, e.g. a SeaweedFS. Keys come from the usual ``AWS_*`` variables."""
    s3_connect_seconds: Annotated[float, Field(gt=0, le=3600)] = 10
    """How long an S3 may take to accept a connection."""
    s3_read_seconds: Annotated[float, Field(gt=0, le=3600)] = 60
    """How long an S3 may send nothing: a busy one is slow long before it is gone."""
    s3_attempts: Annotated[int, Field(ge=1, le=100)] = 4
    """How often a request to it is made in all before the step that makes it fails as temporary."""
    postgres_port: Port = 15432
    airflow_port: Port = 8080
    mlflow_port: Port = 5000
    serving_port: Port = 8090
    """Of the server of predictions."""
    serving_follow_seconds: Annotated[float, Field(gt=0, le=3600)] = 2
    """How often it asks whether another version is champion."""
    airflow_url: str | None = None
    """The Airflow that `evergreen loop` drives when it is not this machine's own, e.g. that of a cluster."""
    airflow_user: str = "admin"
    """Its user, with ``EVERGREEN_AIRFLOW_PASSWORD``."""
    airflow_password: SecretStr | None = None
    serving_mask_key: SecretStr | None = None
    """What the prediction log digests the columns of ``serving.masked`` with; the same in all servers of a model."""
    serving_spool_megabytes: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """How much of the prediction log a server keeps while the artifact store does not take it; its models share it."""
    serving_most_in_flight: Annotated[int, Field(ge=1, le=100_000)] = 1024
    """How many requests it answers at once; one more is told to come again before it is read."""
    serving_drain_seconds: Annotated[float, Field(ge=0, le=600)] = 5
    """Told to stop, it is not ready and answers on for so long, until nobody sends it requests any more."""
    serving_open_metrics: bool = False
    """Whether its ``/metrics`` asks for no token."""
    serving_jwt_issuer: str | None = None
    """Who may vouch for clients, beside the tokens of ``evergreen tokens``: the claim ``iss``."""
    serving_jwt_audience: str | None = None
    """The claim ``aud`` of its tokens."""
    serving_jwt_keys: str | None = None
    """The address of its JSON Web Key Set: http(s), or a file."""
    mlflow_tracking_uri: str = Field(default_factory=lambda data: f"http://127.0.0.1:{data['mlflow_port']}")
    """User and password come from ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``."""
    mlflow_retry_seconds: Annotated[float, Field(ge=0, le=600)] = 300
    """How long an MLflow that does not answer is asked again: as long as a busy node may need to start another."""
    ray_address: str = "local"
    """``local`` starts a private Ray in the step's process; otherwise the address of a cluster."""
    runtime: Literal["process", "kubernetes"] = "process"
    """How the StepOperator runs pods. Read when a task executes, never at parse time."""
    warm_steps: bool = True
    """Keep a process with the steps' libraries imported (700 MB), of which local steps are forks (Linux)."""
    step_image: str = "evergreen/step:0.1.0"
    namespace: str = "evergreen-steps"
    """Kubernetes namespace of the step pods."""
    pod_service_account: str = ""
    """Service account of the step pods; its token is never mounted. Unset: the namespace's default one."""
    pod_file: AbsolutePath | None = None
    """A YAML file that places the step pods and sizes their profiles; docs/troubleshooting.md has its keys."""
    pod_schedule_seconds: Annotated[int, Field(ge=1)] = 600
    """How long a step pod may look for a node: an autoscaler needs minutes to add one."""
    pod_start_seconds: Annotated[int, Field(ge=1)] = 600
    """How long its node may take to start it: the image of a training step is large."""
    pod_stuck_seconds: Annotated[int, Field(ge=1)] = 120
    """How long it may be kept from starting by what may go away: an image that cannot be pulled, a missing Secret."""
    sql_seconds: Annotated[float, Field(gt=0, le=86_400)] = 1800
    """How long one SQL file of a model may take before it is interrupted."""
    code_version: str = ""
    """Set in images; in a checkout the git commit is used."""
    signing_key: SecretStr | None = None
    """The private key (PEM, P-256) that models and records are signed with; only steps that sign are given it."""
    verification_keys: str = ""
    """The public keys (PEM) whose signatures are believed: several while keys change."""

    @property
    def config_file(self) -> Path:
        """What the running services tell the steps: the laptop's ``evergreen-settings`` config map."""
        return self.state_dir / "config" / "evergreen-settings.env"

    @property
    def secrets_file(self) -> Path:
        """The secret half of it: the laptop's ``evergreen-secrets`` secret."""
        return self.state_dir / "secrets" / "evergreen-secrets.env"

    def step_secret_file(self, name: str) -> Path:
        """Return the file of what only some steps are given: the laptop's ``evergreen-<name>`` secret."""
        return self.state_dir / "secrets" / f"evergreen-{name}.env"

    def database(self, name: str) -> str:
        """Return the SQLAlchemy address (psycopg 3) of one of the project's databases.

        Raises
        ------
        ConfigurationError
            If the name is none of `DATABASES`, or no server is known.
        """
        if name not in DATABASES:
            raise ConfigurationError(f"There is no database {name!r}.", f"Databases: {', '.join(DATABASES)}.")
        owner = next(owner for owner, databases in OWNERS.items() if name in databases)
        owner_server: SecretStr | None = getattr(self, f"{owner}_database_url", None)
        variable = f"{PREFIX}{owner.upper()}_DATABASE_URL" if owner_server is not None else "EVERGREEN_DATABASE_URL"
        address = self.database_url if owner_server is None else owner_server
        if address is None:
            raise ConfigurationError(
                "EVERGREEN_DATABASE_URL is not set and no services are running.",
                "Start them with: evergreen up (or make up).",
            )
        try:
            parts = urlsplit(address.get_secret_value())
        except ValueError:  # its message may hold the password
            raise ConfigurationError(
                f"{variable} is no address: a bracket, or a character that only looks like another.",
                "Write such characters in user and password as %XX.",
            ) from None
        if parts.scheme.partition("+")[0] not in {"postgresql", "postgres"}:
            raise ConfigurationError(
                f"{variable}: {parts.scheme!r} is not PostgreSQL.",
                "Write it as postgresql://user:password@host:5432",
            )
        return urlunsplit(("postgresql+psycopg", parts.netloc, f"/{name}", parts.query, ""))


def user_settings() -> Settings:
    """Return what a person has set, without what running services have added."""
    return _load(ENV_FILE)


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the settings of this process.

    They come, strongest first, from the environment, ``.env``, and the files that ``evergreen up`` leaves for the
    steps in the state folder.

    Raises
    ------
    ConfigurationError
        If a variable has a wrong value; the message names variable and value.
    """
    user = user_settings()
    return _load(user.config_file, user.secrets_file, ENV_FILE)


def export_service_environment(secrets: Iterable[str] = ()) -> None:
    """Give this process what only environment variables can say to libraries, e.g. MLflow's user and password.

    A step in a pod or under the StepOperator has them already; a step run from a shell has not. What is set stays.

    Parameters
    ----------
    secrets
        What the step is given beyond what every step is; it takes the place of that.
    """
    user = user_settings()
    further = [user.step_secret_file(name) for name in secrets]
    for file in (*further, user.config_file, user.secrets_file):
        for name, value in dotenv_values(file, interpolate=False).items():
            if value is not None and (file in further or not name.startswith(PREFIX)):
                os.environ.setdefault(name, value)
    if further:
        get_settings.cache_clear()  # they may have been read without these


def misspelt() -> Iterator[str]:
    """Yield a sentence for every variable that looks like a setting and is none; no value is told.

    It is a warning and no error: another program may call its variables so, and while a cluster is upgraded steps of
    an older version are told the settings of a newer one.
    """
    settings = [field.upper() for field in Settings.model_fields]
    for place, variables in (("the environment", os.environ), (str(ENV_FILE), _dotenv())):
        for variable, value in sorted(variables.items()):
            if not variable.upper().startswith(PREFIX):
                continue
            name = variable.upper().removeprefix(PREFIX)
            is_link = _SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and "://" in value)
            if is_link or name in NO_SETTINGS or name in settings:
                continue
            close = difflib.get_close_matches(name, settings, n=1)
            hint = f"Did you mean {PREFIX}{close[0]}?" if close else "docs/settings.md lists them all."
            yield f"{variable}, in {place}, is no setting and is ignored. {hint}"


def exposed() -> Iterator[str]:
    """Yield a sentence if ``.env`` holds secrets that other users of the machine can read."""
    secrets = {name for name, field in Settings.model_fields.items() if field.annotation == SecretStr | None}
    present = {name.upper() for name, value in _dotenv().items() if value}
    held = sorted(present.intersection(f"{PREFIX}{name.upper()}" for name in secrets))
    if held and ENV_FILE.stat().st_mode & 0o077:
        yield (
            f"{ENV_FILE} holds {', '.join(held)}, and other users of this machine can read it. "
            f"Close it: chmod 600 {ENV_FILE}"
        )


def _dotenv() -> dict[str, str]:
    """Return the variables in ``.env``; none if it cannot be read: whoever reads a setting says what is wrong."""
    with suppress(OSError, ValueError):
        return {name: value or "" for name, value in dotenv_values(ENV_FILE).items()}
    return {}


def _load(*files: Path) -> Settings:
    try:
        for file in files:
            if file.is_file() and file.stat().st_size > MOST_BYTES:
                raise ConfigurationError(f"{file}: longer than {MOST_BYTES:,} bytes.", "Is it the right file?")
        return Settings(_env_file=files)
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: {error.strerror}.", "Is it another user's?") from error
    except UnicodeDecodeError as error:  # its traceback would hold the file
        raise ConfigurationError(f"{files[-1]}: not UTF-8: byte {error.start} is wrong.", "Save it as UTF-8.") from None
    except ValidationError as error:
        lines = [
            f"EVERGREEN_{'_'.join(str(part) for part in item['loc']).upper()}={item['input']!r}: {item['msg']}."
            for item in error.errors()
            if item["type"] != "default_factory_not_called"  # follows from another one
        ]
        raise ConfigurationError(" ".join(lines), "Correct the variable in the environment or in .env.") from error
