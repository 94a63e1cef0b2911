"""Airflow's own server hands out the pictures of an evaluation: to whom, which, and nothing else of the store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from typing import Any

import httpx
import pytest

from evergreen.contract import RunIdentity
from evergreen.settings import PROJECT_ROOT
from evergreen.store import get_store

pytestmark = pytest.mark.integration

SCRIPT = """
import json, sys

from airflow.utils.db import initdb

initdb()

from airflow.api_fastapi.app import create_app
from starlette.testclient import TestClient

answers = []
with TestClient(create_app(), base_url="http://127.0.0.1") as client:
    for user, password, path in json.load(open(sys.argv[1])):
        client.cookies.clear()
        if password:
            token = client.post("/auth/token", json={"username": user, "password": password}).json()["access_token"]
            client.cookies.set("_token", token)  # as a browser that has logged in sends it
        answer = client.get(path)
        answers.append([answer.status_code, answer.content.hex(), dict(answer.headers)])
json.dump(answers, open(sys.argv[2], "w"))
"""
GUARDED = """
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

class Guarded(SimpleAuthManager):  # the simple one knows no rights of single DAGs
    def is_authorized_dag(self, *, user, details=None, **asked):
        seen = user.username != "neighbour" or details.id == "other.train"
        return seen and super().is_authorized_dag(user=user, details=details, **asked)
"""
USERS = {"viewer": "viewer", "neighbour": "viewer", "stranger": ""}
RUN = "manual__2026-01-01T00:00:00+00:00 (again)"
PICTURE, OTHER = b"\x89PNG\r\n\x1a\nof the run", b"\x89PNG\r\n\x1a\nof another model"


def address(name: str = "roc_curve", dag: str = "toy.train", run: str = RUN, content: bytes = PICTURE) -> str:
    asked = httpx.QueryParams({"run_id": run, "sha256": sha256(content).hexdigest()})
    return f"/evergreen/evaluations/{dag}/{name}?{asked}"


REQUESTS = {
    "a viewer": ("viewer", address()),
    "nobody": ("", address()),
    "a stranger": ("stranger", address()),
    "a neighbour": ("neighbour", address()),
    "a neighbour at home": ("neighbour", address(dag="other.train", run="r", content=OTHER)),
    "another content": ("viewer", address(content=OTHER)),
    "another file": ("viewer", address("result", content=b"{}")),
    "a climb by name": ("viewer", address("..%2Froc_curve")),
    "a climb by run": ("viewer", address(run="../other.train/r", content=OTHER)),
    "a climb by dag": ("viewer", address(dag="..%2Ftoy.train")),
    "another dag": ("viewer", address(dag="toy.ingest")),
    "no digest": ("viewer", f"/evergreen/evaluations/toy.train/roc_curve?run_id={RUN}"),
    "what there is": ("viewer", "/evergreen/evaluations/openapi.json"),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What a real server of Airflow, with the plugin, answers to each request."""
    home = tmp_path_factory.mktemp("airflow")
    root = home / "artifacts"
    store = get_store(str(root))
    for dag, run, content in (("toy.train", RUN, PICTURE), ("other.train", "r", OTHER), ("toy.ingest", RUN, PICTURE)):
        folder = RunIdentity(dag_id=dag, run_id=run, task_id="evaluate").key
        store.write(f"{folder}/roc_curve.png", content)
        store.write(f"{folder}/result.png", b"{}")
    (home / "guarded.py").write_text(GUARDED)
    passwords = {user: f"{user}-secret" for user in USERS}
    (home / "passwords.json").write_text(json.dumps(passwords))
    (home / "requests.json").write_text(
        json.dumps([(user, passwords.get(user), path) for user, path in REQUESTS.values()])
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "AIRFLOW"))}
    environment = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__AUTH_MANAGER": "guarded.Guarded",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:{role}" for user, role in USERS.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__API_AUTH__JWT_SECRET": "a" * 64,
        "EVERGREEN_ARTIFACT_ROOT": str(root),
        "EVERGREEN_STATE_DIR": str(home),
        "PYTHONPATH": str(home),
    }
    command = [sys.executable, "-c", SCRIPT, str(home / "requests.json"), str(home / "answers.json")]
    done = subprocess.run(
        command, env={**kept, **environment}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(REQUESTS, json.loads((home / "answers.json").read_text()), strict=True))


def test_whoever_may_see_the_question_sees_its_pictures(answers: dict[str, list[Any]]) -> None:
    status, content, headers = answers["a viewer"]
    assert (status, bytes.fromhex(content)) == (200, PICTURE)
    assert headers["content-type"] == "image/png"
    assert headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"].startswith("private")
    assert answers["a neighbour at home"][:2] == [200, OTHER.hex()]


@pytest.mark.parametrize(
    ("who", "status"),
    [
        ("nobody", 401),
        ("a stranger", 403),
        ("a neighbour", 403),
        ("another content", 404),
        ("another file", 404),
        ("a climb by name", 404),
        ("a climb by run", 404),
        ("a climb by dag", 404),
        ("another dag", 422),
        ("no digest", 422),
        ("what there is", 404),
    ],
)
def test_nobody_else_sees_anything_and_nothing_else_is_seen(
    answers: dict[str, list[Any]], who: str, status: int
) -> None:
    assert answers[who][0] == status, bytes.fromhex(answers[who][1])
    assert b"PNG" not in bytes.fromhex(answers[who][1])
