"""Through an ingress MLflow takes what its own pages send, and nobody else's."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from chart_rendering import CASES, objects, parse, pick, render

from mlflow_kit import serve_mlflow

pytestmark = pytest.mark.integration

HOST = "mlflow.example.com"


def _variables(found: list[Any]) -> dict[str, str]:
    """Return what the chart tells MLflow of hosts and origins."""
    (container,) = pick(found, "Deployment", "evergreen-mlflow")["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one["value"] for one in container["env"] if one["name"].startswith("MLFLOW_SERVER_")}


def _answer(url: str, origin: str, host: str = HOST) -> int:
    request = urllib.request.Request(
        f"{url}/ajax-api/2.0/mlflow/experiments/search",
        data=b'{"max_results": 1}',
        headers={"Host": host, "Origin": origin, "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code


def test_pages_of_the_ingress_may_change_something_and_no_others(tmp_path: Path) -> None:
    with serve_mlflow(tmp_path, [], _variables(objects("everything"))) as url:
        assert _answer(url, f"https://{HOST}") == 200
        assert _answer(url, f"http://{HOST}") == 403  # it has a certificate
        assert _answer(url, "https://elsewhere.example.com") == 403
        assert _answer(url, "http://localhost:5000", host="localhost:5000") == 200


def test_without_being_told_mlflow_refuses_its_own_pages(tmp_path: Path) -> None:
    told = _variables(objects("everything"))
    del told["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"]
    with serve_mlflow(tmp_path, [], told) as url:
        assert _answer(url, f"https://{HOST}") == 403
        assert _answer(url, "http://localhost:5000", host="localhost:5000") == 200


@pytest.mark.parametrize(
    ("values", "origins"),
    [
        ({}, None),
        ({"ingress": {"enabled": True, "mlflow": {"host": HOST}}}, f"https://{HOST},http://{HOST}"),
        ({"ingress": {"enabled": True, "mlflow": {"host": HOST, "tlsSecret": "tls"}}}, f"https://{HOST}"),
        ({"ingress": {"enabled": False, "mlflow": {"host": HOST}}}, None),
        ({"mlflow": {"allowedHosts": [HOST, "*.example.com"]}}, f"https://{HOST},http://{HOST}"),
    ],
)
def test_the_origins_are_those_of_the_hosts(values: dict[str, Any], origins: str | None) -> None:
    told = _variables(parse(render({**CASES["production"], **values})))
    assert told.get("MLFLOW_SERVER_CORS_ALLOWED_ORIGINS") == origins
