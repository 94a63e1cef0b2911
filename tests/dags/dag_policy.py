"""The rules every DAG and every DAG file keeps; each says what is wrong in words, and nothing when all is well."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from evergreen.settings import PROJECT_ROOT
from evergreen_airflow.dag_defaults import Tag

if TYPE_CHECKING:
    from airflow.sdk import DAG

Parse = Callable[[Path], "dict[str, DAG]"]
"""Parses the DAG files with the models of a folder."""
MAX_LINES = 150
LIGHT_TASKS = {
    *("ProposalSensor", "TrainingTrigger", "ApprovalQuestion", "PartitionDone", "IngestionTrigger"),
    *("PodReaper", "PartitionReconciler", "ModelWatch", "RolloutUnderWay"),
}
"""What may run beside StepOperators: these decide and wait, they do no work.

The PodReaper deletes pods, which no pod of a step may do: they have no rights in the cluster. The PartitionReconciler
and the ModelWatch ask Airflow, which steps do not know. The RolloutUnderWay reads one small file, to start no pod for
nothing.
"""
MAINTENANCE = {"maintenance.reap_pods", "maintenance.reconcile", "maintenance.watch"}
"""The DAGs that are of no model."""
DOC_PARTS = ("**Fires**", "**Publishes**", "#### Triage notes")


def dag_violations(dag: DAG) -> list[str]:
    """Return how a DAG breaks the policy."""
    return [f"{dag.dag_id}: {problem}" for rule in (_described, _tagged, _tasks) for problem in rule(dag)]


def _described(dag: DAG) -> Iterator[str]:
    for part in DOC_PARTS:
        if part not in (dag.doc_md or ""):
            yield f"doc_md has no {part!r}"
    if not dag.description:
        yield "no description"
    if dag.catchup:
        yield "catchup is on"


def _tagged(dag: DAG) -> Iterator[str]:
    kinds = [tag for tag in dag.tags if tag in set(Tag)]
    if len(kinds) != 1:
        yield f"has {len(kinds)} tags of kind Tag, needs one"
    for prefix in ("team:",) if Tag.MAINTENANCE in kinds else ("model:", "team:"):
        if not any(tag.startswith(prefix) for tag in dag.tags):
            yield f"no {prefix} tag"


def _tasks(dag: DAG) -> Iterator[str]:
    for task in dag.tasks:
        if task.owner in {"", "airflow"}:
            yield f"{task.task_id}: no owner"
        if task.retries < 1:
            yield f"{task.task_id}: no retries"
        if task.execution_timeout is None:
            yield f"{task.task_id}: no execution timeout"
        if task.task_type != "StepOperator" and task.task_type not in LIGHT_TASKS:
            yield f"{task.task_id}: {task.task_type} does work outside a step"


def file_violations(path: Path) -> list[str]:
    """Return how a DAG file breaks the policy."""
    source = path.read_text()
    problems = []
    if len(source.splitlines()) > MAX_LINES:
        problems.append(f"{path.name}: more than {MAX_LINES} lines")
    for node in ast.walk(ast.parse(source)):
        problems += [f"{path.name}:{node.lineno}: {problem}" for problem in _node_violations(node)]
    return problems


def _node_violations(node: ast.AST) -> Iterator[str]:
    heavy = _heavy_libraries()
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        for name in names:
            if name.split(".")[0] in heavy:
                yield f"imports {name}"
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        used = f"{node.value.id}.{node.attr}"
        if used in {"Variable.get", "os.environ", "os.getenv", "Connection.get"}:
            yield f"uses {used} when it is parsed"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
        yield "opens a file when it is parsed"


def _heavy_libraries() -> set[str]:
    config = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())
    return set(config["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"])
