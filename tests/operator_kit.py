"""What tests of the operator need: a tiny model, steps written on the spot, and the context of a task."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# before Airflow is imported: it writes its configuration there
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{os.environ['AIRFLOW_HOME']}/airflow.db")

from airflow.sdk.exceptions import AirflowException
from airflow.sdk.execution_time.context import OutletEventAccessors

from evergreen.catalog import load_model
from evergreen.contract import Manifest, RunIdentity
from evergreen.spec import ModelSpec
from evergreen.store import get_store, read_manifest
from evergreen_airflow.operator import StepOperator
from evergreen_airflow.pod import COMMAND
from process_kit import alive, eventually, pids

MODEL_YAML = """
name: tiny
task: binary
description: A model for tests
owner: someone
team: somewhere
schedule: {start: 2013-01-01}
sources:
  - {name: things, reader: "source.py:read", key: [id], columns: {id: int64}, expectations: things.yaml}
features: {examples: {sql: examples.sql, label: late}, numeric: [id]}
training: {network: "network.py:build"}
gate: {metric: auc, direction: maximize}
drift: {columns: [id]}
"""
STEP = """
import json, os, sys, time
from pathlib import Path

from evergreen import runner
from evergreen.contract import *
from evergreen.contract import Failure, Status

here = Path({folder!r})

def run(request, spec):
{body}

runner.load_step = lambda name: run
from evergreen.__main__ import run as run_command

run_command()
"""
DAEMON = """
import subprocess
daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
(here / "daemon").write_text(str(daemon.pid))
(here / "scratch").write_text(os.environ["TMPDIR"])
(here / "step").write_text(str(os.getpid()))
"""
"""Code of a step that leaves a process in a session of its own."""
STAY = "time.sleep(600)\n"
TASK = """
import os, sys
sys.path.insert(0, {tests!r})
from operator_kit import BOUNDS, task_context
from evergreen.catalog import load_model
from evergreen_airflow.operator import StepOperator
from pathlib import Path

def task():
    Path({folder!r}, "task").write_text(str(os.getpid()))
    spec = load_model("tiny", Path({folder!r}, "models"))
    StepOperator(step="ingest", spec=spec, cmds={command!r}, **BOUNDS).execute(task_context())

if os.fork() == 0:  # as Airflow's supervisor forks a task
    task()
else:
    Path({folder!r}, "supervisor").write_text(str(os.getpid()))
    os.wait()
"""


BOUNDS: Mapping[str, Any] = {"profile": "small", "execution_timeout": timedelta(hours=1)}
"""What every StepOperator must be told."""


class Kit:
    """A tiny model in a folder of its own, and StepOperators whose step is the given code."""

    def __init__(self, folder: Path, state_dir: Path) -> None:
        self.folder = folder
        self.state_dir = state_dir
        model = folder / "models" / "tiny"
        model.mkdir(parents=True)
        (model / "model.yaml").write_text(MODEL_YAML)
        self.write_variables("config/evergreen-settings.env", EVERGREEN_MODELS_DIR=str(folder / "models"))
        for name in ("secrets", "signing", "registry"):
            self.write_variables(f"secrets/evergreen-{name}.env")
        self.spec: ModelSpec = load_model("tiny", folder / "models")

    def write_variables(self, file: str, **variables: str) -> None:
        path = self.state_dir / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))

    def command(self, body: str) -> list[str]:
        """Return a command that behaves like ``python -m evergreen`` with one step, whose code is ``body``."""
        script = self.folder / f"step_{uuid.uuid4().hex}.py"
        code = textwrap.indent(textwrap.dedent(body).strip(), "    ")
        script.write_text(STEP.format(folder=str(self.folder), body=code))
        return ["python", str(script)]

    def operator(self, body: str = "return Result()", **options: Any) -> StepOperator:
        return StepOperator(**{"step": "ingest", "spec": self.spec, "cmds": self.command(body), **BOUNDS, **options})

    def manifest(self, context: Mapping[str, Any]) -> Manifest | None:
        ti = context["ti"]
        return read_manifest(get_store(), RunIdentity(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id))

    def assert_a_killed_task_leaves_nothing(self, victim: str, command: list[str] | None = None) -> None:
        """Kill a running task whose step is DAEMON + STAY, or its supervisor, the hard way."""
        tests = str(Path(__file__).parent)
        code = TASK.format(tests=tests, folder=str(self.folder), command=command or list(COMMAND))
        environment = {**os.environ, "EVERGREEN_STATE_DIR": str(self.state_dir)}
        supervisor = subprocess.Popen([sys.executable, "-c", code], env=environment)
        family = pids(self.folder, "task", "step", "daemon")
        scratch = Path((self.folder / "scratch").read_text())
        assert scratch.is_dir()
        os.kill(family[0] if victim == "task" else supervisor.pid, signal.SIGKILL)
        assert eventually(lambda: not any(map(alive, family)))
        supervisor.wait(60)
        assert eventually(lambda: not scratch.exists())

    def assert_on_kill_ends_the_whole_tree(self, operator: StepOperator) -> None:
        """Mark a running step whose code is DAEMON + STAY as failed."""
        raised: list[BaseException] = []

        def execute() -> None:
            try:
                operator.execute(task_context())
            except AirflowException as error:
                raised.append(error)

        thread = threading.Thread(target=execute, daemon=True)
        thread.start()
        family = pids(self.folder, "step", "daemon")
        operator.on_kill()
        thread.join(60)
        assert not any(map(alive, family))
        assert "stopped by SIGTERM" in str(raised[0])


class Lines:
    """A log that keeps its messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, *args: object) -> None:
        self.lines.append(message % args)

    debug = info


def task_context(
    *,
    task_id: str = "ingest",
    run_id: str = "manual__2013-03-02",
    try_number: int = 1,
    partition_key: str | None = "2013-03-01",
    params: Mapping[str, Any] | None = None,
    **run: Any,
) -> dict[str, Any]:
    """Return the part of a task's context that the operator reads; ``ti.pushed`` holds its XComs."""
    pushed: dict[str, Any] = {}
    now = datetime.now(UTC)
    ti = SimpleNamespace(
        dag_id="tiny.ingest",
        run_id=run_id,
        task_id=task_id,
        map_index=-1,
        try_number=try_number,
        max_tries=3,
        id=uuid.uuid4(),
        start_date=now,
        pushed=pushed,
        xcom_push=pushed.__setitem__,
        xcom_pull=lambda task_ids, **_: None,
    )
    ti.xcom_push = lambda key, value: pushed.__setitem__(key, value)
    dag_run = {"data_interval_start": None, "data_interval_end": None, "run_after": now, **run}
    return {
        "ti": ti,
        "run_id": run_id,
        "dag": SimpleNamespace(timezone=UTC),
        "dag_run": SimpleNamespace(partition_key=partition_key, **dag_run),
        "params": dict(params or {}),
        "outlet_events": OutletEventAccessors(),
    }


def day(text: str) -> date:
    return date.fromisoformat(text)
