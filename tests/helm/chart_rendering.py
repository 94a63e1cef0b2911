"""The chart, rendered by the real Helm engine, for the installations that people make."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).parents[2] / "helm" / "evergreen"
RELEASE = "evergreen"
PLATFORM, STEPS = "evergreen", "evergreen-steps"
Object = dict[str, Any]

AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
EXTERNAL: Object = {
    "caBundle": AUTHORITY,
    "database": {"host": "db.example.com"},
    "objectStore": {"bucket": "models", "endpoint": "https://s3.example.com"},
    "metrics": {"host": "collector.example.com"},
}
TRIAL: Object = {"trial": {"enabled": True}}
GIT: Object = {
    "dags": {"gitSync": {"enabled": True, "repository": "ssh://git@example.com/a.git", "existingSecret": "key"}}
}
CASES: dict[str, Object] = {
    "production": EXTERNAL,
    "trial": TRIAL,
    "trial-with-features": {**TRIAL, "feastOnline": {"enabled": True}},
    "trial-without-serving": {"trial": {"enabled": True, "serving": False}},
    "serving": {**EXTERNAL, "serving": {"enabled": True}},
    "kuberay": {**EXTERNAL, "ray": {"kuberay": {"enabled": True}}},
    "kubernetes-executor": {**EXTERNAL, **GIT, "airflow": {"executor": "KubernetesExecutor"}},
    "git-sync": {**TRIAL, **GIT},
    "everything": {
        **EXTERNAL,
        "metrics": {"exporter": "statsd", "host": "statsd.example.com", "port": 8125},
        "externalSecrets": {"enabled": True, "store": {"name": "vault"}},
        "serving": {
            "enabled": True,
            "models": ["flight_delay"],
            "autoscaling": {"inFlight": 20},
            "otlpEndpoint": "http://collector.example.com:4318",
            "metrics": {
                "serviceMonitor": {"enabled": True, "labels": {"team": "ml"}, "tokenSecret": "prometheus-token"}
            },
            "extraEnv": {"EVERGREEN_SERVING_FOLLOW_SECONDS": "5"},
        },
        "database": {"host": "db.example.com", "create": True},
        "images": {"step": {"digest": f"sha256:{'0' * 64}"}, "pullSecrets": ["registry"]},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "airflow": {"host": "airflow.example.com", "tlsSecret": "airflow-tls"},
            "mlflow": {"host": "mlflow.example.com", "tlsSecret": "mlflow-tls"},
            "serving": {"host": "predictions.example.com", "tlsSecret": "predictions-tls"},
        },
        "networkPolicies": {
            "ingressFrom": [{"namespaceSelector": {"matchLabels": {"team": "ingress"}}}],
            "databaseCidrs": [],
            "databasePeers": [{"namespaceSelector": {"matchLabels": {"team": "databases"}}}],
            "objectStorePorts": [8333],
            "alertPorts": [587, 9093],
            "alertPeers": [{"namespaceSelector": {"matchLabels": {"team": "observers"}}}],
            "servingFrom": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
            "servingPorts": [4318],
            "servingPeers": [{"namespaceSelector": {"matchLabels": {"team": "observers"}}}],
            "servingCidrs": [],
            "cilium": True,
        },
        "scheduling": {
            "ray": {"tolerations": [{"key": "gpu", "operator": "Exists"}], "nodeSelector": {"pool": "gpu"}},
            "steps": {"tolerations": [{"key": "spot", "operator": "Exists"}], "nodeSelector": {"pool": "steps"}},
        },
        "profiles": {
            "gpu": {
                "requests": {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": "2"},
                "limits": {"cpu": "16", "memory": "32Gi", "nvidia.com/gpu": "2"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            }
        },
        "ray": {"workers": {"gpus": 1}},
        "resources": {"rayWorker": {"limits": {"nvidia.com/gpu": 1}, "requests": {"nvidia.com/gpu": 1}}},
        "serviceAccounts": {"annotations": {"apiServer": {"cloud.example.com/role": "reader"}}},
    },
    "encrypted": {
        **EXTERNAL,
        "tls": {"secret": "evergreen-tls"},
        "feastOnline": {"enabled": True, "tlsSecret": "feast-tls"},
        "serving": {"enabled": True, "tlsSecret": "serving-tls"},
        "airflow": {"executor": "KubernetesExecutor"},
        "networkPolicies": {"feastOnlineFrom": [{"namespaceSelector": {"matchLabels": {"team": "scoring"}}}]},
    },
    "openshift": {
        **TRIAL,
        "networkPolicies": {
            "dnsPeers": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}}}],
            "dnsPorts": [53, 5353],
        },
    },
    "cloud-identity": {
        **EXTERNAL,
        "caBundle": "",
        "database": {"host": "db", "rootCertificate": "system"},
        "objectStore": {"bucket": "models", "keys": False},
        "ray": {"enabled": False},
    },
}


def render(values: Object, namespace: str = PLATFORM) -> dict[str, str]:
    """Return the rendered text of each template."""
    with helm_python.Chart.load(CHART) as chart:
        return chart.render(values, name=RELEASE, namespace=namespace, revision=1, is_install=True)


def parse(files: dict[str, str]) -> list[Object]:
    """Return the objects in rendered templates."""
    texts = [text for path, text in files.items() if not path.endswith(".txt")]
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


@cache
def _objects(case: str) -> list[Object]:
    return parse(render(CASES[case]))


def objects(case: str) -> list[Object]:
    """Return the objects of a case; the caller may change them."""
    return copy.deepcopy(_objects(case))


def label(found: Object) -> str:
    """Return what an object is called in a message."""
    metadata = found["metadata"]
    return f"{found['kind']} {metadata.get('namespace', '-')}/{metadata['name']}"


def of_kind(found: list[Object], kind: str) -> list[Object]:
    """Return the objects of one kind."""
    return [one for one in found if one["kind"] == kind]


def pick(found: list[Object], kind: str, name: str) -> Object:
    """Return one object by kind and name."""
    (one,) = [one for one in of_kind(found, kind) if one["metadata"]["name"] == name]
    return one


def pods(found: list[Object]) -> Iterator[Object]:
    """Yield the pod that each object stands for, as the API server would see it.

    Also those that a controller makes from a template of its own (RayCluster) and that Airflow makes from a file
    (the worker of the KubernetesExecutor).
    """
    for one in found:
        for origin, template in _templates(one):
            metadata = {"name": origin, "namespace": one["metadata"].get("namespace"), **template.get("metadata", {})}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _templates(one: Object) -> Iterator[tuple[str, Object]]:
    name, spec = one["metadata"]["name"], one.get("spec", {})
    if one["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    if one["kind"] in {"Deployment", "StatefulSet", "Job", "CronJob"}:
        template = copy.deepcopy(spec["template"])
        claims = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", ())]
        template["spec"].setdefault("volumes", []).extend(
            {"name": claim, "persistentVolumeClaim": {"claimName": f"{claim}-{name}-0"}} for claim in claims
        )
        yield name, template
    elif one["kind"] == "RayCluster":
        yield f"{name}-head", spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            yield f"{name}-{group['groupName']}", group["template"]
    elif one["kind"] == "ConfigMap" and "pod.yaml" in one["data"]:
        yield name, yaml.safe_load(one["data"]["pod.yaml"])


def containers(pod: Object) -> list[Object]:
    """Return all containers of a pod, those that run first included."""
    return [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
