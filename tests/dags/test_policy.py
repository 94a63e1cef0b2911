"""Every DAG keeps the policy, and the policy can tell a bad DAG from a good one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pytest
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from airflow.utils.helpers import prune_dict
from dag_policy import MAX_LINES, dag_violations, file_violations

from evergreen.pipelines import PIPELINES
from evergreen.settings import PROJECT_ROOT
from operator_kit import task_context
from pod_policy import restricted_violations, schema_errors, unbounded

if TYPE_CHECKING:
    from airflow.sdk import DAG

FILES = sorted((PROJECT_ROOT / "dags").glob("*.py"))


def test_every_dag_keeps_the_policy(dags: dict[str, DAG]) -> None:
    assert [problem for dag in dags.values() for problem in dag_violations(dag)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_dag_file_keeps_the_policy(path: Path) -> None:
    assert file_violations(path) == []


def test_every_pod_is_hardened_and_bounded(dags: dict[str, DAG]) -> None:
    """The checks' own negative twins are beside them, in tests/unit/plugins/test_pod.py."""
    checked = 0
    for dag in dags.values():
        for task in dag.tasks:
            if task.task_type == "StepOperator":
                context: Any = task_context(task_id=task.task_id)
                task.render_template_fields(context, jinja2.Environment())
                pod = PodGenerator.serialize_pod(task.build_pod_request_obj(context, dry_run=True))
                pod = prune_dict(pod)
                assert [*schema_errors(pod), *restricted_violations(pod), *unbounded(pod)] == [], task
                checked += 1
    assert checked == sum(len(steps) for steps in PIPELINES.values())


def _without_docs(dag: DAG) -> None:
    dag.doc_md = "What it does, without triage notes."


def _without_kind(dag: DAG) -> None:
    dag.tags = {tag for tag in dag.tags if ":" in tag}


def _without_owner(dag: DAG) -> None:
    dag.tasks[0].owner = "airflow"


def _without_retries(dag: DAG) -> None:
    dag.tasks[0].retries = 0


def _without_timeout(dag: DAG) -> None:
    dag.tasks[-1].execution_timeout = None


def _with_catchup(dag: DAG) -> None:
    dag.catchup = True


def _with_foreign_work(dag: DAG) -> None:
    from airflow.providers.standard.operators.bash import BashOperator

    BashOperator(task_id="by_hand", bash_command="true", dag=dag, owner="me", retries=1, execution_timeout=timedelta(1))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without_docs, "doc_md has no '#### Triage notes'"),
        (_without_kind, "has 0 tags of kind Tag"),
        (_without_owner, "ingest: no owner"),
        (_without_retries, "ingest: no retries"),
        (_without_timeout, "publish: no execution timeout"),
        (_with_catchup, "catchup is on"),
        (_with_foreign_work, "by_hand: BashOperator does work outside a step"),
    ],
)
def test_the_policy_sees_a_bad_dag(dags: dict[str, DAG], spoil: Callable[[DAG], None], said: str) -> None:
    dag = dags["flight_delay.ingest"]
    spoil(dag)
    assert any(said in problem for problem in dag_violations(dag))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import pandas as pd", "imports pandas"),
        ("from mlflow.tracking import MlflowClient", "imports mlflow.tracking"),
        ("limit = Variable.get('limit')", "uses Variable.get"),
        ("mode = os.environ['MODE']", "uses os.environ"),
        ("rows = open('rows.csv')", "opens a file"),
        ("x = 1\n" * (MAX_LINES + 1), "more than"),
    ],
)
def test_the_policy_sees_a_bad_file(tmp_path: Path, source: str, said: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(source)
    assert any(said in problem for problem in file_violations(path))
