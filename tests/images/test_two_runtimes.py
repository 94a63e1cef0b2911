"""The same two weeks as processes and as containers end the same, up to times and random identifiers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from podman_kubelet import PodmanKubelet

from evergreen.contract import Manifest
from evergreen.data.lake import get_lake
from evergreen.judgement.decisions import list_decisions
from evergreen.settings import Settings
from evergreen.store import get_store
from evergreen_airflow.replay.summary import Summary
from installation import TWO_WEEKS, Installation, installed
from isolation import inside
from kubernetes_kit import running_cluster
from object_store_kit import BUCKET, ObjectStore, object_store
from small_model import scaled_models

pytestmark = [pytest.mark.images, pytest.mark.timeout(7200)]

MODEL = "flight_delay"
RANDOM = {"snapshot", "snapshots", "run_id", "report_uri", "version", "uri", "decided_at", "promoted_at"}
"""Fields that are made anew by every run: snapshot and run ids, addresses that contain them, and times."""
REPORTS = ("/evaluation.json", "/drift.json", "/performance.json")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The step image with the small model in it, made as a team bakes its own models in."""
    folder = tmp_path_factory.mktemp("image")
    scaled_models(folder)
    base = f"localhost/{Settings.model_fields['step_image'].default}"
    (folder / "Dockerfile").write_text(f"FROM {base}\nCOPY models /opt/evergreen/include/models\n")
    name = "localhost/evergreen/step-with-small-model:test"
    subprocess.run(["podman", "build", "--quiet", f"--tag={name}", str(folder)], check=True)
    inspect = ["podman", "image", "inspect", "--format={{.Digest}}", name]
    digest = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip()
    return f"{name.rpartition(':')[0]}@{digest}"


def without_random(value: Any) -> Any:
    """Return a JSON value without what differs from run to run; numbers to 6 digits: threads add up in any order."""
    if isinstance(value, dict):
        # these files hold ids of runs and snapshots; what else is in them is also in facts, metrics and decisions
        other = {"digest"} if str(value.get("uri")).endswith(REPORTS) else set()
        return {name: without_random(one) for name, one in value.items() if name not in RANDOM | other}
    if isinstance(value, list):
        return [without_random(one) for one in value]
    return round(value, 6) if isinstance(value, float) else value


def comparable(manifest: Manifest) -> tuple[str, dict[str, Any]]:
    """Return what names a step's manifest in either installation, and what must be equal in both."""
    key = f"{manifest.run.dag_id} {manifest.window} {manifest.run.task_id}"
    times = {"attempt", "started", "finished", "image"}
    return key, without_random(manifest.model_dump(mode="json", exclude=times))


def what_is_left(installation: Installation) -> dict[str, Any]:
    """Return tables, manifests, decisions and the summary of a finished loop."""
    with inside(installation.environment):
        store, lake = get_store(), get_lake()
        keys = [key for key in store.keys("runs/") if key.endswith("/result.json")]
        manifests = [Manifest.model_validate_json(store.read(key) or b"") for key in keys]
        tables = {}
        for _, name in lake.catalog.list_tables(MODEL):
            table = lake.read(MODEL, name)
            rows = table.sort_by([(column, "ascending") for column in table.column_names])
            tables[name] = rows.to_pylist()
        summary = Summary.model_validate_json((installation.state / "loop" / "summary.json").read_text())
        rows = [row.model_dump(mode="json", exclude={"runs", "report_uri"}) for row in summary.rows]
        return {
            "tables": tables,
            "manifests": dict(comparable(manifest) for manifest in manifests),
            "images": {manifest.image for manifest in manifests},
            "decisions": [without_random(one.model_dump(mode="json")) for one in list_decisions(store, MODEL)],
            "rows": without_random(rows),
        }


@contextmanager
def on_s3(folder: Path, **more: str) -> Iterator[tuple[Installation, ObjectStore]]:
    """Make an installation whose artifacts and lake are in a bucket, as a cluster's are: of the same name each time."""
    folder.mkdir()
    with object_store(folder) as s3:
        roots = {f"EVERGREEN_{name}_ROOT": f"s3://{BUCKET}/{name.lower()}" for name in ("ARTIFACT", "LAKE")}
        with installed(scaled_models, {**s3.environment, **roots, **more}) as made:
            yield made, s3


def as_processes(folder: Path) -> dict[str, Any]:
    with on_s3(folder) as (installation, _):
        installation.run(*TWO_WEEKS, timeout=3000)
        return what_is_left(installation)


def as_containers(folder: Path, pods: Path, image: str) -> tuple[dict[str, Any], PodmanKubelet]:
    with running_cluster() as (cluster, _):
        more = {
            "EVERGREEN_RUNTIME": "kubernetes",
            "EVERGREEN_STEP_IMAGE": image,
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": cluster.connection(pods / "kubeconfig"),
        }
        with on_s3(folder, **more) as (installation, s3):
            kubelet = PodmanKubelet(cluster, pods, *config_and_secrets(installation, s3))
            with kubelet.working():
                installation.run(*TWO_WEEKS, timeout=3600)
            return what_is_left(installation), kubelet


def config_and_secrets(installation: Installation, s3: ObjectStore) -> tuple[dict[str, str], dict[str, str]]:
    """Return what the chart's config map and secret would tell the steps."""
    with inside(installation.environment) as settings:
        config, secrets = (
            {name: value or "" for name, value in dotenv_values(file, interpolate=False).items()}
            for file in (settings.config_file, settings.secrets_file)
        )
    for name in ("STATE_DIR", "MODELS_DIR", "FEATURE_REPO"):  # where things lie in the image
        config.pop(f"EVERGREEN_{name}", None)
    config["EVERGREEN_STATE_DIR"] = "/tmp/evergreen"
    keys = {name: value for name, value in s3.environment.items() if name.startswith("AWS_")}
    return config, secrets | keys


def different(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what one has and the other has not, or has otherwise."""
    return {name: (one.get(name), other.get(name)) for name in one | other if one.get(name) != other.get(name)}


def test_two_weeks_end_the_same_in_both_runtimes(image: str, tmp_path: Path) -> None:
    processes = as_processes(tmp_path / "processes")
    containers, kubelet = as_containers(tmp_path / "containers", tmp_path, image)
    assert containers["images"] == {image}
    assert len(kubelet.specifications) == len(containers["manifests"])
    for what in ("rows", "decisions"):
        assert containers[what] == processes[what]
    for what in ("tables", "manifests"):
        assert different(containers[what], processes[what]) == {}


def test_the_comparison_sees_a_difference() -> None:
    def left(**found: Any) -> dict[str, Any]:
        output = {"name": "model", "version": "1", "digest": "a", "rows": 2, **found}
        return {"train": without_random({"outputs": [output], "metrics": {"auc": 0.6}})}

    assert different(left(), left(version="2", uri="runs:/2/model")) == {}
    assert different(left(uri="s3://one/evaluation.json"), left(uri="s3://two/evaluation.json")) == {}
    for found in ({"digest": "b"}, {"rows": 3}):
        assert different(left(), left(**found))
    assert different(left(), {})
    assert different({}, left())
