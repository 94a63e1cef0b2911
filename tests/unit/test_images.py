"""The images' recipes keep the rules that need no build; each rule has a recipe that breaks it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import build_images as tool
import pytest
import yaml
from chart_rendering import CASES, containers, objects, pods

ROOT = Path(__file__).parents[2]

DOCKERFILES = sorted((ROOT / "docker").glob("*/Dockerfile"))
LOCKS = sorted((ROOT / "docker").glob("*/*.lock"))
GOOD = """ARG BASE=python:3.11.15-slim
FROM ${BASE} AS packages
RUN pip install x
FROM scratch
COPY a /a
USER 50000:50000
"""


def hadolint(path: Path) -> str:
    """Return what hadolint finds in a recipe."""
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program is not None, "make setup"
    return subprocess.run([program, "--no-color", path], capture_output=True, text=True, check=False).stdout


def problems(recipe: str) -> list[str]:
    """Return what is wrong with a recipe by the rules of this project."""
    found = []
    default = re.search(r"^ARG BASE=(\S+)", recipe, re.MULTILINE)
    if default is None:
        found.append("the base image is no build argument")
    for base in [*re.findall(r"^FROM (\S+)", recipe, re.MULTILINE), *([default[1]] if default else [])]:
        if base not in {"scratch", "${BASE}"}:
            try:
                tool.checked(base)
            except tool.BuildError as error:
                found.append(str(error))
    for stage in re.split(r"^FROM ", recipe, flags=re.MULTILINE)[1:]:
        if stage.startswith("scratch") and "COPY" in stage:  # an image; the other stages are thrown away
            users = re.findall(r"^USER (\S+)", stage, re.MULTILINE)
            if not users or users[-1] != "50000:50000":
                found.append("an image does not run as user 50000")
            if "pip install" in stage:
                found.append("an image is put together, not installed into")
    for argument in re.findall(r"^ARG (\w*(?:INDEX|URL|TOKEN|PASSWORD|SECRET)\w*)", recipe, re.MULTILINE):
        found.append(f"{argument} may hold a password, and build arguments stay in the history of an image")
    return found


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_recipes_are_clean(path: Path) -> None:
    assert hadolint(path) == ""
    assert problems(path.read_text()) == []


def test_hadolint_finds_an_unclean_recipe(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text("FROM debian\nRUN cd /tmp && sudo apt-get install gcc\n")
    assert {"DL3006", "DL3003", "DL3004"} <= set(re.findall(r"DL\d+", hadolint(path)))


def test_the_rules_accept_a_good_recipe() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (":3.11.15-slim", ":latest", "names no version"),
        (":3.11.15-slim", "", "names no version"),
        ("FROM ${BASE}", "FROM debian:latest", "names no version"),
        ("ARG BASE=python:3.11.15-slim\n", "", "no build argument"),
        ("USER 50000:50000\n", "", "user 50000"),
        ("USER 50000:50000\n", "USER 50000:50000\nUSER root\n", "user 50000"),
        ("COPY a /a\n", "COPY a /a\nRUN pip install x\n", "not installed into"),
        ("RUN pip", "ARG TORCH_INDEX=\nRUN pip", "TORCH_INDEX may hold a password"),
    ],
)
def test_the_rules_find_a_bad_recipe(old: str, new: str, problem: str) -> None:
    assert old in GOOD
    assert any(problem in found for found in problems(GOOD.replace(old, new)))


# --- what they install -------------------------------------------------------------------------------------------


def entries(lock: str) -> dict[str, frozenset[str]]:
    """Return the hashes of each package and version in a lock."""
    parts = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]
    return {part.split()[0]: frozenset(re.findall(r"--hash=(\S+)", part)) for part in parts}


def strangers(part: str, whole: str) -> list[str]:
    """Return the entries of a lock that another has not, or has with other hashes."""
    known = entries(whole)
    return [name for name, hashes in entries(part).items() if not hashes or known.get(name) != hashes]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_image_installs_a_part_of_the_one_lock(path: Path) -> None:
    assert strangers(path.read_text(), (ROOT / "requirements.lock").read_text()) == [], "make lock"


def test_the_check_finds_another_version_and_another_hash() -> None:
    whole = "a==1 \\\n    --hash=sha256:1\nb==1 \\\n    --hash=sha256:2\n"
    assert strangers(whole, whole) == []
    assert strangers("a==2 \\\n    --hash=sha256:1\n", whole) == ["a==2"]
    assert strangers("a==1 \\\n    --hash=sha256:3\n", whole) == ["a==1"]
    assert strangers("a==1\n", "a==1\n") == ["a==1"]


def test_every_requirement_of_an_image_is_in_its_lock() -> None:
    pairs = {
        "requirements.txt": "docker/airflow/requirements.lock",
        "docker/step/requirements.txt": "docker/step/requirements.lock",
        "docker/serving/requirements.txt": "docker/serving/requirements.lock",
        "docker/trial/postgres.txt": "docker/trial/postgres.lock",
        "docker/trial/seaweedfs.txt": "docker/trial/seaweedfs.lock",
    }
    assert {ROOT / lock for lock in pairs.values()} == set(LOCKS)
    for requirements, lock in pairs.items():
        asked = {
            one.lower() for one in re.findall(r"^[A-Za-z0-9][\w.-]*", (ROOT / requirements).read_text(), re.MULTILINE)
        }
        have = {name.partition("==")[0].partition("[")[0] for name in entries((ROOT / lock).read_text())}
        assert asked <= have, f"{lock}: make lock"


def test_airflow_s_image_gets_no_ml_library() -> None:
    have = {name.partition("==")[0] for name in entries((ROOT / "docker/airflow/requirements.lock").read_text())}
    assert not have & {"torch", "ray", "mlflow", "pandas", "numpy", "pyarrow", "feast", "scikit-learn", "duckdb"}


def test_the_torch_of_the_image_is_that_of_the_requirements() -> None:
    (pinned,) = re.findall(r"^torch==\S+", (ROOT / "docker/step/requirements.txt").read_text(), re.MULTILINE)
    for path in (ROOT / "docker/step").glob("torch-*.txt"):
        assert pinned in entries(path.read_text())


# --- the command that builds them ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--tag=latest"], ["--tag=a b"], ["--base=python:latest"], ["--base=python"], ["--base=a@sha256:12"], ["--tag=+"]],
)
def test_what_names_no_version_is_refused_before_anything_is_built(arguments: list[str]) -> None:
    command = [sys.executable, ROOT / "tools" / "build_images.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "names no version: give a tag other than latest, or a digest" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "reference", ["host:5000/team/python:3.11", "python:1.0@sha256:" + "a" * 64, "python@sha256:" + "a" * 64]
)
def test_what_names_a_version_is_accepted(reference: str) -> None:
    assert tool.checked(reference) == reference


def test_it_builds_what_the_chart_runs_and_the_chart_s_defaults_name_it() -> None:
    values = yaml.safe_load((ROOT / "helm" / "evergreen" / "values.yaml").read_text())["images"]
    chart = {key: one["repository"] for key, one in values.items() if isinstance(one, dict) and "repository" in one}
    del chart["gitSync"]  # git-sync's own image, only with dags.gitSync.enabled
    assert chart == {key: f"{tool.REGISTRY}/{name}" for name, (_, _, key) in tool.TARGETS.items()}
    assert {values[key]["tag"] for key in chart} == {tool.version()}


def foreign(images: list[str]) -> set[str]:
    """Return the images of a rendered chart that are neither built here nor git-sync's."""
    ours = {f"{tool.REGISTRY}/{name}" for name in tool.TARGETS}
    repositories = {re.sub(r"(@|:)[^/]*$", "", image) for image in images}
    return repositories - ours - {"registry.k8s.io/git-sync/git-sync"}


@pytest.mark.parametrize("case", CASES)
def test_every_pod_of_the_chart_runs_an_image_that_is_built_here(case: str) -> None:
    found = [container["image"] for pod in pods(objects(case)) for container in containers(pod)]
    assert found
    assert foreign(found) == set()


def test_the_check_finds_an_image_that_is_not() -> None:
    assert foreign(
        ["evergreen/step:0.1.0", "evergreen/airflow@sha256:12", "postgres:18", "host:5000/evergreen/step:1"]
    ) == {
        "postgres",
        "host:5000/evergreen/step",
    }


def test_docker_makes_an_image_and_no_index_of_it_and_its_attestation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BUILDX_NO_DEFAULT_ATTESTATIONS", raising=False)
    engine = tmp_path / "docker"
    engine.write_text(f'#!/bin/sh\necho "$1 $BUILDX_NO_DEFAULT_ATTESTATIONS $PATH" > {tmp_path}/told\n')
    engine.chmod(0o755)
    tool.build(str(engine), "step", "localhost/evergreen/step:0.1.0", [])
    assert (tmp_path / "told").read_text() == f"build 1 {os.environ['PATH']}\n"


def test_pip_s_configuration_goes_into_a_build_as_a_secret_without_this_machine_s_folders(tmp_path: Path) -> None:
    pip = {
        "index-url": "https://user:word@index.example/simple",
        "extra-index-url": "file:///here https://there.example",
        "cert": "/ca",
    }
    carried = tool.carried_settings(pip | {"find-links": "/wheels"})
    assert carried == {"index-url": pip["index-url"], "extra-index-url": "https://there.example"}
    options = tool.secrets(carried, pip["cert"], "", tmp_path)
    assert options == [f"--secret=id=pip,src={tmp_path}/pip", "--secret=id=ca,src=/ca"]
    assert stat.S_IMODE((tmp_path / "pip").stat().st_mode) == 0o600
    assert "index-url = https://user:word@index.example/simple\n" in (tmp_path / "pip").read_text()


def test_the_address_of_torch_s_index_goes_into_a_build_as_a_secret(tmp_path: Path) -> None:
    address = "https://user:word@torch.example/cpu"
    options = tool.secrets({}, "/ca", address, tmp_path)
    assert f"--secret=id=torch-index,src={tmp_path}/torch-index" in options
    assert stat.S_IMODE((tmp_path / "torch-index").stat().st_mode) == 0o600
    assert (tmp_path / "torch-index").read_text() == address
    used = (ROOT / "docker/step/Dockerfile").read_text() + (ROOT / "docker/install.sh").read_text()
    assert "--mount=type=secret,id=torch-index" in used
    assert "$(cat /run/secrets/torch-index)" in used


def test_an_image_that_is_built_alone_leaves_the_chart_s_values_of_the_others(tmp_path: Path) -> None:
    def built(name: str, tag: str) -> tool.Built:
        return tool.Built(name, f"registry.example.com/ml/{name}:{tag}", 1, f"sha256:{name}", True, 1)

    tool.report([built(name, "1") for name in tool.TARGETS], tmp_path)
    before = yaml.safe_load((tmp_path / "values.yaml").read_text())["images"]
    assert list(before) == [key for _, _, key in tool.TARGETS.values()]
    tool.report([built("step", "2")], tmp_path)
    after = yaml.safe_load((tmp_path / "values.yaml").read_text())["images"]
    step = {"repository": "registry.example.com/ml/step", "tag": "2", "digest": "sha256:step"}
    assert after == before | {"step": step}


def test_a_folder_of_wheels_is_found_where_pip_looks(tmp_path: Path) -> None:
    assert tool.wheels_folder("", {"find-links": f"https://x.example file://{tmp_path}"}) == str(tmp_path)
    assert tool.wheels_folder(str(tmp_path), {}) == str(tmp_path)
    assert tool.wheels_folder("", {}) == ""
    with pytest.raises(tool.BuildError, match="no such folder"):
        tool.wheels_folder(str(tmp_path / "none"), {})


def test_without_a_cpu_build_of_torch_nothing_is_begun(tmp_path: Path) -> None:
    with pytest.raises(tool.BuildError, match="--torch-index"):
        tool.check_torch_is_at_hand(str(tmp_path))
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    tool.check_torch_is_at_hand(str(tmp_path))


def test_only_what_the_images_need_is_sent_to_a_build() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert not {"!.git", "!.env", "!.evergreen", "!tests"} & set(lines)
