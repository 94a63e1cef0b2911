"""The arrows between the rooms, and the import-time budget, hold and would be noticed if they did not."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import pytest

from evergreen.settings import PROJECT_ROOT

LIGHT = "import sys, evergreen.runner, evergreen.cli, evergreen_laptop.cli; print(*sorted(sys.modules))"


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
        "import evergreen_laptop.status\n",
        "def f():\n    from airflow.sdk import DAG\n    return DAG\n",
    ],
)
def test_include_must_not_import_airflow(path: str, source: str) -> None:
    assert _broken_rules(path, source) == {"TID251"}


def test_the_laptop_may_import_plugins_but_not_airflow() -> None:
    path = "include/evergreen_laptop/new.py"
    assert _broken_rules(path, "import evergreen_airflow.kubelet\nimport evergreen_laptop.status\n") == set()
    assert _broken_rules(path, "import airflow\n") == {"TID251"}


@pytest.mark.parametrize("path", ["plugins/evergreen_airflow/new.py", "dags/new.py"])
def test_the_airflow_side_may_import_airflow_and_the_lifecycle(path: str) -> None:
    assert _broken_rules(path, "import airflow\nimport evergreen.contract\n") == set()


@pytest.mark.parametrize("path", ["include/evergreen/new.py", "plugins/evergreen_airflow/new.py", "dags/new.py"])
def test_heavy_libraries_and_relative_imports_are_refused_at_module_level(path: str) -> None:
    assert _broken_rules(path, "import pandas\n") == {"TID253"}
    assert _broken_rules(path, "from . import x\n") == {"TID252"}
    assert _broken_rules(path, "def f():\n    import pandas\n    return pandas\n") == set()


@pytest.mark.parametrize("config", sorted(PROJECT_ROOT.glob("include/**/ruff.toml")), ids=str)
def test_every_banned_import_says_why(config: Path) -> None:
    banned = re.findall(r'^"[\w.]+"\.msg = "(.*)"$', config.read_text(), flags=re.M)
    assert banned
    assert all(": " in message for message in banned), "write it as `what is not done: why`"


def test_a_step_process_starts_without_heavy_libraries() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"airflow", "boto3", "duckdb", "feast", "great_expectations", "mlflow", "numpy", "pandas", "pyarrow"}
    heavy |= {"pyiceberg", "ray", "rich", "sqlalchemy", "torch"}
    assert loaded & heavy == set()
    assert "pydantic" in loaded  # the measurement itself works


def _modules() -> dict[str, Path]:
    """Return every module of the project, by its dotted name; those of the chart and the images by their folder's."""
    roots = [PROJECT_ROOT / "include", PROJECT_ROOT / "plugins"]
    folders = [path for root in roots for path in sorted(root.iterdir()) if not path.name.startswith(("__", "."))]
    folders += [PROJECT_ROOT / name for name in ("dags", "feature_repo", "config", "tools")]
    folders += [PROJECT_ROOT / "helm/evergreen/files", *(PROJECT_ROOT / "docker").iterdir()]
    modules: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]:
            if path.suffix == ".py":
                name = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
                modules[name.removesuffix(".__init__")] = path
    return modules


MODULES = _modules()


class Rule(NamedTuple):
    """An arrow that must not be drawn: what an importer may not import, and why."""

    importer: str
    """A package or module, with all that is in it; empty: any."""
    imported: str
    """What it must not import, with all that is in it."""
    why: str
    but: frozenset[str] = frozenset()
    """What of ``imported`` it may import all the same."""
    not_for: frozenset[str] = frozenset()
    """The importers that have a rule of their own, or none."""


GROUND_FLOOR = (
    *("field_types", "stored", "contract", "mistakes", "yaml_files", "logs", "drawing", "pipelines", "settings"),
    *("version", "environment", "spec", "catalog", "store", "handover"),
)
"""What every room of include/evergreen may import; each of these only those before it."""

ROOMS: dict[str, set[str]] = {
    "data": set(),
    "trust": set(),
    "training": {"data", "trust"},
    "features": {"data", "training"},
    "judgement": {"data", "training", "trust"},
    "monitoring": {"data", "training", "trust"},
    "authoring": {"data", "features"},
    "serving": {"data", "features", "training", "judgement", "trust"},
    "steps": {"data", "features", "training", "judgement", "monitoring", "trust", "serving"},
    "runner": {"steps"},
    "cli_audit": {"judgement", "trust"},
    "cli_steps": {"runner"},
    "cli_models": {"cli_steps", "authoring", "judgement", "training"},
    "cli_quarantine": {"cli_steps", "data"},
    "cli_serving": {"serving"},
    "cli": {
        "cli_audit",
        "cli_models",
        "cli_quarantine",
        "cli_serving",
        "cli_steps",
        "data",
        "features",
        "training",
        "judgement",
        "monitoring",
        "trust",
        "authoring",
        "steps",
        "runner",
    },
    "__main__": {"cli"},
}
"""What else is in include/evergreen, and what of it each may import: data flows one way."""


def _within(package: str, names: set[str] | tuple[str, ...]) -> frozenset[str]:
    return frozenset(f"{package}.{name}" for name in names)


FLOOR = _within("evergreen", (*GROUND_FLOOR, "__version__"))
RECORDS = _within(
    "evergreen",
    {
        *("monitoring.proposal", "judgement.evidence", "judgement.events", "judgement.notices"),
        *("judgement.questions", "data.memory"),
    },
)
"""What the Airflow side knows of the rooms: the documents that steps leave, the answers they read, and a variable."""
KUBELET, REPLAY, WARM = "evergreen_airflow.kubelet", "evergreen_airflow.replay", "evergreen_airflow.kubelet.warm_server"

RULES = (
    *(
        Rule(
            *(
                f"evergreen.{name}",
                "evergreen",
                "Everything stands on the ground floor, so it has one order: no cycles.",
            ),
            but=_within("evergreen", {*GROUND_FLOOR[: position + 1], "__version__"}),
        )
        for position, name in enumerate(GROUND_FLOOR)
    ),
    *(
        Rule(
            f"evergreen.{name}",
            "evergreen",
            "Data flows one way through the rooms, so each can be read, tested and changed without those after it.",
            but=FLOOR | _within("evergreen", rooms | {name}),
        )
        for name, rooms in ROOMS.items()
    ),
    Rule(
        *("evergreen.steps", "evergreen.steps"),
        "Steps hand each other manifests: one that calls another runs it without its pod, retries and manifest.",
    ),
    Rule("evergreen", "airflow", "The step image has no Airflow, and a step is tested as a plain function."),
    Rule("evergreen", "evergreen_airflow", "The step image has no plugins/: the lifecycle does not know who runs it."),
    Rule(
        *("evergreen_airflow", "evergreen"),
        "Airflow's image has no library of the rooms: the Airflow side reads what steps leave, no more.",
        but=FLOOR | RECORDS | {"evergreen.__main__"},
        not_for=frozenset({WARM, REPLAY}),
    ),
    Rule(
        *("evergreen_plugin", "evergreen"),
        "Every process of Airflow loads it: what it adds is in evergreen_airflow, and imported by who serves it.",
    ),
    Rule(
        *(WARM, "evergreen.authoring"),
        "The warm service imports what steps import, and a model is never written by a step.",
    ),
    Rule(
        *(REPLAY, "evergreen"),
        "The replay asks Airflow or the runner for steps, and reads what they leave: it has no logic of the rooms.",
        but=FLOOR
        | RECORDS
        | {"evergreen.runner", "evergreen.cli"}
        | {"evergreen.data.lake", "evergreen.judgement", "evergreen.serving.tokens"},  # it asks as a client does
    ),
    Rule(REPLAY, "airflow", "The replay is a command: importing Airflow would take every `evergreen` command seconds."),
    Rule(
        *(REPLAY, "evergreen_airflow"),
        "The replay is a client of Airflow's REST API, as a person is: it runs where no task does.",
        but=frozenset({REPLAY, "evergreen_airflow.rest_api"}),
    ),
    Rule(
        KUBELET,
        "airflow",
        "The stand-in for Kubernetes knows no Airflow, as Kubernetes does not; it starts in milliseconds.",
    ),
    Rule(
        *(KUBELET, "evergreen_airflow"),
        "The stand-in for Kubernetes is given a pod and says how it ended; who asked for it is not its business.",
        but=frozenset({KUBELET, *_within("evergreen_airflow", {"pod", "ending"})}),
    ),
    *(
        Rule(
            *("", f"{KUBELET}.{module.stem}"),
            "kubelet/ has one door, the names in kubelet/__init__.py: what is behind it can then change freely.",
            not_for=frozenset({KUBELET}),
        )
        for module in sorted((PROJECT_ROOT / "plugins/evergreen_airflow/kubelet").glob("[!_]*.py"))
    ),
    Rule(
        *("", "evergreen_laptop"),
        "Neither pod nor chart has the laptop's services, so nothing that runs there may need them.",
        not_for=frozenset({"evergreen_laptop"}),
    ),
    Rule(
        *("evergreen_laptop", "airflow"),
        "The laptop starts Airflow as processes: importing it would take every `evergreen` command seconds.",
        but=frozenset({"airflow.__main__"}),
    ),
    Rule(
        *("dags", "evergreen"),
        "A DAG file composes tasks, each parse pays for what it imports: logic belongs in a step or in plugins/.",
        but=frozenset({"evergreen.catalog"}),
    ),
    Rule(
        *("dags", "airflow"),
        "airflow.sdk is what Airflow 3 promises to DAG files; all else may change with any release.",
        but=frozenset({"airflow.sdk"}),
    ),
    Rule(
        *("models", "evergreen"),
        "A model's files run in other people's processes too (a logged model): they know the contract and the spec.",
        but=_within("evergreen", {"contract", "field_types", "spec"}),
    ),
    *(
        Rule("models", package, "A model does not know who runs it: the step image has no Airflow and no plugins/.")
        for package in ("airflow", "evergreen_airflow")
    ),
    Rule(
        *("", "models"),
        "Models are loaded by file (evergreen.catalog.load_function): two may each have a network.py, and they change.",
        not_for=frozenset({"models"}),
    ),
    Rule("", "dags", "A DAG file is read by Airflow alone: whoever imports it makes its DAGs a second time."),
    Rule(
        *("feature_repo", "evergreen"),
        "Feast loads these files wherever it runs: they need the lake's source and the ground floor.",
        but=FLOOR | {"evergreen.features"},
    ),
    *(
        Rule("feature_repo", package, "The step image applies the definitions, and has no Airflow and no plugins/.")
        for package in ("airflow", "evergreen_airflow")
    ),
)


def _inside(name: str, packages: frozenset[str] | set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _rules_of(module: str) -> list[Rule]:
    return [
        rule
        for rule in RULES
        if (not rule.importer or _inside(module, {rule.importer})) and not _inside(module, rule.not_for)
    ]


def _broken(module: str, source: str) -> dict[str, Rule]:
    """Return what a module imports against a rule, and the first rule that it breaks."""
    names, broken = _imported(module, source), dict[str, Rule]()
    for rule in _rules_of(module):
        for name in names:
            if _inside(name, {rule.imported}) and not _inside(name, rule.but):
                broken.setdefault(name, rule)
    return broken


_DYNAMIC = ("import_module", "__import__", "run_module", "find_spec", "resolve_name")


def _imported(module: str, source: str) -> set[str]:
    """Return the dotted names that a module imports or starts, anywhere in it; ``a.b`` for ``from a import b``."""
    tree = ast.parse(source)
    names, bound = set(), dict[str, str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.add(alias.name)
                root = alias.name.partition(".")[0]
                bound[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(module, node)
            for alias in node.names:
                names.add(f"{origin}.{alias.name}")
                bound[alias.asname or alias.name] = f"{origin}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in _DYNAMIC and node.args:
            names.add(_spelled(node.args[0]))
    return (names | set(_through_packages(tree, bound)) | set(_in_texts(tree))) - {""}


def _origin(module: str, node: ast.ImportFrom) -> str:
    """Return the full name of what a ``from`` names, which may be relative to the module's package."""
    if not node.level:
        return str(node.module)
    is_package = MODULES.get(module, Path()).name == "__init__.py"
    parts = module.split(".")
    parents = parts[: len(parts) - node.level + is_package]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _spelled(name: ast.expr) -> str:
    """Return a literal module name, or the part of it before what is filled in."""
    while isinstance(name, ast.BinOp):
        name = name.left
    first = name.values[0] if isinstance(name, ast.JoinedStr) else name
    text = first.value if isinstance(first, ast.Constant) else ""
    return text.partition(":")[0].rstrip(".") if isinstance(text, str) else ""


def _through_packages(tree: ast.Module, bound: dict[str, str]) -> Iterator[str]:
    """Yield the modules that are reached as attributes of an imported package: ``kubelet.guardian``."""
    for node in ast.walk(tree):
        attributes: list[str] = []
        while isinstance(node, ast.Attribute):
            attributes.insert(0, node.attr)
            node = node.value
        if attributes and isinstance(node, ast.Name) and node.id in bound:
            name = ".".join([bound[node.id], *attributes])
            if name in MODULES:
                yield name


def _in_texts(tree: ast.Module) -> Iterator[str]:
    """Yield the modules of this project that a text names, and those that a command starts with ``python -m``."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            name = node.value.partition(":")[0].rstrip(".")
            if ".".join(name.split(".")[:2]) in MODULES and "." in name:
                yield name
            for started in re.findall(r"(?:^|\s)-m\s+([\w.]+)", node.value):
                yield _started(started)
        words = node.elts if isinstance(node, ast.List | ast.Tuple) else node.args if isinstance(node, ast.Call) else []
        for word, following in pairwise(words):
            if isinstance(word, ast.Constant) and word.value == "-m":
                yield _started(_spelled(following))
            if isinstance(word, ast.Constant) and word.value == "-c" and isinstance(following, ast.Constant):
                yield from _imported("", str(following.value))


def _started(name: str) -> str:
    """Return the module that ``python -m`` runs: of a package its ``__main__``."""
    is_module = name in MODULES and MODULES[name].name != "__init__.py"
    return name if is_module or not name else f"{name}.__main__"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module: str) -> None:
    broken = _broken(module, MODULES[module].read_text())
    assert not broken, "\n".join(f"{MODULES[module]} imports {name}: {rule.why}" for name, rule in broken.items())


def test_every_module_has_a_rule() -> None:
    assert {name.partition(".")[0] for name in MODULES} == {
        *("evergreen", "evergreen_airflow", "evergreen_laptop", "models", "dags", "feature_repo", "config"),
        *("evergreen_plugin", "tools", "files", "trial"),  # of the chart, of a trial's image
    }
    places = {name.split(".")[1] for name in MODULES if name.startswith("evergreen.")}
    assert places == {*GROUND_FLOOR, *ROOMS}, "give a new module its place in GROUND_FLOOR or ROOMS"


def test_every_name_in_a_rule_is_there() -> None:
    """A module that is renamed or deleted must not leave a hole, or a rule of nothing, behind."""
    named = {name for rule in RULES for name in (rule.importer, rule.imported, *rule.but, *rule.not_for)}
    ours = {name for name in named if name.startswith(("evergreen", "models", "dags", "feature_repo"))}
    assert ours - {"evergreen.__version__"} <= MODULES.keys() | {"models", "dags", "feature_repo"}


FORMS = [
    ("import evergreen.steps.gate", "evergreen.steps.gate"),
    ("import evergreen.steps.gate as gate", "evergreen.steps.gate"),
    ("import json, evergreen.steps", "evergreen.steps"),
    ("from evergreen import steps", "evergreen.steps"),
    ("from evergreen import contract, steps", "evergreen.steps"),
    ("from evergreen.steps import gate", "evergreen.steps.gate"),
    ("from evergreen.steps.gate import run", "evergreen.steps.gate.run"),
    ("from .. import steps", "evergreen.steps"),
    ("from ..steps import gate", "evergreen.steps.gate"),
    ("from ..steps.gate import run", "evergreen.steps.gate.run"),
    ("from evergreen import runner", "evergreen.runner"),
    ("from evergreen.cli import main", "evergreen.cli.main"),
    ("import importlib\nimportlib.import_module('evergreen.steps.gate')", "evergreen.steps.gate"),
    ("from importlib import import_module\nimport_module('evergreen.runner')", "evergreen.runner"),
    ("import importlib\nname = 'x'\nimportlib.import_module(f'evergreen.steps.{name}')", "evergreen.steps"),
    ("import importlib\nname = 'x'\nimportlib.import_module('evergreen.steps.' + name)", "evergreen.steps"),
    (
        "import importlib\nfor name in ('evergreen.steps.gate',):\n    importlib.import_module(name)",
        "evergreen.steps.gate",
    ),
    ("from importlib.util import find_spec\nfind_spec('evergreen.runner')", "evergreen.runner"),
    ("import pkgutil\npkgutil.resolve_name('evergreen.cli:main')", "evergreen.cli"),
    ("__import__('evergreen.steps.gate')", "evergreen.steps.gate"),
    ("import runpy\nrunpy.run_module('evergreen.runner')", "evergreen.runner"),
    ("import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'evergreen', 'history'])", "evergreen.__main__"),
    ("COMMAND = ('python', '-m', 'evergreen.runner')", "evergreen.runner"),
    ("COMMAND = ('python', '-c', 'import evergreen.runner')", "evergreen.runner"),
    ("import os, sys\nos.execl(sys.executable, 'python', '-m', 'evergreen.cli')", "evergreen.cli"),
    ("import os\nos.system('python -m evergreen.cli history')", "evergreen.cli"),
    ("import os\nos.system('python -m evergreen_airflow.replay')", "evergreen_airflow.replay.__main__"),
    ("import importlib\nimportlib.import_module('airflow.sdk')", "airflow.sdk"),
    ("import evergreen", "evergreen"),  # and then anything of it
    ("from evergreen import *", "evergreen.*"),
]
"""Every way of importing or starting a module, and the name it comes to."""


@pytest.mark.parametrize(("form", "name"), FORMS)
@pytest.mark.parametrize("frame", ["{}", "def f():\n{}", "if TYPE_CHECKING:\n{}", "try:\n{}\nexcept ImportError: ..."])
def test_an_import_against_the_flow_is_noticed(form: str, name: str, frame: str) -> None:
    source = frame.format(form if frame == "{}" else indent(form, "    "))
    assert set(_broken("evergreen.data.new", source)) == {name}


def test_a_module_that_is_reached_through_its_package_is_noticed() -> None:
    source = "from evergreen_airflow import kubelet\n\nkubelet.guarded([], 1)\nkubelet.guardian.main()\n"
    assert set(_broken("evergreen_laptop.new", source)) == {"evergreen_airflow.kubelet.guardian"}
    assert set(_broken("evergreen_laptop.new", "import evergreen_airflow as a\na.kubelet.guardian.main()\n")) == {
        "evergreen_airflow.kubelet.guardian"
    }


@pytest.mark.parametrize(
    ("module", "form"),
    [
        ("evergreen.data.lake", "from evergreen import handover\nimport evergreen.data.lake\nfrom . import rows"),
        ("evergreen.data.lake", "from evergreen.contract import Window\nfrom ..contract import Window"),
        (
            "evergreen.data.lake",
            "import importlib\nimportlib.import_module('json')\nimport runpy\nrunpy.run_module('x')",
        ),
        ("evergreen.data", "from .lake import get_lake"),
        ("evergreen.data.lake", "'''Started with ``python -m evergreen.cli``, as evergreen.cli says.'''"),
        ("evergreen.runner", "import importlib\nname = 'x'\nimportlib.import_module(f'evergreen.steps.{name}')"),
        ("evergreen.version", "from evergreen import __version__"),
        ("evergreen_airflow.pod", "COMMAND = ('python', '-m', 'evergreen')"),
        ("evergreen_airflow.operator", "from airflow.sdk import BaseOperator\nfrom evergreen_airflow import kubelet"),
        ("evergreen_laptop.control", "from evergreen import cli\nfrom evergreen_airflow.kubelet import remove_scratch"),
        ("evergreen_laptop.services", "import sys\n[sys.executable, '-m', 'airflow', 'scheduler']"),
        ("evergreen_airflow.kubelet.pod_process", "from evergreen_airflow.kubelet import guardian\nimport airflowing"),
        ("dags.training", "from airflow.sdk import DAG\nfrom evergreen_airflow.operator import StepOperator"),
    ],
)
def test_an_import_with_the_flow_is_not(module: str, form: str) -> None:
    assert _broken(module, form) == {}


TWINS = [
    *((f"evergreen.{name}", "from evergreen import runner", "evergreen") for name in GROUND_FLOOR),
    *((f"evergreen.{name}.new", "import evergreen.no_such_room", "evergreen") for name in ROOMS),
    ("evergreen.contract", "from evergreen.settings import get_settings", "evergreen"),
    ("evergreen.settings", "from evergreen import spec", "evergreen"),
    ("evergreen.catalog", "import evergreen.features.feast_repo", "evergreen"),
    ("evergreen.steps.gate", "from evergreen.steps.promote import run", "evergreen.steps"),
    ("evergreen.steps.gate", "from . import promote", "evergreen.steps"),
    ("evergreen.runner", "from airflow.sdk import DAG", "airflow"),
    ("evergreen.runner", "from evergreen_airflow import pod", "evergreen_airflow"),
    ("evergreen_airflow.operator", "from evergreen.steps.gate import run", "evergreen"),
    ("evergreen_airflow.operator", "def f():\n    from evergreen.data.lake import get_lake", "evergreen"),
    ("evergreen_airflow.kubelet.pod_process", "from evergreen import runner", "evergreen"),
    ("evergreen_airflow.kubelet.warm_server", "import evergreen.authoring.checks", "evergreen.authoring"),
    ("evergreen_airflow.replay.loop", "from evergreen.steps.gate import run", "evergreen"),
    ("evergreen_airflow.replay.loop", "from airflow.models import DagRun", "airflow"),
    ("evergreen_airflow.replay.loop", "from evergreen_airflow import operator", "evergreen_airflow"),
    ("evergreen_airflow.replay.loop", "from ..operator import StepOperator", "evergreen_airflow"),
    ("evergreen_airflow.kubelet.guardian", "import airflow", "airflow"),
    ("evergreen_airflow.kubelet.pod_process", "from evergreen_airflow.pod_watch import PodWatch", "evergreen_airflow"),
    *(("evergreen_airflow.operator", f"import {name}", name) for name in MODULES if name.startswith(f"{KUBELET}.")),
    ("evergreen_laptop.services", f"import sys\n[sys.executable, '-m', '{WARM}']", WARM),
    ("evergreen_airflow.replay.command", "from evergreen_laptop import status", "evergreen_laptop"),
    ("config.airflow_local_settings", "from evergreen_laptop import status", "evergreen_laptop"),
    ("files.airflow_settings", "from evergreen_laptop import status", "evergreen_laptop"),
    ("evergreen.cli", "import sys\n[sys.executable, '-m', 'evergreen_laptop', 'up']", "evergreen_laptop"),
    ("evergreen_laptop.roles", "from airflow.models import DagRun", "airflow"),
    ("dags.training", "from evergreen.steps.gate import run", "evergreen"),
    ("dags.training", "from airflow.models import DagRun", "airflow"),
    ("models.flight_delay.source", "from evergreen.data.lake import get_lake", "evergreen"),
    ("models.flight_delay.source", "import airflow", "airflow"),
    ("models.flight_delay.source", "import evergreen_airflow.pod", "evergreen_airflow"),
    ("evergreen.steps.train", "import models.flight_delay.network", "models"),
    ("evergreen_airflow.reaper", "import dags.training", "dags"),
    ("evergreen_plugin", "from evergreen.store import get_store", "evergreen"),
    ("feature_repo.flight_delay", "from evergreen.steps.gate import run", "evergreen"),
    ("feature_repo.flight_delay", "import airflow", "airflow"),
    ("feature_repo.flight_delay", "import evergreen_airflow", "evergreen_airflow"),
]
"""A module, what it must not import, and the package that the broken rule closes to it."""


@pytest.mark.parametrize(("module", "source", "closed"), TWINS)
def test_every_rule_can_be_broken(module: str, source: str, closed: str) -> None:
    assert closed in {rule.imported for rule in _broken(module, source).values()}


def test_no_rule_is_without_a_case_that_breaks_it() -> None:
    tried = {(rule.importer, rule.imported) for module, source, _ in TWINS for rule in _broken(module, source).values()}
    assert tried == {(rule.importer, rule.imported) for rule in RULES}
    assert all(rule.why.endswith(".") and len(rule.why) > 40 for rule in RULES)
