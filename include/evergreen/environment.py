"""The environment of a step: complete before any library runs a thread, and not written to afterwards.

Native code reads variables (``getenv``) in every thread, and glibc (before 2.41) does so without a lock: a variable
that is added meanwhile moves the table away under the reader, and the process dies of SIGSEGV. gRPC, Ray's core and
Arrow read from threads of their own; Ray, numpy, torch and MLflow add variables when they are imported or started. A
variable that exists already is given another value in place, which hurts nobody. So each one that somebody would add
later is there from the start. docs/decisions/environment.md tells how they were found.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from urllib.parse import parse_qsl, unquote, urlsplit

from evergreen.contract import ConfigurationError
from evergreen.settings import SIGNING_KEY, Settings, export_service_environment, get_settings

QUIET = {
    "DO_NOT_TRACK": "1",  # Evidently, and whoever else respects it
    "FEAST_USAGE": "False",
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "SCARF_ANALYTICS": "false",
}
"""Nothing phones home."""
_ALWAYS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "RAY_CLIENT_MODE": "0",  # what `import ray` sets
    "RAY_TRAIN_V2_ENABLED": "1",
}
_UNLESS_SET = {
    **QUIET,
    "KMP_INIT_AT_FORK": "FALSE",  # what torch's OpenMP sets
    "OPENBLAS_MAIN_FREE": "1",  # what numpy sets while it is imported
    "PYTHONBREAKPOINT": "pdb.set_trace",  # Python's own default; Ray puts its own in its place
}
_MLFLOW_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_MOST_RETRIES = 10
"""MLflow refuses to make more."""
PRIVATE_RAY = {
    # Ray binds every interface of the machine, except under the rule it has for other systems
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # and gloo binds whatever the host's name stands for
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    "RAY_AUTH_MODE": "token",
    # every worker of Ray Train gets an environment of its own: workers started in advance are never used
    "RAY_prestart_worker_first_driver": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # no node but this one, which nobody preempts; in a cluster the watcher stays on (ray-project/ray #63968)
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
}
"""Of a Ray that is started by the step; what those that are there for speed save is measured by
tests/benchmarks/ray_settings.py."""
_WORKER = {
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "KMP_INIT_AT_FORK": "FALSE",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
    "NODE_RANK": "0",
    "OPENBLAS_MAIN_FREE": "1",
    "PYTHONBREAKPOINT": "pdb.set_trace",
    "RANK": "0",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor",  # noqa: S108
    "WORLD_SIZE": "1",
}
"""What Ray Train and torch set in a training worker once it runs; the worker's own rank takes the place of this one."""

_COMPUTING = {"CUDA_VISIBLE_DEVICES", "HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER"}
_COMPUTING_PREFIXES = ("ATEN_", "KMP_", "LC_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON", "TORCH")
"""What Python, torch and the libraries below them find their files by, and how many threads they take."""


def complete(secrets: Sequence[str] = ()) -> None:
    """Add what is missing, by the settings of this process; writes nothing when it is called again.

    Parameters
    ----------
    secrets
        What this step is given beyond what every step is. The key that signs stays with this process: what it starts
        from now on, Ray's workers among it, does not inherit the variable.
    """
    export_service_environment(secrets)
    settings = get_settings()
    if secrets:
        os.environ.pop(SIGNING_KEY, None)  # the settings remember it
    add_constants()
    retries = _mlflow_retries(settings.mlflow_retry_seconds)
    add({_MLFLOW_RETRIES: os.environ.get(_MLFLOW_RETRIES, str(retries))})
    if settings.ray_address == "local":
        add(PRIVATE_RAY | {"RAY_AUTH_TOKEN": _token()})
    if settings.database_url is not None:
        with suppress(ConfigurationError):  # whoever opens the databases says what is wrong
            add(feast_variables(settings))


def add_constants() -> None:
    """Add what is the same in every step."""
    defaults = {
        **_UNLESS_SET,
        # what OpenMP does anyway; Ray's processes would set it
        "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1),
        "TORCHINDUCTOR_CACHE_DIR": f"{tempfile.gettempdir()}/torchinductor_{os.getuid()}",
    }
    add(_ALWAYS | {name: os.environ.get(name, value) for name, value in defaults.items()})


def add(variables: Mapping[str, str]) -> None:
    """Write those variables that have another value."""
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def computing_environment() -> dict[str, str]:
    """Return what a process gets that only computes: the variables that this needs, and none that is not known.

    What could hold a secret cannot be listed: every library, and every cluster, has variables of its own.
    """
    chosen = (name for name in os.environ if name in _COMPUTING or name.startswith(_COMPUTING_PREFIXES))
    return {name: os.environ[name] for name in chosen}


def worker_environment() -> dict[str, str]:
    """Return what a training worker is started with."""
    if get_settings().ray_address != "local":
        return _WORKER
    return {name: os.environ.get(name, value) for name, value in _WORKER.items()}  # the rest it has of this process


def feast_variables(settings: Settings) -> dict[str, str]:
    """Return the variables that feature_store.yaml refers to, from the configured databases."""
    online = urlsplit(settings.database("online"))
    query = dict(parse_qsl(online.query))
    values = {
        "EVERGREEN_FEAST_REGISTRY": settings.database("feast"),
        "EVERGREEN_ONLINE_HOST": online.hostname or query.get("host", "127.0.0.1"),
        "EVERGREEN_ONLINE_PORT": str(online.port or 5432),
        "EVERGREEN_ONLINE_DATABASE": online.path.strip("/") or "online",
        "EVERGREEN_ONLINE_USER": unquote(online.username or "postgres"),
        "EVERGREEN_ONLINE_PASSWORD": unquote(online.password or ""),
        "EVERGREEN_ONLINE_SSLMODE": query.get("sslmode", "prefer"),
    }
    # they stand between double quotes in a YAML file: a password may hold anything
    quoted = {name: json.dumps(value)[1:-1] for name, value in values.items()}
    # the file has no place for it; libpq takes it from here
    return quoted | ({"PGSSLROOTCERT": query["sslrootcert"]} if "sslrootcert" in query else {})


def _mlflow_retries(seconds: float) -> int:
    """Return how many retries last so long: MLflow waits 0, 4, 8, 16 ... and at most 120 s before each."""
    pauses = (min(2.0**number, 120) if number > 1 else 0 for number in range(1, _MOST_RETRIES + 1))
    lasting = accumulate(pauses)
    return next((number for number, waited in enumerate(lasting, start=1) if waited >= seconds), _MOST_RETRIES)


@lru_cache(maxsize=1)
def _token() -> str:
    """Return this process's secret: Ray's client reads it once, and goes on with it in a second Ray."""
    return secrets.token_hex(32)
