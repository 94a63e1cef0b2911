"""The images do what the chart asks of them: its own pods, run as containers, from an empty database to a step."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from built_images import Images
from chart_containers import ChartContainers
from chart_rendering import TRIAL, parse, render

from evergreen_airflow import pod as pods

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def cluster(images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChartContainers]:
    """PostgreSQL and S3 of a trial, running, and what its bootstrap job has made of them."""
    values = {**TRIAL, "images": {one.key: {"repository": one.repository, "tag": one.tag} for one in images.all}}
    cluster = ChartContainers(images.engine, parse(render(values)), tmp_path_factory.mktemp("cluster"))
    try:
        for server, port in (("postgres", 5432), ("seaweedfs", 8333)):
            pod = cluster.pod("StatefulSet", f"evergreen-{server}")
            name = cluster.start(pod, pod["containers"][0])
            cluster.wait(name, cluster.listens(name, port))
        job = cluster.pod("Job", "evergreen-bootstrap-1")
        for container in (*job["initContainers"], *job["containers"]):
            cluster.run(job, container)
        yield cluster
    finally:
        cluster.stop()


def test_airflow_lists_the_dags(cluster: ChartContainers) -> None:
    pod = cluster.pod("Deployment", "evergreen-dag-processor")
    (container,) = pod["containers"]
    script = "airflow dags reserialize >/dev/null && airflow dags list --output=json"
    listed = json.loads(cluster.run(pod, container, "sh", "-c", script).strip().splitlines()[-1])
    assert {"flight_delay.ingest", "flight_delay.train"} <= {dag["dag_id"] for dag in listed}
    assert "No data found" in cluster.run(pod, container, "airflow", "dags", "list-import-errors")


def step_container(images: Images) -> dict[str, object]:
    """Return the container of a step's pod, with the parts that the operator always gives it."""
    step = images.named("step")
    return {
        "name": "step",
        "image": step.by_digest,
        "env": [{"name": "EVERGREEN_IMAGE", "value": step.by_digest}],
        "envFrom": [{"configMapRef": {"name": pods.SETTINGS}}, {"secretRef": {"name": pods.SECRETS}}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }


def test_a_step_runs_and_its_manifest_names_the_image(cluster: ChartContainers, images: Images) -> None:
    step = step_container(images)
    arguments = ("run-step", "ingest", "--model=flight_delay", "--partition=2013-01-01", "--run-id=images")
    cluster.run({}, step, *pods.COMMAND, *arguments)
    script = (
        "from evergreen.store import get_store; store = get_store();"
        "(key,) = [key for key in store.keys('runs/') if key.endswith('/result.json')];"
        "print(store.read(key).decode())"
    )
    manifest = json.loads(cluster.run({}, step, "python", "-c", script))
    assert manifest["status"] == "ok"
    assert manifest["outputs"][0]["rows"] == 842
    assert manifest["image"] == images.named("step").by_digest
    assert manifest["image"].partition("@")[2].startswith("sha256:")
    assert manifest["code_version"] == images.named("step").labels["org.opencontainers.image.revision"]


def test_mlflow_lets_the_steps_in_and_nobody_else(cluster: ChartContainers) -> None:
    pod = cluster.pod("Deployment", "evergreen-mlflow")
    for waiting in pod.get("initContainers", ()):
        cluster.run(pod, waiting)
    name = cluster.start(pod, pod["containers"][0])
    cluster.wait(name, cluster.listens(name, 5000))
    user = cluster.environment({"envFrom": [{"secretRef": {"name": pods.SECRETS}}]})
    script = (
        "import sys, urllib.error, urllib.request as r, base64\n"
        "q = r.Request('http://127.0.0.1:5000/api/2.0/mlflow/experiments/search?max_results=1')\n"
        "q.add_header('Authorization', 'Basic ' + base64.b64encode(sys.argv[1].encode()).decode())\n"
        "try: print(r.urlopen(q, timeout=60).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    for password, status in ((user["MLFLOW_TRACKING_PASSWORD"], "200"), ("wrong", "401")):
        login = f"{user['MLFLOW_TRACKING_USERNAME']}:{password}"
        assert cluster.execute(name, "python", "-c", script, login).strip() == status


def test_the_server_of_predictions_has_its_programs_and_waits_for_its_rights(cluster: ChartContainers) -> None:
    pod = cluster.pod("Deployment", "evergreen-serving")
    for waiting in pod["initContainers"]:
        cluster.run(pod, waiting)
    script = (
        "from evergreen.catalog import survey; from evergreen.features.feast_repo import definitions;"
        "print('views', *(one.name for spec in survey().models for one in definitions(spec)))"
    )
    assert "flight_delay_route_history" in cluster.run(pod, pod["containers"][0], "python", "-c", script)


def test_ray_takes_work_from_a_step(cluster: ChartContainers, images: Images) -> None:
    pods_of = {kind: cluster.pod("StatefulSet", f"evergreen-ray-{kind}") for kind in ("head", "worker")}
    head = cluster.start(pods_of["head"], pods_of["head"]["containers"][0])
    cluster.wait(head, cluster.listens(head, 10001))
    (worker,) = pods_of["worker"]["containers"]
    # it shares an address with the head here, so it listens elsewhere
    moved = [argument.replace("=6380", "=6390").replace("=6381", "=6391") for argument in worker["command"]]
    name = cluster.start(pods_of["worker"], {**worker, "command": moved})
    cluster.wait(name, cluster.listens(name, 6390))
    script = (
        "import os, ray; ray.init(os.environ['EVERGREEN_RAY_ADDRESS'], log_to_driver=False);"
        "print('sum', ray.get(ray.remote(lambda: 40 + 2).remote()))"
    )
    assert "sum 42" in cluster.run({}, step_container(images), "python", "-c", script)
