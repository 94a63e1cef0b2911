"""A trial's passwords are generated once: what the cluster holds is kept (`lookup`, answered over real HTTP)."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import helm_python
import pytest
from chart_rendering import CHART, PLATFORM, RELEASE, TRIAL, Object, parse, pick, render

RESOURCES = {
    "kind": "APIResourceList",
    "groupVersion": "v1",
    "resources": [
        {"name": "secrets", "singularName": "", "namespaced": True, "kind": "Secret", "verbs": ["get", "list"]}
    ],
}


class Cluster(ThreadingHTTPServer):
    """As much of an API server as Helm's lookup asks for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.secrets: dict[str, Object] = {}


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        folder = f"/api/v1/namespaces/{PLATFORM}/secrets/"
        known: dict[str, Object] = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "groups": []},
            "/api/v1": RESOURCES,
            **{folder + name: secret for name, secret in self.server.secrets.items()},
        }
        missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        body = json.dumps(known.get(path, missing)).encode()
        self.send_response(200 if path in known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def _upgrade(cluster: Cluster, values: Object = TRIAL) -> list[Object]:
    address = f"http://127.0.0.1:{cluster.server_port}"
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": address}}],
        "users": [{"name": "me", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": PLATFORM}}],
    }
    with (
        helm_python.Config(kubeconfig_content=json.dumps(kubeconfig), namespace=PLATFORM) as config,
        helm_python.Chart.load(CHART) as chart,
    ):
        return parse(config.render(chart, values, name=RELEASE, namespace=PLATFORM, revision=2, is_upgrade=True))


def _secrets(found: list[Object]) -> dict[str, dict[str, str]]:
    return {one["metadata"]["name"]: one["data"] for one in found if one["kind"] == "Secret"}


def test_an_upgrade_keeps_every_password(cluster: Cluster) -> None:
    installed = parse(render(TRIAL))
    cluster.secrets["evergreen-platform"] = pick(installed, "Secret", "evergreen-platform")
    assert _secrets(_upgrade(cluster)) == _secrets(installed)


def _airflow_passwords(found: list[Object]) -> dict[str, str]:
    passwords: dict[str, str] = json.loads(
        base64.b64decode(_secrets(found)["evergreen-platform"]["airflow-passwords.json"])
    )
    return passwords


def test_an_upgrade_keeps_the_passwords_of_airflow_s_users_and_makes_those_of_new_ones(cluster: Cluster) -> None:
    two, three = ({**TRIAL, "airflow": {"users": f"admin:admin,user:user{more}"}} for more in ("", ",op:op"))
    installed = parse(render(two))
    cluster.secrets["evergreen-platform"] = pick(installed, "Secret", "evergreen-platform")
    before, after = _airflow_passwords(installed), _airflow_passwords(_upgrade(cluster, three))
    assert {name: after[name] for name in before} == before
    assert len(set(after.values())) == len(after) == 3


def test_a_user_who_had_the_administrator_s_password_gets_another(cluster: Cluster) -> None:
    values = {**TRIAL, "airflow": {"users": "admin:admin,user:user"}}
    older = pick(parse(render(values)), "Secret", "evergreen-platform")
    admin = base64.b64decode(older["data"]["airflow-admin-password"]).decode()
    shared = json.dumps({"admin": admin, "user": admin}).encode()
    older["data"]["airflow-passwords.json"] = base64.b64encode(shared).decode()
    cluster.secrets["evergreen-platform"] = older
    passwords = _airflow_passwords(_upgrade(cluster, values))
    assert passwords["admin"] == admin
    assert passwords["user"] not in {"", admin}


def test_an_upgrade_adds_what_an_older_version_did_not_know(cluster: Cluster) -> None:
    installed = parse(render(TRIAL))
    older = pick(installed, "Secret", "evergreen-platform")
    missing = older["data"].pop("ray-auth-token")
    cluster.secrets["evergreen-platform"] = older
    upgraded = _secrets(_upgrade(cluster))["evergreen-platform"]
    added = upgraded.pop("ray-auth-token")
    assert upgraded == older["data"]
    assert len(added) == len(missing)


def test_an_upgrade_of_a_version_without_a_server_of_predictions_gives_it_passwords(cluster: Cluster) -> None:
    installed = parse(render(TRIAL))
    older = pick(installed, "Secret", "evergreen-platform")
    new = {name for name in older["data"] if "serving" in name}
    assert len(new) == 5
    older["data"] = {name: value for name, value in older["data"].items() if name not in new}
    cluster.secrets["evergreen-platform"] = older
    upgraded = _secrets(_upgrade(cluster))
    assert upgraded["evergreen-platform"].keys() == older["data"].keys() | new
    assert all(upgraded["evergreen-platform"][name] for name in new)
    assert (
        upgraded["evergreen-serving"]["AWS_ACCESS_KEY_ID"] == upgraded["evergreen-platform"]["serving-s3-access-key-id"]
    )
    cluster.secrets["evergreen-platform"] = {**older, "data": upgraded["evergreen-platform"]}
    assert _secrets(_upgrade(cluster)) == upgraded


def test_without_them_new_ones_are_made(cluster: Cluster) -> None:
    first, second = (_secrets(_upgrade(cluster))["evergreen-platform"] for _ in range(2))
    assert first.keys() == second.keys()
    assert not set(first.values()) & set(second.values())


def test_an_uninstall_leaves_the_passwords_with_the_volumes() -> None:
    kept = [one for one in parse(render(TRIAL)) if "helm.sh/resource-policy" in one["metadata"].get("annotations", {})]
    assert {(one["kind"], one["metadata"]["name"]) for one in kept} == {
        ("Namespace", "evergreen-steps"),
        ("Secret", "evergreen-platform"),  # all others of a trial are made from it
    }
