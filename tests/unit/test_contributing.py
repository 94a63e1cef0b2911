"""CONTRIBUTING.md's worked examples: each is applied to a clone, touches the files it names, and works there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from evergreen.pipelines import PIPELINES, STEPS, arrows
from evergreen.settings import PROJECT_ROOT

PAGE = (PROJECT_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = PROJECT_ROOT / "tests" / "worked_examples"
IMPORTS, PICTURE = "tests/unit/test_import_rules.py", "tests/unit/test_contributing.py"
CONCERNED = {
    "train_step": (
        *("tests/unit/test_pipelines.py", f"{IMPORTS}::test_imports_go_one_way[evergreen.steps.check_leaks]"),
        *("tests/dags/test_structure.py", f"{PICTURE}::test_the_picture_draws_steps_as_they_follow_each_other"),
    ),
    "source_type": (
        *("tests/unit/test_models_page.py", f"{IMPORTS}::test_imports_go_one_way[evergreen.data.source_types.csv]"),
        "tests/unit/data/test_source_types.py::test_every_type_has_its_row_in_the_documentation",
    ),
    "gate_rule": ("tests/unit/test_models_page.py", "tests/unit/judgement/test_evidence.py"),
    "report": (
        *(f"{IMPORTS}::test_imports_go_one_way[evergreen.{module}]" for module in ("cli", "monitoring.reports")),
        f"{IMPORTS}::test_every_module_has_a_rule",
    ),
}
"""Example -> the tests that the project has for such a change; each has a check of what it does beside its patch."""


class Section(NamedTuple):
    """What the page says of an example."""

    count: int
    files: list[str]
    lines: list[str]
    """The essential lines of the patch."""


def sections(page: str) -> dict[str, Section]:
    """Return the page's examples, by the name of the patch that they link to."""
    examples = {}
    for part in page.split("\n### ")[1:]:
        title = re.match(r".*: (\d+) files\n", part)
        patch = re.search(r"\]\(tests/worked_examples/(\w+)\.diff\)", part)
        if title and patch:
            shown = "".join(re.findall(r"^```diff\n(.*?)^```$", part, flags=re.M | re.S))
            files = re.findall(r"^- `([\w/.]+)`", part, flags=re.M)
            examples[patch[1]] = Section(int(title[1]), files, re.findall(r"^[-+].*$", shown, flags=re.M))
    return examples


def environment(clone: Path) -> Mapping[str, str]:
    """Return the variables with which the clone's code is what Python imports, and its repository what git sees."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "PYTEST_"))}
    paths = f"{clone / 'include'}{os.pathsep}{clone / 'plugins'}"
    # importing what plugins are installed takes three quarters of a short run
    return kept | {"PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def git(folder: Path, *arguments: str) -> str:
    """Return what git prints in a folder; what it cannot do is a failure with its words."""
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def cloned(root: Path, folder: Path) -> Path:
    """Return a clone of a project, or fail where there is nothing to clone."""
    if not (root / ".git").exists():
        pytest.fail(f"{root} is no git checkout: the examples are applied to a clone of one, so nothing is tested here")
    git(root, "clone", "--quiet", "--no-hardlinks", str(root), str(folder))
    return folder


def applied(clone: Path, patch: str) -> list[str]:
    """Apply a patch to a clone; returns the files that it touches."""
    path = clone.parent / "example.diff"
    path.write_text(patch)
    git(clone, "apply", "--index", str(path))
    return git(clone, "diff", "--cached", "--name-only").split()


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A clone for every example, without its patch."""
    return {name: cloned(PROJECT_ROOT, tmp_path_factory.mktemp(name) / "clone") for name in CONCERNED}


@pytest.fixture(scope="module")
def touched(clones: dict[str, Path]) -> dict[str, list[str]]:
    """The files that each example's patch touches in its clone; the check of what it does is put beside them."""
    files = {}
    for name, clone in clones.items():
        files[name] = applied(clone, (EXAMPLES / f"{name}.diff").read_text())
        target = clone / "tests" / "worked_examples"
        target.mkdir(exist_ok=True)
        for check in ("check_clone.py", f"check_{name}.py"):
            (target / check).write_text((EXAMPLES / check).read_text())
    return files


@pytest.fixture(scope="module")
def running(clones: dict[str, Path], touched: dict[str, list[str]]) -> dict[str, subprocess.Popen[str]]:
    """The tests of all examples, each in its clone, all at once."""
    started = {}
    for name, clone in clones.items():
        checks = [f"tests/worked_examples/{check}.py" for check in ("check_clone", f"check_{name}")]
        started[name] = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "-p",
                "pytest_timeout",
                *CONCERNED[name],
                *checks,
            ],
            cwd=clone,
            env=environment(clone),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    return started


@pytest.mark.parametrize("name", CONCERNED)
def test_an_example_touches_the_files_that_the_page_names(name: str, touched: dict[str, list[str]]) -> None:
    section = sections(PAGE)[name]
    assert section.files == sorted(section.files)
    assert touched[name] == section.files
    assert len(section.files) == section.count


@pytest.mark.parametrize("name", CONCERNED)
def test_the_page_shows_lines_of_the_patch(name: str) -> None:
    patch = (EXAMPLES / f"{name}.diff").read_text().splitlines()
    lines = sections(PAGE)[name].lines
    assert lines
    assert not [line for line in lines if line not in patch]


@pytest.mark.parametrize("name", CONCERNED)
def test_an_example_is_clean_and_passes_the_tests_that_concern_it(
    name: str, clones: dict[str, Path], touched: dict[str, list[str]], running: dict[str, subprocess.Popen[str]]
) -> None:
    files = [file for file in touched[name] if file.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", *files]
        done = subprocess.run(ruff, cwd=clones[name], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    output, _ = running[name].communicate(timeout=240)
    assert running[name].returncode == 0, output


def test_every_example_is_on_the_page_and_every_patch_an_example() -> None:
    assert set(sections(PAGE)) == set(CONCERNED) == {path.stem for path in EXAMPLES.glob("*.diff")}


def drawn(page: str) -> tuple[set[str], set[tuple[str, str]]]:
    """Return the steps of the page's picture, and which of them an arrow leads to from which."""
    picture = re.search(r"^```mermaid\n(.*?)^```", page, flags=re.M | re.S)
    assert picture
    steps = set(re.findall(r"(\w+)\(\[\1\]\)", picture[1]))
    pairs: set[tuple[str, str]] = set()
    for line in picture[1].splitlines():
        names = [name for name in re.split(r"\W+", re.sub(r"--[^>]*-->", "-->", line)) if name in steps]
        pairs |= set(pairwise(dict.fromkeys(names)))
    return steps, pairs


def ways(pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return which step comes after which, at once or in the end."""
    known = set(pairs)
    while more := {(first, last) for first, step in known for other, last in known if step == other} - known:
        known |= more
    return known


def contradictions(page: str) -> set[tuple[str, str]]:
    """Return the arrows that only the picture or only the table has; what comes between two steps may differ."""
    steps, pairs = drawn(page)
    table = ways(pair for pipeline in PIPELINES for pair in arrows(pipeline))
    together = [{step.name for step in PIPELINES[pipeline]} for pipeline in PIPELINES if pipeline != "backfill"]
    inside = {pair for pair in pairs if any(set(pair) <= names for names in together)}
    return (inside - table) | ({pair for pair in table if set(pair) <= steps} - ways(pairs))


def test_the_picture_draws_steps_as_they_follow_each_other() -> None:
    assert drawn(PAGE)[0] <= set(STEPS)
    assert contradictions(PAGE) == set()
    assert contradictions(PAGE.replace("evaluate([evaluate]) --> ", "evaluate([evaluate])\n"))
    assert contradictions(PAGE.replace("--> train --> evaluate", "--> evaluate --> train"))


def test_a_patch_that_touches_another_file_is_noticed(tmp_path: Path) -> None:
    clone = cloned(PROJECT_ROOT, tmp_path / "clone")
    patch = (EXAMPLES / "report.diff").read_text()
    more = "diff --git a/another.py b/another.py\nnew file mode 100644\n"
    more += "--- /dev/null\n+++ b/another.py\n@@ -0,0 +1 @@\n+x = 1\n"
    assert set(applied(clone, patch + more)) - set(sections(PAGE)["report"].files) == {"another.py"}


def test_a_patch_that_no_longer_fits_is_noticed(tmp_path: Path) -> None:
    clone = cloned(PROJECT_ROOT, tmp_path / "clone")
    patch = (EXAMPLES / "train_step.diff").read_text()
    with pytest.raises(pytest.fail.Exception, match="patch does not apply"):
        applied(clone, patch.replace('Step("assemble"', 'Step("gather"'))


def test_a_line_or_a_file_that_the_page_makes_up_is_noticed() -> None:
    page = "\n### A step: 2 files\n\n[patch](tests/worked_examples/x.diff)\n\n- `a.py`: new\n\n```diff\n+x = 1\n```\n"
    assert sections(page) == {"x": Section(2, ["a.py"], ["+x = 1"])}


def test_a_tree_without_git_says_so(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match="is no git checkout"):
        cloned(tmp_path, tmp_path / "clone")
