"""The two arrows between the rooms, and the import-time budget, hold and would be noticed if they did not."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from textwrap import indent

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


FOUNDATION = (
    *(
        "fields",
        "stored",
        "contract",
        "documents",
        "logs",
        "pipelines",
        "guardian",
        "scratch",
        "settings",
        "version",
        "environment",
    ),
    *("spec", "catalog", "store", "lease", "attempts", "handover"),
)
"""What every room may import; each of these only those before it."""

ROOMS: dict[str, set[str]] = {
    "data": set(),
    "features": {"data"},
    "training": {"data"},
    "judgement": {"data", "training"},
    "monitoring": {"data", "training"},
    "authoring": {"data", "features"},
    "steps": {"data", "features", "training", "judgement", "monitoring"},
    "runner": {"steps"},
    "local": {"data", "features", "training", "judgement", "monitoring", "authoring", "steps", "runner"},
    "cli": {"data", "features", "training", "judgement", "monitoring", "authoring", "steps", "runner", "local"},
    "__main__": {"cli"},
}
"""What else is in include/evergreen, and what of it each may import: data flows one way."""

MAY_IMPORT = {name: set(FOUNDATION[:position]) for position, name in enumerate(FOUNDATION)} | {
    name: allowed | set(FOUNDATION) for name, allowed in ROOMS.items()
}


def _imported(source: str) -> set[str]:
    """Return the dotted names that a module imports, anywhere in it; ``a.b`` for ``from a import b``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            found.add(_spelled(node.args[0]))
    return found


def _spelled(name: ast.expr) -> str:
    """Return a literal text, or the part of it before what is filled in."""
    first = name.values[0] if isinstance(name, ast.JoinedStr) else name
    return str(first.value) if isinstance(first, ast.Constant) else ""


def _wrong_imports(place: str, source: str) -> set[str]:
    """Return what a module in a place of include/evergreen must not import."""
    wrong = set()
    for name in _imported(source) - {"evergreen.__version__"}:
        root, _, rest = name.partition(".")
        inside = root == "evergreen" and rest.partition(".")[0] in MAY_IMPORT[place] | {place}
        if root in {"airflow", "evergreen_airflow", "models"} or (root == "evergreen" and not inside):
            wrong.add(name)
    return wrong


def _modules() -> dict[str, list[Path]]:
    """Return the modules of include/evergreen by the place, a package or a module of its own, that they are in."""
    found: dict[str, list[Path]] = {}
    root = PROJECT_ROOT / "include" / "evergreen"
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).parts[0].removesuffix(".py")
        if place != "__init__" and "templates" not in path.parts:  # those are parts of models
            found.setdefault(place, []).append(path)
    return found


def test_every_place_has_its_rule() -> None:
    assert set(_modules()) == set(MAY_IMPORT)


@pytest.mark.parametrize("place", sorted(MAY_IMPORT))
def test_imports_go_one_way(place: str) -> None:
    wrong = {path.name: found for path in _modules()[place] if (found := _wrong_imports(place, path.read_text()))}
    assert not wrong


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ("import evergreen.steps.gate", "evergreen.steps.gate"),
        ("import evergreen.steps.gate as gate", "evergreen.steps.gate"),
        ("import json, evergreen.steps", "evergreen.steps"),
        ("from evergreen import steps", "evergreen.steps"),
        ("from evergreen import guardian, steps", "evergreen.steps"),
        ("from evergreen.steps import gate", "evergreen.steps.gate"),
        ("from evergreen.steps.gate import run", "evergreen.steps.gate.run"),
        ("from evergreen import runner", "evergreen.runner"),
        ("from evergreen.cli import main", "evergreen.cli.main"),
        ("import importlib\nimportlib.import_module('evergreen.steps.gate')", "evergreen.steps.gate"),
        ("from importlib import import_module\nimport_module('evergreen.runner')", "evergreen.runner"),
        ("import importlib\nname = 'x'\nimportlib.import_module(f'evergreen.steps.{name}')", "evergreen.steps."),
        ("__import__('evergreen.local.status')", "evergreen.local.status"),
        ("import importlib\nimportlib.import_module('airflow.sdk')", "airflow.sdk"),
        ("import evergreen", "evergreen"),  # and then anything of it
        ("from evergreen import *", "evergreen.*"),
    ],
)
@pytest.mark.parametrize("frame", ["{}", "def f():\n{}", "if TYPE_CHECKING:\n{}", "try:\n{}\nexcept ImportError: ..."])
def test_an_import_against_the_flow_is_noticed(form: str, said: str, frame: str) -> None:
    source = frame.format(form if frame == "{}" else indent(form, "    "))
    assert _wrong_imports("data", source) == {said}


@pytest.mark.parametrize(
    ("place", "form"),
    [
        ("data", "from evergreen import handover\nimport evergreen.data.lake\nfrom evergreen.contract import Window"),
        ("data", "import json\nfrom pathlib import Path\nimport importlib\nimportlib.import_module('json')"),
        ("runner", "import importlib\nname = 'x'\nimportlib.import_module(f'evergreen.steps.{name}')"),
        ("version", "from evergreen import __version__"),
    ],
)
def test_an_import_with_the_flow_is_not(place: str, form: str) -> None:
    assert _wrong_imports(place, form) == set()


@pytest.mark.parametrize(
    ("place", "form"),
    [
        ("contract", "from evergreen.settings import get_settings"),
        ("settings", "from evergreen import spec"),
        ("catalog", "import evergreen.features.feast_repo"),
        ("local", "from evergreen import cli"),
    ],
)
def test_the_foundation_has_an_order_and_stands_on_nothing_else(place: str, form: str) -> None:
    assert _wrong_imports(place, form)
