"""What tests of the operator need: a tiny model, steps written on the spot, and the context of a task."""

from __future__ import annotations

import os
import tempfile
import textwrap
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# before Airflow is imported: it writes its configuration there
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))
os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{os.environ['AIRFLOW_HOME']}/airflow.db")

from airflow.sdk.execution_time.context import OutletEventAccessors

from evergreen.catalog import load_model
from evergreen.contract import Manifest, RunIdentity
from evergreen.spec import ModelSpec
from evergreen.store import get_store, read_manifest
from evergreen_airflow.operator import StepOperator

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
from evergreen.cli import main

main()
"""


class Kit:
    """A tiny model in a folder of its own, and StepOperators whose step is the given code."""

    def __init__(self, folder: Path, state_dir: Path) -> None:
        self.folder = folder
        self.state_dir = state_dir
        model = folder / "models" / "tiny"
        model.mkdir(parents=True)
        (model / "model.yaml").write_text(MODEL_YAML)
        self.write_variables("config/evergreen-settings.env", EVERGREEN_MODELS_DIR=str(folder / "models"))
        self.write_variables("secrets/evergreen-secrets.env")
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
        return StepOperator(**{"step": "ingest", "spec": self.spec, "cmds": self.command(body), **options})

    def manifest(self, context: Mapping[str, Any]) -> Manifest | None:
        ti = context["ti"]
        return read_manifest(get_store(), RunIdentity(dag_id=ti.dag_id, run_id=ti.run_id, task_id=ti.task_id))


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
        id=uuid.uuid4(),
        start_date=now,
        pushed=pushed,
        xcom_push=pushed.__setitem__,
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
