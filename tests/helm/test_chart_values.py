"""Wrong values are refused before anything is installed, with a message that says what to write instead."""

from __future__ import annotations

import copy
from typing import Any

import helm_python
import pytest
from chart_rendering import EXTERNAL, STEPS, TRIAL, Object, parse, pick, render


def _merged(base: Object, change: Object) -> Object:
    result = copy.deepcopy(base)
    for key, value in change.items():
        result[key] = _merged(result[key], value) if isinstance(value, dict) and key in result else value
    return result


WRONG: list[tuple[Object, Object, str]] = [
    ({}, {}, "/database/host': value must be 'the address of your PostgreSQL, or set trial.enabled=true"),
    ({}, {}, "/objectStore/bucket': value must be 'the name of your bucket, or set trial.enabled=true"),
    (EXTERNAL, {"metrics": {"host": ""}}, "metrics.host: give the address of your OpenTelemetry collector"),
    (EXTERNAL, {"externalSecrets": {"enabled": True}}, "value must be 'the name of your secret store"),
    (EXTERNAL, {"database": {"sslmode": "on"}}, "/database/sslmode"),
    (EXTERNAL, {"objectStore": {"endpoint": "s3.example.com"}}, "/objectStore/endpoint"),
    (TRIAL, {"externalSecrets": {"enabled": True}}, "a trial makes its own Secrets"),
    (
        TRIAL,
        {"images": {"step": {"tag": "latest"}}},
        "/images/step/tag': value must be 'a version such as 0.1.0; latest",
    ),
    (TRIAL, {"images": {"airflow": {"tag": ""}}}, "/images/airflow/tag': value must be 'a version"),
    (TRIAL, {"images": {"airflow": {"digest": "sha256:12"}}}, "/images/airflow/digest"),
    (TRIAL, {"images": {"user": 0}}, "/images/user': minimum"),
    (TRIAL, {"airflow": {"executor": "CeleryExecutor"}}, "must be one of 'LocalExecutor', 'KubernetesExecutor'"),
    (TRIAL, {"airflow": {"users": "admin"}}, "/airflow/users"),
    (TRIAL, {"airflow": {"extraEnv": {"A": 1}}}, "/airflow/extraEnv/A': got number, want string"),
    (TRIAL, {"dags": {"gitSync": {"enabled": True}}}, "value must be 'the address of your repository"),
    (TRIAL, {"trail": True}, "additional properties 'trail' not allowed"),
    (TRIAL, {"ray": {"worker": {}}}, "additional properties 'worker' not allowed"),
    (TRIAL, {"ray": {"workers": {"gpus": 1}}}, "resources.rayWorker.limits"),
    (TRIAL, {"resources": {"mlflow": {"limits": None}}}, "missing property 'limits'"),
    (TRIAL, {"resources": {"mlflow": {"limits": {"memory": "2 GB"}}}}, "/resources/mlflow/limits/memory"),
    (TRIAL, {"stepNamespace": {"name": "evergreen"}}, "steps need one of their own"),
    (TRIAL, {"profiles": {"huge": {}}}, "additional properties 'huge' not allowed"),
    (TRIAL, {"profiles": {"gpu": {"limits": {"cpu": "1", "memory": "1Gi"}}}}, "missing property 'requests'"),
    (EXTERNAL, {"caBundle": ""}, "verify-full needs the authority that signed the server's certificate"),
    (TRIAL, {"networkPolicies": {"objectStoreCidrs": []}}, "neither addresses nor networkPolicies.objectStorePeers"),
    (EXTERNAL, {"caBundle": "ca.pem"}, "caBundle: this is no PEM text"),
    (TRIAL, {"tls": {"secret": "x"}}, "tls.secret: clients must know who signed this certificate"),
    (TRIAL, {"networkPolicies": {"databaseCidrs": ["10.0.0.1"]}}, "/networkPolicies/databaseCidrs/0"),
    (TRIAL, {"serving": {"drainSeconds": 31}}, "terminationGracePeriodSeconds.serving must be thirty seconds longer"),
    (TRIAL, {"serving": {"models": ["Flight-Delay"]}}, "/serving/models/0"),
    (TRIAL, {"serving": {"metrics": {"serviceMonitor": {"enabled": True}}}}, "Prometheus needs a token of the server"),
    (TRIAL, {"serving": {"otlpEndpoint": "collector:4318"}}, "/serving/otlpEndpoint"),
    (
        TRIAL,
        {"networkPolicies": {"servingPorts": [443], "servingCidrs": []}},
        "networkPolicies.servingPeers everything",
    ),
    (
        TRIAL,
        {"serving": {"tlsSecret": "x", "metrics": {"open": True, "serviceMonitor": {"enabled": True}}}},
        "Prometheus must know who signed serving.tlsSecret",
    ),
]


@pytest.mark.parametrize(("base", "change", "message"), WRONG)
def test_wrong_values_are_refused(base: Object, change: Object, message: str) -> None:
    with pytest.raises(helm_python.HelmError) as refusal:
        render(_merged(base, change))
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "at", "expected"),
    [
        ({"objectStore": {"prefix": ""}}, "EVERGREEN_LAKE_ROOT", "s3://models/lake"),
        ({"objectStore": {"prefix": "a/b"}}, "EVERGREEN_ARTIFACT_ROOT", "s3://models/a/b/artifacts"),
        ({"stepNamespace": {"name": "steps"}}, "EVERGREEN_NAMESPACE", "steps"),
        ({"images": {"step": {"tag": "1.2"}}}, "EVERGREEN_STEP_IMAGE", "evergreen/step:1.2"),
        ({"settings": {"EVERGREEN_CODE_VERSION": "abc"}}, "EVERGREEN_CODE_VERSION", "abc"),
        ({"ray": {"enabled": False}}, "EVERGREEN_RAY_ADDRESS", None),
        ({"objectStore": {"endpoint": ""}}, "EVERGREEN_S3_ENDPOINT", None),
        ({}, "PGSSLROOTCERT", "/etc/evergreen/ca/ca.crt"),
        ({"database": {"rootCertificate": "system"}}, "PGSSLROOTCERT", "system"),
        ({}, "AWS_CA_BUNDLE", "/etc/evergreen/ca/ca.crt"),
        ({}, "EVERGREEN_MLFLOW_TRACKING_URI", "http://evergreen-mlflow.evergreen.svc:5000"),
        ({"tls": {"secret": "x"}}, "EVERGREEN_MLFLOW_TRACKING_URI", "https://evergreen-mlflow.evergreen.svc:5000"),
    ],
)
def test_values_reach_the_settings_of_the_steps(change: Object, at: str, expected: Any) -> None:
    found = parse(render(_merged(EXTERNAL, change)))
    assert pick(found, "ConfigMap", "evergreen-settings")["data"].get(at) == expected


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [("", 443), ("https://s3.example.com", 443), ("http://minio.example.com", 80), ("http://10.0.0.9:9000", 9000)],
)
def test_the_network_is_opened_for_the_port_of_the_object_store(endpoint: str, port: int) -> None:
    found = parse(render(_merged(EXTERNAL, {"objectStore": {"endpoint": endpoint}, "ray": {"enabled": False}})))
    steps = pick(found, "NetworkPolicy", "evergreen-steps")
    assert port in {one["port"] for rule in steps["spec"]["egress"] for one in rule["ports"]}


def test_an_existing_step_namespace_is_left_alone() -> None:
    found = parse(render(_merged(TRIAL, {"stepNamespace": {"create": False}})))
    assert not [one for one in found if one["kind"] == "Namespace"]
    assert {one["metadata"].get("namespace") for one in found} >= {STEPS}
