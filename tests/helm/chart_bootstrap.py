"""The bootstrap's programs, as the chart's Job runs them."""

from __future__ import annotations

import os
import subprocess
import sys

from chart_rendering import CHART, Object, objects, pick

SCRIPTS = CHART / "files"


def container_of(case: str, name: str) -> Object:
    """Return a container of the Job."""
    job = "evergreen-bootstrap-1" if case.startswith(("trial", "git-sync")) else "evergreen-bootstrap"
    spec = pick(objects(case), "Job", job)["spec"]["template"]["spec"]
    (found,) = [one for one in [*spec["initContainers"], *spec["containers"]] if one["name"] == name]
    return found


def values_of(container: Object) -> dict[str, str]:
    """Return its variables that no Secret has."""
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


def run(name: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program with these variables and no others."""
    path = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp")}
    return subprocess.run(
        [sys.executable, str(SCRIPTS / name), *arguments],
        env={**path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
