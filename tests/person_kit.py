"""Somebody who works with a running Airflow through its own API."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx

from installation import Installation

MODEL = "flight_delay"


class Person:
    """Somebody with a browser: Airflow's API, nothing else."""

    def __init__(self, made: Installation, user: str) -> None:
        self.made = made
        secrets = json.loads((made.state / "secrets" / "credentials.json").read_text())
        url = f"http://127.0.0.1:{made.environment['EVERGREEN_AIRFLOW_PORT']}"
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False)
        answer = self.http.post("/auth/token", json={"username": user, "password": secrets[f"airflow_{user}"]})
        self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def get(self, path: str) -> Any:
        return self.http.get(path).raise_for_status().json()

    def trigger(self, pipeline: str, run: str, **conf: str) -> httpx.Response:
        body = {"logical_date": None, "dag_run_id": run, "conf": conf}
        return self.http.post(f"/api/v2/dags/{MODEL}.{pipeline}/dagRuns", json=body)

    def runs(self, pipeline: str) -> dict[str, dict[str, Any]]:
        found = self.get(f"/api/v2/dags/{MODEL}.{pipeline}/dagRuns?limit=100")
        return {run["dag_run_id"]: run for run in found["dag_runs"]}

    def tasks(self, pipeline: str, run: str) -> dict[str, dict[str, Any]]:
        found = self.get(f"{self._run(pipeline, run)}/taskInstances")
        return {task["task_id"]: task for task in found["task_instances"]}

    def state(self, pipeline: str, run: str, task: str) -> str | None:
        state: str | None = self.tasks(pipeline, run)[task]["state"]
        return state

    def mark_failed(self, pipeline: str, run: str, task: str) -> None:
        path = f"{self._run(pipeline, run)}/taskInstances/{task}"
        self.http.patch(path, json={"new_state": "failed"}).raise_for_status()

    def clear(self, pipeline: str, run: str, *tasks: str) -> None:
        """Clear tasks of a run that has ended, and what comes after them.

        Airflow does not lock the run: a task that is cleared in the moment in which the scheduler ends its run loses
        its state, and the run stays over (as in apache/airflow#63697).
        """
        over = {"success", "failed"}
        until(lambda: self.runs(pipeline)[run]["state"] in over, 60, lambda: self.runs(pipeline))
        body = {"dry_run": False, "dag_run_id": run, "task_ids": tasks, "include_downstream": True}
        body |= {"only_failed": False, "reset_dag_runs": True}
        self.http.post(f"/api/v2/dags/{MODEL}.{pipeline}/clearTaskInstances", json=body).raise_for_status()

    def has_task(self, pipeline: str, task: str) -> bool:
        """Tell whether Airflow knows a task by now, from what was edited."""
        tasks = self.get(f"/api/v2/dags/{MODEL}.{pipeline}/tasks")["tasks"]
        return task in {one["task_id"] for one in tasks}

    def answer(self, run: str, option: str, question: str = "approve") -> httpx.Response:
        path = f"{self._run('train', run)}/taskInstances/{question}/-1/hitlDetails"
        return self.http.patch(path, json={"chosen_options": [option], "params_input": {}})

    def questions(self) -> set[str]:
        """Return the runs that Required Actions lists."""
        path = "/api/v2/dags/~/dagRuns/~/hitlDetails?response_received=false"
        found = self.get(f"{path}&state=deferred&state=awaiting_input")
        return {detail["task_instance"]["dag_run_id"] for detail in found["hitl_details"]}

    def decide(self, run: str, option: str, question: str = "approve") -> None:
        """Answer, once the scheduler has seen that the task waits.

        Airflow takes an answer that comes before for a sign that the task was lost (as in apache/airflow#72716), and
        has it ask again.
        """
        task = self.wait("train", run, question, "deferred")
        log = self.made.state / "logs" / "scheduler.log"
        seen = re.compile(rf"TaskInstance Finished: .*ti_id={task['id']}, .*state=deferred, ")
        until(lambda: seen.search(log.read_text()), 120, lambda: self.tasks("train", run))
        assert self.answer(run, option, question).is_success

    def wait(self, pipeline: str, run: str, task: str, *states: str, seconds: float = 300) -> dict[str, Any]:
        """Wait until a task is in one of the states; returns it."""
        until(lambda: self.state(pipeline, run, task) in states, seconds, lambda: self.tasks(pipeline, run))
        return self.tasks(pipeline, run)[task]

    def _run(self, pipeline: str, run: str) -> str:
        return f"/api/v2/dags/{MODEL}.{pipeline}/dagRuns/{quote(run)}"


def until(condition: Callable[[], object], seconds: float, shown: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, shown()
        time.sleep(0.3)
