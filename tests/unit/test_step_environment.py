"""A step's environment is complete at once, and nothing else in the lifecycle writes to it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evergreen.settings import PROJECT_ROOT

TWICE = """
import os, sys
from evergreen.environment import complete
writes = []
sys.addaudithook(lambda event, arguments: writes.append(arguments[0]) if event == "os.putenv" else None)
complete()
first = len(writes)
complete()
print(first, len(writes) - first, os.environ["RAY_AUTH_MODE"], os.environ["DO_NOT_TRACK"])
"""
WRITERS = {
    "evergreen/data/readers.py",  # what a reader has changed, which is put back
    "evergreen/environment.py",
    "evergreen/settings.py",  # on behalf of it
    "evergreen_airflow/kubelet/warm_server.py",  # a fork, which has one thread
}


def _writes(source: str) -> bool:
    """Tell whether a module writes to os.environ."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Assign(targets=targets):
                stored = [target.value for target in targets if isinstance(target, ast.Subscript)]
            case ast.Delete(targets=targets):
                stored = [target.value for target in targets if isinstance(target, ast.Subscript)]
            case ast.Call(func=ast.Attribute(value=owner, attr="update" | "setdefault" | "pop" | "clear")):
                stored = [owner]
            case ast.Call(func=ast.Attribute(value=ast.Name("os"), attr="putenv" | "unsetenv")):
                return True
            case _:
                continue
        if any(ast.unparse(value) == "os.environ" for value in stored):
            return True
    return False


def test_completing_twice_writes_once(tmp_path: Path) -> None:
    clean = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}  # others that ran set more
    environment = {**clean, "EVERGREEN_STATE_DIR": str(tmp_path), "DO_NOT_TRACK": "of the user"}
    done = subprocess.run([sys.executable, "-c", TWICE], env=environment, capture_output=True, text=True, check=True)
    first, again, mode, own = done.stdout.split(maxsplit=3)
    assert int(first) > 10
    assert (again, mode, own.strip()) == ("0", "token", "of the user")


def test_nobody_else_writes() -> None:
    roots = (PROJECT_ROOT / "include", PROJECT_ROOT / "plugins")
    writers = {
        str(path.relative_to(root)) for root in roots for path in root.rglob("*.py") if _writes(path.read_text())
    }
    assert writers == WRITERS


@pytest.mark.parametrize(
    ("source", "writes"),
    [
        ("os.environ['A'] = 'b'", True),
        ("os.environ['A'] = os.environ['B'] = 'b'", True),
        ("del os.environ['A']", True),
        ("os.environ.update(x)", True),
        ("os.environ.setdefault('A', 'b')", True),
        ("os.putenv('A', 'b')", True),
        ("x = os.environ['A']", False),
        ("x = os.environ.get('A')", False),
    ],
)
def test_a_write_is_noticed(source: str, writes: bool) -> None:
    assert _writes(source) is writes
