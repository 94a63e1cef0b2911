"""The server of predictions in the chart: what is rendered, when, and what its pods are told."""

from __future__ import annotations

import copy
import re
from typing import Any

import chart_policies as policies
import pytest
import yaml
from chart_rendering import (
    CASES,
    EXTERNAL,
    PLATFORM,
    TRIAL,
    Object,
    containers,
    objects,
    of_kind,
    parse,
    pick,
    pods,
    render,
)
from typer.testing import CliRunner

from evergreen.cli import app
from evergreen.settings import PROJECT_ROOT, Settings

NAME = "evergreen-serving"
WITH_IT = {"trial", "trial-with-features", "git-sync", "openshift", "serving", "everything", "encrypted"}
SERVER = PROJECT_ROOT / "include" / "evergreen" / "serving" / "server.py"


def _own(found: list[Object]) -> set[str]:
    """Return the kinds of the objects that are called after the server."""
    return {one["kind"] for one in found if one["metadata"]["name"] == NAME}


def _container(case: str) -> Object:
    (container,) = pick(objects(case), "Deployment", NAME)["spec"]["template"]["spec"]["containers"]
    return dict(container)


def _values(case: str) -> dict[str, str]:
    return {one["name"]: one["value"] for one in _container(case)["env"] if "value" in one}


# --- when it is there -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_it_is_there_where_it_is_switched_on_and_in_a_trial(case: str) -> None:
    wanted = {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"}
    assert (wanted <= _own(objects(case))) is (case in WITH_IT)


@pytest.mark.parametrize("case", ["production", "trial-without-serving"])
def test_switched_off_nothing_names_it(case: str) -> None:
    rest = [one for one in objects(case) if one["metadata"]["name"] != "evergreen-platform"]
    programs = [one for one in rest if one["kind"] == "ConfigMap" and one["metadata"]["name"] == "evergreen-bootstrap"]
    text = yaml.safe_dump([one for one in rest if one not in programs])
    # an identity of the trial's S3 stays, as its keys do: a trial that is switched on again has the same ones
    assert not re.search(r"serving", text)
    assert re.search(r"serving", yaml.safe_dump(objects("serving")))


def test_switching_it_on_changes_nothing_else() -> None:
    def others(found: list[Object]) -> dict[tuple[str, str, str], Object]:
        named = {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]): one for one in found}
        return {name: one for name, one in named.items() if name[2] != NAME}

    before, after = others(objects("production")), others(objects("serving"))
    assert before.keys() == after.keys()
    changed = {name[::2] for name in before if before[name] != after[name]}
    assert changed == {("Job", "evergreen-bootstrap"), ("NetworkPolicy", "evergreen-mlflow")}


@pytest.mark.parametrize(
    ("case", "replicas"), [("trial", 1), ("serving", None), ("everything", None), ("encrypted", None)]
)
def test_a_trial_has_one_replica_and_production_scales(case: str, replicas: int | None) -> None:
    found = objects(case)
    assert pick(found, "Deployment", NAME)["spec"].get("replicas") == replicas
    assert ("HorizontalPodAutoscaler" in _own(found)) is (replicas is None)


def test_another_may_run_its_pods() -> None:
    values = {"enabled": True, "replicas": 0, "autoscaling": {"enabled": False}}
    found = parse(render({**EXTERNAL, "serving": values}))
    assert pick(found, "Deployment", NAME)["spec"]["replicas"] == 0
    assert "HorizontalPodAutoscaler" not in _own(found)


# --- what its pods are told -------------------------------------------------------------------------------------


def _refusal(command: list[str]) -> str:
    """Return what the program says against a command; nothing if it is one of its own."""
    assert command[:3] == ["python", "-m", "evergreen"]
    shown = CliRunner().invoke(app, [*command[3:], "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    return shown.output if shown.exit_code else ""


@pytest.mark.parametrize("case", ["serving", "everything", "encrypted"])
def test_its_command_is_one_of_the_program(case: str) -> None:
    command = _container(case)["command"]
    assert _refusal(command) == ""
    assert "No such option" in _refusal([*command[:4], "--unheard-of=1"])


def test_it_is_told_which_models() -> None:
    assert [one for one in _container("everything")["command"] if one.startswith("--model")] == ["--model=flight_delay"]
    assert not [one for one in _container("serving")["command"] if one.startswith("--model")]


@pytest.mark.parametrize("case", sorted(WITH_IT))
def test_its_variables_are_settings(case: str) -> None:
    fields = {f"EVERGREEN_{name.upper()}" for name in Settings.model_fields}
    names = [one["name"] for one in _container(case)["env"]]
    assert {name for name in names if name.startswith("EVERGREEN_")} <= fields
    assert len(names) == len(set(names))


def test_extra_variables_win() -> None:
    assert _values("everything")["EVERGREEN_SERVING_FOLLOW_SECONDS"] == "5"
    name = "EVERGREEN_S3_READ_SECONDS"
    values = {**EXTERNAL, "settings": {name: "120"}, "serving": {"enabled": True, "extraEnv": {name: "5"}}}
    found = parse(render(values))
    (container,) = pick(found, "Deployment", NAME)["spec"]["template"]["spec"]["containers"]
    assert [one["value"] for one in container["env"] if one["name"] == name] == ["5"]
    assert pick(found, "ConfigMap", "evergreen-settings")["data"][name] == "120"


def test_its_state_outlives_its_container_and_has_a_limit() -> None:
    spec = pick(objects("serving"), "Deployment", NAME)["spec"]["template"]["spec"]
    place = _values("serving")["EVERGREEN_STATE_DIR"]
    (mount,) = [one for one in spec["containers"][0]["volumeMounts"] if one["mountPath"] == place]
    (volume,) = [one for one in spec["volumes"] if one["name"] == mount["name"]]
    assert volume["emptyDir"] == {"sizeLimit": "2Gi"}
    assert not mount.get("readOnly")


def test_nobody_but_it_is_given_its_secret_and_it_is_given_no_other() -> None:
    for case in WITH_IT:
        for pod in pods(objects(case)):
            named = {name for name, _ in policies.secret_keys(pod)}
            is_server = pod["metadata"]["labels"].get("app.kubernetes.io/component") == "serving"
            assert (NAME in named) is is_server, pod["metadata"]
            assert not is_server or named == {NAME}


def test_it_outlasts_its_requests() -> None:
    spec = pick(objects("serving"), "Deployment", NAME)["spec"]["template"]["spec"]
    drains = int(_values("serving")["EVERGREEN_SERVING_DRAIN_SECONDS"])
    (leaves,) = re.findall(r"^_LEAVING_SECONDS = (\d+)$", SERVER.read_text(), re.MULTILINE)
    assert drains + int(leaves) < spec["terminationGracePeriodSeconds"]
    strategy = pick(objects("serving"), "Deployment", NAME)["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxUnavailable": 0, "maxSurge": 1}
    keys = {one["topologyKey"] for one in spec["topologySpreadConstraints"]}
    assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}


def _paths(case: str) -> dict[str, tuple[str, str]]:
    container = _container(case)
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    return {kind: (probe["path"], probe["scheme"]) for kind, probe in probes.items()}


def test_only_readiness_asks_for_a_model() -> None:
    live, ready = "/v2/health/live", "/v2/health/ready"
    alive = {"startup": (live, "HTTP"), "liveness": (live, "HTTP")}
    assert _paths("serving") == {**alive, "readiness": (ready, "HTTP")}
    # `helm install --wait` of a trial ends before anything was trained
    assert _paths("trial") == {**alive, "readiness": (live, "HTTP")}


def test_with_a_certificate_it_speaks_tls() -> None:
    assert {scheme for _, scheme in _paths("encrypted").values()} == {"HTTPS"}
    container = _container("encrypted")
    files = [one.partition("=")[2] for one in container["command"] if one.startswith(("--certificate=", "--key="))]
    (mount,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "certificate"]
    assert files == [f"{mount}/tls.crt", f"{mount}/tls.key"]
    assert not [one for one in _container("serving")["command"] if one.startswith(("--certificate", "--key"))]


# --- what is beside it ------------------------------------------------------------------------------------------


def _metrics(values: Object) -> list[Any]:
    found = parse(render({**EXTERNAL, "serving": {"enabled": True, **values}}))
    metrics: list[Any] = pick(found, "HorizontalPodAutoscaler", NAME)["spec"]["metrics"]
    return metrics


def test_it_scales_on_requests_in_flight_only_where_an_adapter_is_there_for_it() -> None:
    assert [one["type"] for one in _metrics({})] == ["Resource"]
    cpu, in_flight = _metrics({"autoscaling": {"inFlight": 12}})
    assert cpu["resource"]["name"] == "cpu"
    assert in_flight["pods"] == {
        "metric": {"name": "evergreen_serving_in_flight"},
        "target": {"type": "AverageValue", "averageValue": "12"},
    }


def test_prometheus_s_operator_is_asked_only_where_that_is_wanted() -> None:
    assert not of_kind(objects("serving"), "ServiceMonitor")
    found = objects("everything")
    (monitor,) = of_kind(found, "ServiceMonitor")
    service = pick(found, "Service", NAME)
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {one["name"] for one in service["spec"]["ports"]}
    assert endpoint["authorization"] == {"credentials": {"name": "prometheus-token", "key": "token"}}
    assert monitor["metadata"]["labels"]["team"] == "ml"


def test_an_ingress_leads_to_it_only_where_it_is() -> None:
    found = pick(objects("everything"), "Ingress", NAME)
    (rule,) = found["spec"]["rules"]
    assert rule["host"] == "predictions.example.com"
    backend = rule["http"]["paths"][0]["backend"]["service"]
    service = pick(objects("everything"), "Service", backend["name"])
    assert backend["port"]["name"] in {one["name"] for one in service["spec"]["ports"]}
    off = copy.deepcopy(CASES["everything"]) | {"serving": {"enabled": False}}
    assert not [one for one in of_kind(parse(render(off)), "Ingress") if one["metadata"]["name"] == NAME]


def test_the_operator_of_external_secrets_makes_its_secret() -> None:
    found = pick(objects("everything"), "ExternalSecret", NAME)
    assert found["spec"]["dataFrom"] == [{"extract": {"key": "evergreen/serving"}}]
    assert found["metadata"]["namespace"] == PLATFORM


def _notes(values: Object) -> str:
    return next(text for path, text in render(values).items() if path.endswith("NOTES.txt"))


def test_the_notes_say_how_to_make_a_token() -> None:
    notes = _notes(TRIAL)
    assert "exec -i deploy/evergreen-serving -c serving" in notes
    assert "http://localhost:8090/v2/models/flight_delay" in notes
    assert "--insecure https://localhost:8090" in _notes(CASES["encrypted"])
    assert f"{PLATFORM}/{NAME}" in _notes(CASES["serving"])
    assert "tokens" not in _notes(EXTERNAL)


def test_containers_are_those_of_the_image_of_the_server() -> None:
    for case in WITH_IT:
        for pod in pods(objects(case)):
            is_server = pod["metadata"]["labels"].get("app.kubernetes.io/component") == "serving"
            assert {"/serving:" in one["image"] for one in containers(pod)} == {is_server}
