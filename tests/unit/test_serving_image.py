"""The image of the server of predictions has what the server needs, and no test has to build it to know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

from evergreen.settings import PROJECT_ROOT


def absent_from_the_server() -> set[str]:
    """Return the packages to import that are installed here and not in the image of the server of predictions."""
    lock = (PROJECT_ROOT / "docker/serving/requirements.lock").read_text()
    have = set(re.findall(r"^([\w.-]+)(?:\[.*?\])?==", lock, re.MULTILINE))
    installed = packages_distributions()
    return {
        package
        for package, projects in installed.items()
        if package.isidentifier() and not {re.sub(r"[-_.]+", "-", name).lower() for name in projects} & have
    }


def imported(source: str) -> set[str]:
    """Return the modules that a module imports, also within its functions."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_the_server_imports_nothing_that_its_image_lacks() -> None:
    absent = absent_from_the_server()
    assert {"torch", "ray", "duckdb", "airflow", "sklearn"} <= absent
    assert not {"mlflow", "feast", "onnxruntime", "pandas"} & absent
    modules = {
        path.name: imported(path.read_text()) for path in (PROJECT_ROOT / "include/evergreen/serving").glob("*.py")
    }
    assert "log_files.py" in modules
    for name, names in modules.items():
        if "evergreen.data.lake" not in names:  # what is about the lake, a step does
            assert not {one.partition(".")[0] for one in names} & absent, name
    assert imported("def f():\n    import torch.nn\n    from ray.a import get\n") == {"torch.nn", "ray.a"}


DEFINITIONS = """
import sys
for name in sys.argv[1].split():
    sys.modules[name] = None
from evergreen.catalog import survey
from evergreen.features.feast_repo import definitions
models = survey().models
assert models
print(*(one.name for spec in models for one in definitions(spec)))
"""


def test_the_image_of_the_server_has_what_the_features_are_defined_with() -> None:
    command = [sys.executable, "-c", DEFINITIONS]
    done = subprocess.run([*command, " ".join(absent_from_the_server())], capture_output=True, text=True, check=False)
    assert "flight_delay_route_history" in done.stdout, done.stderr
    done = subprocess.run([*command, "pyarrow"], capture_output=True, text=True, check=False)
    assert "import of pyarrow halted" in done.stderr
