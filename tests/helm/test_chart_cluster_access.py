"""Scheduler, triggerer and task pods find the Kubernetes API of the cluster that they are in, without a kubeconfig."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import certifi
import pytest
import yaml
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook, KubernetesHook
from chart_rendering import CHART, Object, objects, pods
from kubernetes.config import incluster_config
from kubernetes_asyncio.config import incluster_config as async_incluster_config
from kubernetes_asyncio.config.config_exception import ConfigException

VARIABLE = "AIRFLOW_CONN_KUBERNETES_DEFAULT"
CALLERS = {"evergreen-scheduler", "evergreen-triggerer", "worker"}
OFFICIAL = yaml.safe_load((CHART.parent / "official-airflow" / "values.yaml").read_text())


@pytest.fixture(autouse=True)
def in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pod with a token has: variables and files of the kubelet, and no kubeconfig."""
    (tmp_path / "token").write_text("of the service account")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr("kubernetes_asyncio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for module in (incluster_config, async_incluster_config):
        monkeypatch.setattr(module, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
        monkeypatch.setattr(module, "SERVICE_CERT_FILENAME", certifi.where())


def _variables(container: Object) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container.get("env", ()) if "value" in one}


def _address_for_the_triggerer(extras: Object) -> str:
    async def ask() -> str:
        hook = AsyncKubernetesHook(conn_id="kubernetes_default", connection_extras=extras)
        async with hook.get_conn() as client:
            return str(client.configuration.host)

    return asyncio.run(ask())


@pytest.mark.parametrize("case", ["trial", "production", "kubernetes-executor"])
def test_who_calls_the_api_is_told_that_it_is_in_the_cluster(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    callers = [one for one in pods(objects(case)) if one["metadata"]["name"] in CALLERS]
    assert len(callers) == (3 if case == "kubernetes-executor" else 2)
    for pod in callers:
        assert pod["spec"]["automountServiceAccountToken"]
        value = _variables(pod["spec"]["containers"][0])[VARIABLE]
        monkeypatch.setenv(VARIABLE, value)
        assert KubernetesHook(conn_id="kubernetes_default").is_in_cluster
        assert _address_for_the_triggerer(json.loads(value)["extra"]) == "https://10.96.0.1:443"


def test_the_official_chart_is_told_as_well() -> None:
    (value,) = [one["value"] for one in OFFICIAL["env"] if one["name"] == VARIABLE]
    assert _address_for_the_triggerer(json.loads(value)["extra"]) == "https://10.96.0.1:443"


def test_the_triggerer_would_not_find_out_by_itself() -> None:
    with pytest.raises(ConfigException):
        _address_for_the_triggerer({})
