"""The probes: what they ask of the components that serve no HTTP, and that no busy node gets anything killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import chart_policies as policies
import pytest
from chart_rendering import CASES, CHART, Object, objects, pick

COMPONENTS = ("scheduler", "dag-processor", "triggerer")


def _container(component: str) -> Object:
    (container,) = pick(objects("production"), "Deployment", f"evergreen-{component}")["spec"]["template"]["spec"][
        "containers"
    ]
    return dict(container)


def _ask(component: str, file: Path) -> subprocess.CompletedProcess[str]:
    container = _container(component)
    assert container["startupProbe"]["exec"] == container["livenessProbe"]["exec"]
    program, *arguments = container["livenessProbe"]["exec"]["command"]
    told = {one["name"]: one.get("value") for one in container["env"]}["EVERGREEN_HEARTBEAT_FILE"]
    assert program == "python"
    arguments = [str(file) if one == told else one for one in arguments]
    assert str(file) in arguments
    return subprocess.run([sys.executable, *arguments], env={}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_lives_as_long_as_its_loop_turns(component: str, tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    assert _ask(component, file).returncode != 0  # it has not begun yet
    file.touch()
    assert _ask(component, file).returncode == 0
    os.utime(file, (time.time() - 310, time.time() - 310))
    asked = _ask(component, file)
    assert (asked.returncode, asked.stderr) == (1, "the last heartbeat was 310 s ago\n")


def test_a_heartbeat_from_before_the_container_began_is_none(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    script = (CHART / "files" / "alive.py").read_text()
    began = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    began += int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    for shift, expected in ((5, 0), (-5, 1)):
        file.touch()
        os.utime(file, (began + shift, began + shift))
        asked = subprocess.run([sys.executable, "-I", "-S", "-c", script, str(file), "1e9"], check=False)
        assert asked.returncode == expected


_BEATS = """
import os, sys
from pathlib import Path
sys.argv = ["airflow", sys.argv[1]]
import airflow.settings
airflow.settings.initialize()
from airflow.jobs.job import Job
file = Path(os.environ["EVERGREEN_HEARTBEAT_FILE"])
job = Job(heartrate=0)
file.unlink(missing_ok=True)
job.heartbeat(lambda session: None)
print("touched" if file.exists() else "not touched")
"""


@pytest.mark.parametrize(("component", "expected"), [("triggerer", "touched"), ("api-server", "not touched")])
def test_airflow_s_heartbeat_touches_the_file_though_its_database_is_away(
    component: str, expected: str, tmp_path: Path
) -> None:
    project, away = CHART.parents[1], "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
    done = subprocess.run(
        [sys.executable, "-c", _BEATS, component],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": away,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": away,
            "PYTHONPATH": os.pathsep.join(str(project / part) for part in ("include", "plugins", "config")),
            "EVERGREEN_HEARTBEAT_FILE": str(tmp_path / "heartbeat"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == [expected], done.stderr


@pytest.mark.parametrize("case", CASES)
def test_no_probe_is_impatient_or_costly(case: str) -> None:
    assert policies.impatient(objects(case)) == []


@pytest.mark.parametrize(
    ("probe", "change"),
    [
        ("startupProbe", {"failureThreshold": 30}),
        ("startupProbe", None),
        ("livenessProbe", {"failureThreshold": 3}),
        ("livenessProbe", {"timeoutSeconds": 1}),
        ("livenessProbe", {"exec": {"command": ["airflow", "jobs", "check", "--local"]}}),
    ],
)
def test_the_check_finds_a_probe_that_would_kill_a_starved_component(probe: str, change: Object | None) -> None:
    found = objects("production")
    (container,) = pick(found, "Deployment", "evergreen-scheduler")["spec"]["template"]["spec"]["containers"]
    if change is None:
        del container[probe]
    else:
        container[probe] |= change
    assert len(policies.impatient(found)) == 1


def test_a_trial_has_one_process_where_production_has_several() -> None:
    for case, expected in (("trial", "1"), ("production", "2")):
        found = objects(case)
        for component, where in (("api-server", "env"), ("mlflow", "command")):
            (container,) = pick(found, "Deployment", f"evergreen-{component}")["spec"]["template"]["spec"]["containers"]
            said = str(container[where])
            assert f"'AIRFLOW__API__WORKERS', 'value': '{expected}'" in said or f"--workers={expected}'" in said
