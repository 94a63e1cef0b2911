"""The few calls of Airflow's REST API that the replay and the services make. It rides out a server that restarts."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from evergreen.contract import ConfigurationError, TemporaryError

PATIENCE = 180.0
"""Seconds to keep asking a server that does not answer: the supervisor restarts it within that."""
_RETRY_SECONDS = 0.5


class DagRun(BaseModel):
    """What the loop needs to know about a DAG run."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    dag_id: str
    dag_run_id: str
    state: str
    run_after: AwareDatetime
    conf: dict[str, JsonValue] | None = None
    partition_key: str | None = None


class TaskRun(BaseModel):
    """What the loop needs to know about a task instance."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    dag_id: str
    dag_run_id: str
    task_id: str
    state: str | None
    try_number: int
    start_date: AwareDatetime | None = None
    end_date: AwareDatetime | None = None


class AirflowApi:
    """A client of one Airflow.

    Parameters
    ----------
    url
        Address of the API server, e.g. ``http://127.0.0.1:8080``.
    user, password
        An account that may trigger and clear runs.
    patience
        Seconds to keep asking a server that does not answer.
    """

    def __init__(self, url: str, user: str, password: str, patience: float = PATIENCE) -> None:
        self.url = url
        self._account = {"username": user, "password": password}
        self._patience = patience
        loopback = urlsplit(url).hostname in {"127.0.0.1", "localhost"}  # a company's proxy knows nothing of ours
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=not loopback)

    def dag_is_known(self, dag_id: str) -> bool:
        """Return whether Airflow has a DAG now: a stale one, whose file is gone or broken, cannot be started."""
        response = self._call("GET", f"/dags/{dag_id}")
        return response.is_success and not response.json()["is_stale"]

    def import_errors(self) -> list[str]:
        """Return what stops DAG files from loading, a line each."""
        errors = self._checked("GET", "/importErrors")["import_errors"]
        return [f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}" for error in errors]

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run."""
        self._checked("PATCH", f"/dags/{dag_id}", params={"update_mask": "is_paused"}, json={"is_paused": False})

    def find_run(self, dag_id: str, run_id: str) -> DagRun | None:
        """Return a run by its id, or None."""
        response = self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
        return None if response.status_code == httpx.codes.NOT_FOUND else DagRun.model_validate(_content(response))

    def newest_run_of(self, dag_id: str, partition_key: str) -> DagRun | None:
        """Return the newest run of a partition, or None."""
        params = {"partition_key_prefix_pattern": partition_key, "order_by": "-run_after", "limit": "1"}
        runs = self._checked("GET", f"/dags/{dag_id}/dagRuns", params=params)["dag_runs"]
        return DagRun.model_validate(runs[0]) if runs else None

    def start_run(
        self, dag_id: str, run_id: str, conf: dict[str, JsonValue] | None = None, partition_key: str | None = None
    ) -> DagRun:
        """Start a run, or return the one that is already called so."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf or {}, "partition_key": partition_key}
        response = self._call("POST", f"/dags/{dag_id}/dagRuns", json=body)
        if response.status_code == httpx.codes.CONFLICT:
            return DagRun.model_validate(self._checked("GET", f"/dags/{dag_id}/dagRuns/{run_id}"))
        return DagRun.model_validate(_content(response))

    def clear_failed(self, dag_id: str, run_id: str) -> None:
        """Let the failed tasks of a run, and what follows them, run again."""
        body = {"dry_run": False, "only_failed": True}
        self._checked("POST", f"/dags/{dag_id}/dagRuns/{run_id}/clear", json=body)

    def tasks(self, dag_id: str, run_id: str) -> list[TaskRun]:
        """Return the task instances of a run."""
        tasks = self._checked("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return [TaskRun.model_validate(task) for task in tasks]

    def overwrite(self, kind: str, entities: list[dict[str, Any]]) -> Any:
        """Create connections, pools or variables, or bring them back to what is given; returns what was refused."""
        action = {"action": "create", "entities": entities, "action_on_existence": "overwrite"}
        response = self._call("PATCH", f"/{kind}", json={"actions": [action]})
        return response.json().get("create", {}).get("errors") if response.is_success else response.text

    def _checked(self, method: str, path: str, **arguments: Any) -> Any:
        return _content(self._call(method, path, **arguments))

    def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request until a server answers it."""
        retrying = Retrying(
            retry=retry_if_exception_type((httpx.TransportError, _NoAnswerError)),
            wait=wait_fixed(_RETRY_SECONDS),
            stop=stop_after_delay(self._patience),
        )
        try:
            return retrying(self._request, method, path, **arguments)
        except RetryError as error:
            problem = error.last_attempt.exception()
            raise TemporaryError(
                f"Airflow at {self.url}: {type(problem).__name__}: {problem}, for {self._patience:.0f} s.",
                "See `evergreen status`, start it with `evergreen up`, then run the same command again.",
            ) from problem

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request once; logs in when it must."""
        if "authorization" not in self._client.headers:
            self._log_in()
        response = self._client.request(method, f"/api/v2{path}", **arguments)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._client.headers.pop("authorization")
        return _answered(response)

    def _log_in(self) -> None:
        response = self._client.post("/auth/token", json=self._account)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise ConfigurationError(f"Airflow at {self.url} refuses the password of {self._account['username']!r}.")
        try:
            token = _content(_answered(response))["access_token"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{self.url} is no Airflow: it has no token for who logs in.") from error
        self._client.headers["authorization"] = f"Bearer {token}"


class _NoAnswerError(Exception):
    """The server answers, but it is not at work yet, or its tokens are new."""


def _answered(response: httpx.Response) -> httpx.Response:
    if response.is_server_error or response.status_code == httpx.codes.UNAUTHORIZED:
        raise _NoAnswerError(f"it answered {response.status_code}")
    return response


def _content(response: httpx.Response) -> Any:
    if not response.is_success:
        raise ConfigurationError(
            f"Airflow refused {response.request.method} {response.request.url.path} ({response.status_code}): "
            f"{response.text[:500]}"
        )
    return response.json() if response.content else None
