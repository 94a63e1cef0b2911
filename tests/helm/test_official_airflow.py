"""What helm/official-airflow/ gives to an Airflow of the official chart agrees with our own chart and code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chart_policies as policies
import pytest
import yaml
from chart_rendering import CHART, Object, objects, pick

from evergreen.settings import Settings

FOLDER = CHART.parent / "official-airflow"
VALUES: Object = yaml.safe_load((FOLDER / "values.yaml").read_text())
DOCKERFILE, README = ((FOLDER / name).read_text() for name in ("Dockerfile", "README.md"))
STEPS: list[Object] = list(yaml.safe_load_all((FOLDER / "steps.yaml").read_text()))
FIELDS = {f"EVERGREEN_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("version", policies.VERSIONS)
def test_the_api_server_would_take_every_object(version: str) -> None:
    assert policies.schema_errors(STEPS, version) == []


@pytest.mark.parametrize("policy", [policies.tokens, policies.rights, policies.literals])
def test_the_policies_hold(policy: Callable[[list[Object]], list[str]]) -> None:
    assert policy(STEPS) == []


def test_the_rights_are_those_of_our_own_chart() -> None:
    for role in ("evergreen-step-launcher", "evergreen-step-watcher"):
        own = pick(objects("production"), "Role", role)
        assert pick(STEPS, "Role", role)["rules"] == own["rules"]


def test_the_steps_are_told_what_our_own_chart_tells_them() -> None:
    own = pick(objects("production"), "ConfigMap", "evergreen-settings")["data"]
    told = pick(STEPS, "ConfigMap", "evergreen-settings")["data"]
    assert {name for name in told if name.startswith("EVERGREEN_")} <= FIELDS
    for name in ("HOME", "DO_NOT_TRACK", "EVERGREEN_STATE_DIR", "RAY_TRAIN_V2_ENABLED", "RAY_USAGE_STATS_ENABLED"):
        assert told[name] == own[name]
    # what the operator is told is Airflow's; a Ray of the step's own needs neither token nor authorities
    airflow_s = {"EVERGREEN_RUNTIME", "EVERGREEN_NAMESPACE", "EVERGREEN_STEP_IMAGE", "EVERGREEN_POD_SERVICE_ACCOUNT"}
    rest = {"AWS_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PGSSLROOTCERT", "RAY_AUTH_MODE", "AWS_REGION"}
    assert set(own) - set(told) == airflow_s | rest
    variables = {one["name"]: one["value"] for one in VALUES["env"]}
    assert airflow_s <= set(variables)
    account = pick(STEPS, "ServiceAccount", variables["EVERGREEN_POD_SERVICE_ACCOUNT"])
    assert account["metadata"]["namespace"] == variables["EVERGREEN_NAMESPACE"]
    for name in ("EVERGREEN_ARTIFACT_ROOT", "EVERGREEN_LAKE_ROOT", "EVERGREEN_S3_ENDPOINT"):
        assert told[name] == variables[name]


def test_airflow_s_variables_and_options_exist() -> None:
    from airflow.configuration import conf

    assert {one["name"] for one in VALUES["env"] if one["name"].startswith("EVERGREEN_")} <= FIELDS
    own = _options()
    for section, options in VALUES["config"].items():
        for option, value in options.items():
            assert option in conf.configuration_description[section]["options"], option
            if (section, option) in own and "BUCKET" not in value:
                assert own[section, option] == value, option


def _options() -> dict[tuple[str, str], Any]:
    (container,) = pick(objects("production"), "Deployment", "evergreen-scheduler")["spec"]["template"]["spec"][
        "containers"
    ]
    names = {one["name"]: one.get("value") for one in container["env"] if one["name"].startswith("AIRFLOW__")}
    return {
        (section, option): value
        for name, value in names.items()
        for section, option in [name.removeprefix("AIRFLOW__").lower().split("__")]
    }


def test_a_busy_node_gets_nothing_killed_there_either() -> None:
    (own,) = pick(objects("production"), "Deployment", "evergreen-scheduler")["spec"]["template"]["spec"]["containers"]
    told = {one["name"]: one.get("value") for one in own["env"]}
    for component in ("scheduler", "dagProcessor", "triggerer"):
        values = VALUES[component]
        assert values["livenessProbe"]["command"] == own["livenessProbe"]["exec"]["command"]
        (variable,) = values["env"]
        assert variable["value"] == told[variable["name"]]
        start = values.get("startupProbe", values["livenessProbe"])
        assert start["periodSeconds"] * start["failureThreshold"] == 1800
    for probe in ("startupProbe", "livenessProbe"):
        numbers = {name: value for name, value in own[probe].items() if name != "exec"}
        assert VALUES["apiServer"][probe] == numbers
        assert VALUES["scheduler"][probe] == {**numbers, "command": own[probe]["exec"]["command"]}


def test_the_version_is_that_of_the_image() -> None:
    requirements = (CHART.parents[1] / "requirements.txt").read_text()
    assert f"apache-airflow=={VALUES['airflowVersion']}\n" in requirements
    assert re.findall(r"^ARG BASE=\S+/airflow:([\d.]+)-python", DOCKERFILE, re.M) == [VALUES["airflowVersion"]]
    assert f"Airflow {VALUES['airflowVersion']} with Python" in README


def test_the_image_is_their_airflow_s_with_what_our_own_has_of_the_project() -> None:
    # its probes, sidecars and defaults want what only an image made from the official one has
    assert re.findall(r"^FROM (\S+)$", DOCKERFILE, re.M) == ["${BASE}"]
    repository = f"{VALUES['defaultAirflowRepository']}:{VALUES['defaultAirflowTag']}"
    assert f"--tag {repository} " in README
    assert f"--tag {repository} " in DOCKERFILE

    def copied(recipe: str) -> set[str]:
        return set(re.findall(r"^COPY (\w+) /opt/evergreen/\1$", recipe, re.M))

    own = copied((CHART.parents[1] / "docker" / "airflow" / "Dockerfile").read_text())
    assert {"dags", "include", "plugins", "config"} == own == copied(DOCKERFILE)
    assert set(_paths()) <= {f"/opt/evergreen/{name}" for name in own}


def _paths() -> list[str]:
    variables = {one["name"]: one["value"] for one in VALUES["env"]}
    core = VALUES["config"]["core"]
    return [*variables["PYTHONPATH"].split(":"), core["dags_folder"], core["plugins_folder"]]


def test_the_recipe_is_clean() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None
    done = subprocess.run([hadolint, "--no-color", FOLDER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.stdout == ""
