"""The workflows call what a person calls, with actions that nobody can change under us. `make scan` runs actionlint."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import build_images
import pytest
import yaml

from evergreen.settings import PROJECT_ROOT

WORKFLOWS = sorted((PROJECT_ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (PROJECT_ROOT / "Makefile").read_text(), flags=re.M))
PINNED = re.compile(r"uses: [\w/-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$")
OURS = re.compile(r"uses: \./(\.github/workflows/\w+\.yml)")


MUST_PASS = ("make lint", "make test", "make test-e2e", "make scan", "make test-slow", "make test-images")


def steps(text: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of every job."""
    for job in yaml.safe_load(text)["jobs"].values():
        yield from job.get("steps", ())  # a job that calls a workflow has none


def problems(text: str) -> list[str]:
    """Return actions that could change, and make targets that do not exist."""
    wrong = [line.strip() for line in text.splitlines() if "uses:" in line and not PINNED.search(line)]
    wrong = [line for line in wrong if not (OURS.fullmatch(line) and (PROJECT_ROOT / OURS.fullmatch(line)[1]).exists())]
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
    for command in ("make lint", "make test\n", "make scan", "make images", "make test-images", "make test-slow"):
        assert command in text


def unwatched(paths: list[str], patterns: list[str]) -> list[str]:
    """Return the paths that none of a workflow's patterns matches: a change of them would not start it."""
    expressions = [re.escape(one).replace(r"\*\*", ".*").replace(r"\*", "[^/]*") for one in patterns]
    return [path for path in paths if not any(re.fullmatch(one, path) for one in expressions)]


def test_a_change_of_what_the_images_are_made_of_builds_and_tests_them() -> None:
    text = (PROJECT_ROOT / ".github" / "workflows" / "images.yml").read_text()
    patterns = yaml.safe_load(text)[True]["pull_request"]["paths"]  # YAML 1.1 reads the key `on` as a truth value
    content = [one[1:] for one in (PROJECT_ROOT / ".dockerignore").read_text().splitlines() if one.startswith("!")]
    made_of = [f"{one}/x/y.py" if (PROJECT_ROOT / one).is_dir() else one for one in content]
    makers = [".dockerignore", "Makefile", "pyproject.toml", "tools/build_images.py", "tools/sbom.py"]
    testers = ["helm/x/y.yaml", "tests/images/x.py", "tests/installation.py"]
    assert unwatched([*made_of, *makers, *testers], patterns) == []


def test_the_check_finds_a_path_that_nobody_watches() -> None:
    assert unwatched(["a/b/c.py", "a.py", "b/a.py"], ["a/**", "*.txt", "b/*.py"]) == ["a.py"]


def test_a_released_chart_names_the_images_of_its_release(tmp_path: Path) -> None:
    text = (PROJECT_ROOT / ".github" / "workflows" / "release.yml").read_text()
    (script,) = [
        step["run"] for step in steps(text) if step.get("name") == "The chart names the images of this release"
    ]
    values = tmp_path / "helm" / "evergreen" / "values.yaml"
    values.parent.mkdir(parents=True)
    values.write_text((PROJECT_ROOT / "helm" / "evergreen" / "values.yaml").read_text())
    before = yaml.safe_load(values.read_text())
    output = tmp_path / ".evergreen" / "images"
    output.mkdir(parents=True)
    registry, digest = "ghcr.io/team/evergreen", "sha256:" + "a" * 64
    build_images.report(
        [build_images.Built(name, f"{registry}/{name}:1.2.3", 1, digest, True, 1) for name in build_images.TARGETS],
        output,
    )
    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, check=True)
    released = {
        key: {"repository": f"{registry}/{name}", "tag": "1.2.3", "digest": digest}
        for name, (_, _, key) in build_images.TARGETS.items()
    }
    assert yaml.safe_load(values.read_text()) == before | {"images": before["images"] | released}


def untested(text: str, called: Mapping[str, str]) -> list[str]:
    """Return the commands that a job with the right to publish does not wait for, directly or through others."""
    jobs = yaml.safe_load(text)["jobs"]

    def waited(name: str) -> set[str]:
        needs = jobs[name].get("needs", [])
        return set(needs).union(*(waited(one) for one in needs))

    missing = []
    for name, job in jobs.items():
        if job.get("permissions", {}).get("packages") == "write":
            files = [jobs[one].get("uses", "") for one in waited(name)]
            ran = "\n".join(step.get("run", "") for file in files for step in steps(called.get(file, "jobs: {}")))
            missing += [command for command in MUST_PASS if f"{command}\n" not in f"{ran}\n"]
    return missing


def test_nothing_is_published_that_has_not_passed_every_test() -> None:
    called = {f"./.github/workflows/{path.name}": path.read_text() for path in WORKFLOWS}
    text = (PROJECT_ROOT / ".github" / "workflows" / "release.yml").read_text()
    assert untested(text, called) == []
    for path in called:
        if path in text:
            assert "workflow_call" in yaml.safe_load(called[path])[True]
    assert untested(text.replace("needs: [checks, slow, images]", "needs: [checks, slow]"), called) == [
        "make test-images"
    ]
    assert untested(text.replace("    needs: [checks, slow, images]\n", ""), called) == list(MUST_PASS)


@pytest.mark.parametrize("line", ["uses: actions/checkout@v4", "run: make no-such-target"])
def test_the_check_finds_its_defect(line: str) -> None:
    assert problems(f"jobs:\n  one:\n    steps:\n      - {line}\n")
