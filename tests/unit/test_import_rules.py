"""The two arrows between the rooms, and the import-time budget, hold and would be noticed if they did not."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest

from evergreen.settings import PROJECT_ROOT

LIGHT = "import sys, evergreen.runner, evergreen.cli; print(*sorted(sys.modules))"


def _broken_rules(path: str, source: str | None = None) -> set[str]:
    """Return the import rules that a file, or the given text in its place, breaks."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select=TID", "--output-format=json"]
    place = [path] if source is None else [f"--stdin-filename={path}", "-"]
    done = subprocess.run([*command, *place], input=source, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode in {0, 1}, done.stderr
    return {finding["code"] for finding in json.loads(done.stdout)}


@pytest.mark.parametrize("room", ["include", "plugins", "dags", "feature_repo", "tests"])
def test_every_room_keeps_the_import_rules(room: str) -> None:
    assert _broken_rules(room) == set()


@pytest.mark.parametrize(
    "path", ["include/evergreen/new.py", "include/evergreen/steps/new.py", "include/models/m/n.py"]
)
@pytest.mark.parametrize(
    "source",
    [
        "import airflow\n",
        "from airflow.sdk import DAG\n",
        "import evergreen_airflow.pod\n",
        "def f():\n    from airflow.sdk import DAG\n    return DAG\n",
    ],
)
def test_include_must_not_import_airflow(path: str, source: str) -> None:
    assert _broken_rules(path, source) == {"TID251"}


@pytest.mark.parametrize("path", ["plugins/evergreen_airflow/new.py", "dags/new.py"])
def test_the_airflow_side_may_import_airflow_and_the_lifecycle(path: str) -> None:
    assert _broken_rules(path, "import airflow\nimport evergreen.contract\n") == set()


@pytest.mark.parametrize("path", ["include/evergreen/new.py", "plugins/evergreen_airflow/new.py", "dags/new.py"])
def test_heavy_libraries_and_relative_imports_are_refused_at_module_level(path: str) -> None:
    assert _broken_rules(path, "import pandas\n") == {"TID253"}
    assert _broken_rules(path, "from . import x\n") == {"TID252"}
    assert _broken_rules(path, "def f():\n    import pandas\n    return pandas\n") == set()


def test_a_step_process_starts_without_heavy_libraries() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"airflow", "boto3", "duckdb", "feast", "great_expectations", "mlflow", "numpy", "pandas", "pyarrow"}
    heavy |= {"pyiceberg", "ray", "rich", "sqlalchemy", "torch"}
    assert loaded & heavy == set()
    assert "pydantic" in loaded  # the measurement itself works


ROOMS = {
    "data": set(),
    "features": {"data"},
    "training": {"data"},
    "judgement": {"data", "training"},
    "monitoring": {"data", "training"},
    "authoring": {"data", "features"},
    "steps": {"data", "features", "training", "judgement", "monitoring"},
}
"""The rooms of include/evergreen, and the rooms each may import from: data flows one way."""


def _rooms_imported(source: str) -> set[str]:
    """Return the rooms (packages of include/evergreen) that a module imports from, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("evergreen."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {name.name.split(".")[1] for name in node.names if name.name.startswith("evergreen.")}
    return found & (set(ROOMS) | {"local"})


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_import_one_way(room: str) -> None:
    modules = sorted((PROJECT_ROOT / "include" / "evergreen" / room).glob("*.py"))
    assert len(modules) > 1
    wrong = {
        module.name: strangers
        for module in modules
        if (strangers := _rooms_imported(module.read_text()) - ROOMS[room] - {room})
    }
    assert not wrong


def test_an_import_against_the_flow_is_noticed() -> None:
    source = "def f():\n    from evergreen.steps.gate import run\n    import evergreen.local.status\n"
    assert _rooms_imported(source) == {"steps", "local"}
