"""What docs/serving-kubernetes.md shows: its values render, and its examples fit the chart and the kinds they are of.

The schemas of KServe's and the Gateway API's resources are not at hand: their fields are compared with a list, and what
is Kubernetes' own in them, the pod, with its schema.
"""

from __future__ import annotations

import chart_policies as policies
import pytest
import yaml
from chart_rendering import CHART, EXTERNAL, PLATFORM, Object, objects, parse, pick, render

from documented import blocks
from evergreen.settings import PROJECT_ROOT
from pod_policy import restricted_violations

NAME = "evergreen-serving"
EXAMPLES = CHART / "examples"

OF_STEPS = {
    *("EVERGREEN_LAKE_ROOT", "EVERGREEN_NAMESPACE", "EVERGREEN_POD_SERVICE_ACCOUNT", "EVERGREEN_RUNTIME"),
    *("EVERGREEN_STEP_IMAGE", "GX_ANALYTICS_ENABLED", "RAY_TRAIN_V2_ENABLED", "RAY_USAGE_STATS_ENABLED"),
}
"""Variables that the chart sets everywhere and a server does not read."""
FIELDS = {
    "InferenceService": {
        # of KServe's own: what v1beta1 has beside the pod (pkg/apis/serving/v1beta1, ComponentExtensionSpec)
        "minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling",
        "containerConcurrency", "timeout", "canaryTrafficPercent", "logger", "batcher", "labels", "annotations",
        "deploymentStrategy",
    },
    "HTTPRoute": {"parentRefs", "hostnames", "rules"},
}  # fmt: skip


def problems(example: Object) -> list[str]:
    """Return what is wrong with an example: fields that its kind has not, or a pod that the cluster would not take."""
    if example["kind"] == "HTTPRoute":
        known = {"matches", "filters", "backendRefs", "timeouts", "name", "retry", "sessionPersistence"}
        named = [name for name in example["spec"] if name not in FIELDS["HTTPRoute"]]
        return named + [name for rule in example["spec"]["rules"] for name in rule if name not in known]
    predictor = example["spec"]["predictor"]
    spec = {name: value for name, value in predictor.items() if name not in FIELDS["InferenceService"]}
    metadata = {"name": "example", "namespace": PLATFORM}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    wrong = [problem for version in policies.VERSIONS for problem in policies.schema_errors([pod], version)]
    names = [one["name"] for one in spec["containers"]]
    wrong += [] if names[0] == "kserve-container" else [f"{names[0]}: KServe's is called kserve-container"]
    return wrong + restricted_violations(pod) + policies.unlimited([{**pod}]) + policies.floating_images([{**pod}])


def _example(name: str) -> Object:
    example: Object = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    return example


@pytest.mark.parametrize("name", ["inferenceservice", "httproute"])
def test_an_example_has_the_fields_of_its_kind(name: str) -> None:
    assert problems(_example(name)) == []


def test_the_check_finds_a_wrong_example() -> None:
    service, route = _example("inferenceservice"), _example("httproute")
    service["spec"]["predictor"]["minReplica"] = 1
    service["spec"]["predictor"]["containers"][0]["name"] = "serving"
    del service["spec"]["predictor"]["securityContext"]["runAsNonRoot"]
    found = "\n".join(problems(service))
    assert all(word in found for word in ("minReplica", "kserve-container", "runAsNonRoot"))
    route["spec"]["rules"][0]["backends"] = []
    assert problems(route) == ["backends"]


def test_the_examples_lead_to_what_the_chart_renders() -> None:
    found = objects("serving")
    (rule,) = _example("httproute")["spec"]["rules"]
    assert [match["path"]["value"] for match in rule["matches"]] == ["/models", "/v2", "/feedback"]
    (backend,) = rule["backendRefs"]
    assert backend["port"] in {one["port"] for one in pick(found, "Service", backend["name"])["spec"]["ports"]}
    example = _example("inferenceservice")
    labels = pick(found, "Deployment", NAME)["spec"]["template"]["metadata"]["labels"]
    assert example["metadata"]["labels"] == labels
    assert pick(found, "ServiceAccount", example["spec"]["predictor"]["serviceAccountName"])
    (container,) = example["spec"]["predictor"]["containers"]
    (own,) = pick(found, "Deployment", NAME)["spec"]["template"]["spec"]["containers"]
    assert container["command"] == [*own["command"], "--model=flight_delay"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] == own[probe]["httpGet"]["path"]
    assert container["ports"][0]["name"] == pick(found, "Service", NAME)["spec"]["ports"][0]["targetPort"]
    assert container["resources"] == own["resources"]
    told = {one["name"] for one in own["env"] if "value" in one}
    assert {one["name"] for one in container["env"]} == (told - OF_STEPS) | {"EVERGREEN_VERIFICATION_KEYS"}
    assert container["volumeMounts"] == own["volumeMounts"]
    assert {one["name"] for one in example["spec"]["predictor"]["volumes"]} == {"tmp", "state", "ca"}


PAGE = (PROJECT_ROOT / "docs" / "serving-kubernetes.md").read_text()


@pytest.mark.parametrize("text", [text for text, _ in blocks(PAGE, "yaml") if "seriesQuery" not in text])
def test_the_values_of_the_page_render(text: str) -> None:
    values = yaml.safe_load(text)
    values["serving"] = {**values.get("serving", {}), "enabled": True}
    assert NAME in {one["metadata"]["name"] for one in parse(render({**EXTERNAL, **values}))}
