"""The operator in Airflow's own task runner: states, retries, XCom, rendered fields and partition events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evergreen.settings import Settings
from operator_kit import Kit

pytestmark = pytest.mark.integration

DAG_FILE = """
import json
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Asset, chain

from evergreen.catalog import load_model
from evergreen_airflow.operator import StepOperator

folder = Path({folder!r})
commands = json.loads((folder / "commands.json").read_text())
spec = load_model("tiny", folder / "models")
bounds = {{"profile": "small", "execution_timeout": timedelta(hours=1), "retries": 3}}

with DAG("tiny.all", schedule=None, params={{"partition": None}}) as dag:
    chain(
        StepOperator(step="ingest", spec=spec, **bounds, cmds=commands["ok"], outlets=[Asset("tiny.published")]),
        StepOperator(step="gate", spec=spec, **bounds, cmds=commands["refused"]),
        StepOperator(step="promote", spec=spec, **bounds, cmds=commands["ok"], upstream={{"gate": "gate"}}),
    )
    StepOperator(step="validate", spec=spec, **bounds, cmds=commands["skipped"])
    StepOperator(step="train", spec=spec, **bounds, cmds=commands["wrong"])
"""
SCRIPT = """
import json, sys
from pathlib import Path

from airflow.utils.db import initdb

initdb()

from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select

run = DagBag(sys.argv[1]).dags["tiny.all"].test(run_conf={"partition": "2013-03-01"})
with create_session() as session:
    rendered = select(RenderedTaskInstanceFields).where(RenderedTaskInstanceFields.task_id == "ingest")
    tasks = run.get_task_instances(session=session)
    report = {
        "states": {ti.task_id: ti.state for ti in tasks},
        "tries": {ti.task_id: ti.try_number for ti in tasks},
        "events": [[event.extra, event.partition_key] for event in session.scalars(select(AssetEvent))],
        "rendered": session.scalars(rendered).one().rendered_fields["rendered_pod"],
        "xcom": {xcom.task_id: xcom.value for xcom in session.scalars(select(XComModel)) if xcom.key == "return_value"},
    }
Path(sys.argv[2]).write_text(json.dumps(report, default=str))
"""


@pytest.fixture
def report(tmp_path: Path, settings: Settings) -> dict[str, Any]:
    kit = Kit(tmp_path, settings.state_dir)
    commands = {
        "ok": kit.command('return Result(facts={"rows": 3, "snapshot": 77})'),
        "refused": kit.command('return Result(status="refused", reason="not better")'),
        "skipped": kit.command('return Result(status="skipped", reason="nothing there")'),
        "wrong": kit.command('raise DataError("No rows.", "Load them.")'),
    }
    home = tmp_path / "airflow"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "EVERGREEN_STATE_DIR": str(settings.state_dir),
    }
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    (home / "dags").mkdir(parents=True)
    (home / "dags" / "tiny.py").write_text(DAG_FILE.format(folder=str(tmp_path)))
    answer = tmp_path / "report.json"
    command = [sys.executable, "-c", SCRIPT, str(home / "dags"), str(answer)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert answer.exists(), done.stdout[-3000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def test_a_run_of_every_answer(report: dict[str, Any]) -> None:
    assert report["states"] == {
        "ingest": "success",
        "gate": "success",
        "promote": "skipped",
        "validate": "skipped",
        "train": "failed",
    }
    assert report["tries"]["train"] == 1, "wrong data is not retried"
    assert report["xcom"]["ingest"] == {"rows": 3, "snapshot": 77, "status": "ok", "reason": ""}
    assert report["xcom"]["gate"] == {"status": "refused", "reason": "not better"}
    assert report["xcom"]["validate"]["reason"] == "nothing there"
    assert report["events"] == [[{"snapshot": "77", "rows": 3}, "2013-03-01"]]
    assert "readOnlyRootFilesystem: true" in report["rendered"]
    assert "Truncated" not in report["rendered"]
