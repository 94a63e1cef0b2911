"""What Airflow's own task runner tells: a last failure, a promotion, what the watch finds; and nothing secret."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.fernet import Fernet

from alerts_kit import SECRETS, connections, servers
from evergreen.pipelines import PIPELINES
from evergreen.settings import PROJECT_ROOT, Settings
from operator_kit import Kit

pytestmark = pytest.mark.integration

DAG_FILE = """
import json
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from evergreen.catalog import load_model
from evergreen_airflow.dag_defaults import Tag, dag_options
from evergreen_airflow.steps import step_tasks

folder = Path({folder!r})
commands = json.loads((folder / "commands.json").read_text())
spec = load_model("tiny", folder / "models")

for pipeline, tag in (("ingest", Tag.INGESTION), ("train", Tag.TRAINING), ("features", Tag.FEATURES)):
    with DAG(f"tiny.{{pipeline}}", schedule=None, params={{"partition": None}}, **dag_options(spec, tag, "")):
        again = {{"retries": 1, "retry_delay": timedelta(seconds=1), "retry_exponential_backoff": 0}}
        options = {{step: {{"cmds": command, **again}} for step, command in commands[pipeline].items()}}
        step_tasks(spec, pipeline, **options)
"""
SCRIPT = """
import json, sys
from pathlib import Path

from airflow.utils.db import initdb

initdb()

from airflow.cli.cli_parser import get_parser

command = get_parser().parse_args(["connections", "import", sys.argv[3]])
command.func(command)
Path(sys.argv[3]).unlink()

from airflow.dag_processing.dagbag import DagBag
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.utils.session import create_session
from sqlalchemy import select

dags = DagBag(sys.argv[1]).dags
report = {"states": {}, "tries": {}}
for name in ("tiny.ingest", "tiny.train", "tiny.features", "maintenance.watch", "maintenance.watch"):
    run = dags[name].test(run_conf={"partition": "2013-03-01"} if name.startswith("tiny") else None)
    with create_session() as session:
        tasks = run.get_task_instances(session=session)
        report["states"] |= {ti.task_id: ti.state for ti in tasks}
        report["tries"] |= {ti.task_id: ti.try_number for ti in tasks}
with create_session() as session:
    report["rendered"] = [row.rendered_fields for row in session.scalars(select(RenderedTaskInstanceFields))]
Path(sys.argv[2]).write_text(json.dumps(report, default=str))
"""


class Told(NamedTuple):
    """What Airflow and the servers say after the runs."""

    report: dict[str, Any]
    log: str
    messages: list[str]
    mails: int


@pytest.fixture
def told(tmp_path: Path, settings: Settings) -> Iterator[Told]:
    kit = Kit(tmp_path, settings.state_dir)
    model = tmp_path / "models" / "tiny" / "model.yaml"
    channels = "[{type: slack}, {type: email, to: [a@example.com], events: [task_failed]}]"
    text = model.read_text().replace("{start: 2013-01-01}", "{start: 2013-01-01, deadline_hours: 1}")
    model.write_text(f"{text}\nalerts: {channels}\n")
    ok = kit.command('return Result(facts={"version": "7", "previous": "6"})')
    commands = {
        pipeline: {step.name: ok for step in PIPELINES[pipeline]} for pipeline in ("ingest", "train", "features")
    }
    commands["features"]["build_features"] = kit.command('raise TemporaryError("The lake is away.")')
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    home = tmp_path / "airflow"
    (home / "dags").mkdir(parents=True)
    (home / "dags" / "tiny.py").write_text(DAG_FILE.format(folder=str(tmp_path)))
    shutil.copy(PROJECT_ROOT / "dags" / "watch.py", home / "dags")
    with servers() as (receiver, mailbox):
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__BASE_URL": "http://airflow.example.com",
            "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "EVERGREEN_STATE_DIR": str(settings.state_dir),
        }
        (tmp_path / "connections.json").write_text(json.dumps(connections(receiver, mailbox)))
        answer = tmp_path / "report.json"
        command = [sys.executable, "-c", SCRIPT, str(home / "dags"), str(answer), str(tmp_path / "connections.json")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        log = done.stdout + done.stderr
        assert answer.exists(), log[-3000:]
        messages = [document["text"] for document in receiver.to("/services")]
        yield Told(json.loads(answer.read_text()), log, messages, len(mailbox.mails))


def test_a_promotion_a_last_failure_and_a_late_partition_are_each_told_once(told: Told, tmp_path: Path) -> None:
    assert told.report["states"]["promote"] == "success"
    assert told.report["states"]["build_features"] == "failed"
    assert told.report["states"]["materialize"] == "upstream_failed"
    assert told.report["tries"]["build_features"] == 2
    promotion, failure, late = told.messages
    assert "tiny: promotion: version 7 is champion now; before it: 6." in promotion
    assert "Where: http://airflow.example.com/dags/tiny.train/runs/" in promotion
    assert "build_features failed: temporary: The lake is away." in failure
    assert "/tasks/build_features?try_number=2" in failure, "the first try is retried, and told to nobody"
    assert re.search(
        r"tiny: partition late: partition [\d-]+ is \d+ hours late: tiny.ingest has not published it", late
    )
    assert "http://airflow.example.com/dags/tiny.ingest" in late
    assert told.report["states"]["watch"] == "success"
    assert told.mails == 1, "a mail takes failures only"
    written = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    places = [told.log, json.dumps(told.report["rendered"]), *written]
    assert [secret for secret in SECRETS for place in places if secret in place] == []
