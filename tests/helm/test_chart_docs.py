"""docs/kubernetes.md: its values render, and what its commands name exists."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import pytest
import yaml
from chart_rendering import (
    AUTHORITY,
    CHART,
    EXTERNAL,
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
from kubernetes.utils.quantity import parse_quantity

from documented import blocks
from evergreen.catalog import load_model
from evergreen_airflow.placement import PROFILES

PAGE = (CHART.parents[1] / "docs" / "kubernetes.md").read_text()
VALUES = [text for text, _ in blocks(PAGE, "yaml") if "kind:" not in text or "store:" in text]
VALUES = [text for text in VALUES if "apiVersion:" not in text]
PRODUCTION = next(text for text in VALUES if text.startswith("# production.yaml"))
KINDS = {"deploy": "Deployment", "statefulset": "StatefulSet", "svc": "Service", "cronjob": "CronJob"}


def _merged(base: Object, change: Object) -> Object:
    return {
        **base,
        **{
            key: _merged(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
            for key, value in change.items()
        },
    }


@pytest.mark.parametrize("text", VALUES, ids=lambda text: text.strip().splitlines()[0][:30])
def test_the_values_render(text: str) -> None:
    base = {**yaml.safe_load(PRODUCTION), "caBundle": AUTHORITY}
    assert len(parse(render(_merged(base, yaml.safe_load(text))))) > 40


def missing(page: str) -> list[str]:
    """Return the objects that commands name and that neither installation has."""
    there = {
        (one["kind"], one["metadata"]["name"])
        for case in ("trial-with-features", "serving", "encrypted")
        for one in objects(case)
    }
    named = re.findall(r"\b(deploy|statefulset|svc|cronjob)/([\w-]+)", page)
    return [f"{kind}/{name}" for kind, name in named if (KINDS[kind], name) not in there]


def test_the_commands_name_what_there_is() -> None:
    assert missing(PAGE) == []
    assert missing("kubectl logs deploy/evergreen-shedular") == ["deploy/evergreen-shedular"]


def test_nobody_follows_a_log_before_there_is_one() -> None:
    # kubectl waits for a pod, not for its container: "is waiting to start: ContainerCreating"
    notes = next(text for path, text in render(TRIAL).items() if path.endswith("NOTES.txt"))
    for text in (PAGE, notes):
        lines = [line for line in text.splitlines() if "kubectl" in line and "job/season" in line]
        followed = next(number for number, line in enumerate(lines) if "logs --follow" in line)
        assert "wait job/season --for=jsonpath='{.status.ready}'=1" in lines[followed - 1]


def test_images_without_a_registry_have_the_name_that_the_commands_load() -> None:
    (prefix,) = re.findall(r'IMAGES="--registry (localhost/\S+)"', PAGE)
    names = re.findall(r"for image in (.+?); do", PAGE)[0].split()
    keys = ("airflow", "step", "serving", "trialPostgres", "trialSeaweedfs")
    images = {key: {"repository": f"{prefix}/{name}"} for key, name in zip(keys, names, strict=True)}
    found = parse(render({**TRIAL, "images": images}))
    used = {container["image"] for pod in pods(found) for container in containers(pod)}
    assert used == {f"{prefix}/{name}:0.1.0" for name in names}
    assert {container["imagePullPolicy"] for pod in pods(found) for container in containers(pod)} == {"IfNotPresent"}


SIZES: dict[str, Object] = {
    "trial": TRIAL,
    "trial, one Ray worker": {**TRIAL, "ray": {"workers": {"replicas": 1}}},
    "trial, `ray.enabled=false`": {**TRIAL, "ray": {"enabled": False}},
    "production": EXTERNAL,
}


def requested(values: Object) -> tuple[int, float, float]:
    """Return pods, cores and GiB of what runs all the time."""
    found = [one for one in parse(render(values)) if one["kind"] in {"Deployment", "StatefulSet"}]
    least = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]["minReplicas"]
        for one in parse(render(values))
        if one["kind"] == "HorizontalPodAutoscaler"
    }
    count, cores, memory = 0, Decimal(0), Decimal(0)
    for one in found:
        replicas = one["spec"].get("replicas") or least[one["metadata"]["name"]]
        count += replicas
        for container in one["spec"]["template"]["spec"]["containers"]:
            requests = container["resources"]["requests"]
            cores += replicas * parse_quantity(requests["cpu"])
            memory += replicas * parse_quantity(requests["memory"]) / 2**30
    return count, float(cores), float(memory)


@pytest.mark.parametrize("row", SIZES)
def test_the_sizes_are_those_of_the_requests(row: str) -> None:
    (said,) = re.findall(rf"^\| {re.escape(row)} \| (\d+) \| ([\d.]+) \| ([\d.]+) GiB \|$", PAGE, flags=re.M)
    count, cores, memory = requested(SIZES[row])
    assert (int(said[0]), float(said[1]), float(said[2])) == (
        count,
        pytest.approx(cores, abs=0.06),
        pytest.approx(memory, abs=0.06),
    )


def test_the_smallest_trial_has_the_size_that_is_said() -> None:
    (said,) = re.findall(r"then ([\d.]+) cores and (\d+) GiB are enough", PAGE)
    _, cores, memory = requested(SIZES["trial, `ray.enabled=false`"])
    (loop,) = pick(objects("trial"), "CronJob", "evergreen-loop")["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    for one in (PROFILES["medium"].requests, loop["resources"]["requests"]):
        cores += float(parse_quantity(one["cpu"]))
        memory += float(parse_quantity(one["memory"])) / 2**30
    assert float(said[0]) - 0.2 < cores <= float(said[0])
    assert int(said[1]) - 1 < memory <= int(said[1])


def test_the_resources_are_those_of_the_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["resources"]
    kinds = ("requests", "limits")
    cells = {name: [f"{of[kind]['cpu']}, {of[kind]['memory']}" for kind in kinds] for name, of in values.items()}
    table = [f"| `{name}` | {' | '.join(both)} |" for name, both in cells.items()]
    assert "\n".join(table) in PAGE


def test_the_trial_of_two_cores_has_the_requests_that_are_said() -> None:
    (said,) = re.findall(r"leave a trial with a training ([\d.]+) cores", PAGE)
    small = yaml.safe_load(next(text for text in VALUES if text.startswith("# a trial on two cores")))
    _, cores, _ = requested({**TRIAL, **small})
    training, loop = small["profiles"]["medium"]["requests"]["cpu"], "100m"
    cores += float(parse_quantity(training) + parse_quantity(loop))
    assert float(said) == pytest.approx(cores, abs=0.06)


def test_the_request_has_the_columns_of_the_model() -> None:
    features = load_model("flight_delay").features
    (data,) = re.findall(r"/predict .*?--data '(\{.*?\})'", PAGE, flags=re.DOTALL)
    (row,) = json.loads(data)["rows"]
    assert set(row) == {*features.keys, *features.request_inputs}


def test_the_commands_make_every_key_of_every_secret() -> None:
    made = set(re.findall(r"--from-literal=([\w.-]+)=", PAGE))
    used = {
        reference["key"]
        for one in of_kind(objects("serving"), "Deployment") + of_kind(objects("serving"), "StatefulSet")
        for container in one["spec"]["template"]["spec"]["containers"]
        for variable in container.get("env", ())
        if (reference := variable.get("valueFrom", {}).get("secretKeyRef"))
    }
    assert len(used) > 10
    assert used <= made
    assert {"serving-database-password", "mlflow-serving-password"} <= set(re.findall(r'\\"([\w-]+)\\": \\"\$', PAGE))
    assert {"airflow-passwords.json", "EVERGREEN_DATABASE_URL", "MLFLOW_TRACKING_PASSWORD", "username"} <= made


def test_no_rollout_is_given_up_before_helm_s_own_timeout() -> None:
    # Helm 4 takes a Deployment whose deadline has passed for lost, however long it may still wait
    (minutes,) = {int(one) for one in re.findall(r"--wait --timeout (\d+)m", PAGE)}
    deployments = [
        one for case in ("trial-with-features", "production") for one in of_kind(objects(case), "Deployment")
    ]
    assert len(deployments) == 7 + 5
    assert {one["spec"].get("progressDeadlineSeconds", 600) for one in deployments} == {60 * minutes}


def test_the_pods_of_kuberay_are_those_that_the_page_deletes() -> None:
    (name,) = re.findall(r"--selector=ray\.io/cluster=([\w-]+)", PAGE)
    assert pick(objects("kuberay"), "RayCluster", name)
