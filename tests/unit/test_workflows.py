"""The workflows call what a person calls, with actions that nobody can change under us. `make scan` runs actionlint."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen.settings import PROJECT_ROOT

WORKFLOWS = sorted((PROJECT_ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (PROJECT_ROOT / "Makefile").read_text(), flags=re.M))
PINNED = re.compile(r"uses: [\w/-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$")


def steps(text: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of every job."""
    for job in yaml.safe_load(text)["jobs"].values():
        yield from job["steps"]


def problems(text: str) -> list[str]:
    """Return actions that could change, and make targets that do not exist."""
    wrong = [line.strip() for line in text.splitlines() if "uses:" in line and not PINNED.search(line)]
    called = [words for step in steps(text) for words in re.findall(r"\bmake ([\w-]+)", step.get("run", ""))]
    return wrong + [f"make {target}" for target in called if target not in TARGETS]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_pinned_and_calls_the_makefile(path: Path) -> None:
    text = path.read_text()
    assert problems(text) == []
    assert "make " in text
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_they_cover_what_a_change_must_pass() -> None:
    text = "".join(path.read_text() for path in WORKFLOWS)
    for command in ("make lint", "make test\n", "make scan", "make images", "make test-images"):
        assert command in text


@pytest.mark.parametrize("line", ["uses: actions/checkout@v4", "run: make no-such-target"])
def test_the_check_finds_its_defect(line: str) -> None:
    assert problems(f"jobs:\n  one:\n    steps:\n      - {line}\n")
