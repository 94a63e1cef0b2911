"""Training on a Ray cluster of one's own: the step is its driver, and nothing of it outlives the step."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from chart_rendering import objects, pick

from evergreen.settings import Settings
from evergreen_airflow.kubelet import guardian
from evergreen_laptop.credentials import Credentials
from evergreen_laptop.step_settings import BASE_VARIABLES, step_config, step_secrets
from installation import free_ports
from lifecycle_kit import write_model

pytestmark = pytest.mark.integration

DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
from lifecycle_kit import training_rows
from evergreen.catalog import load_model
from evergreen.training.ray_training import train
trained = train(load_model("small_binary"), training_rows("binary"), "checkpoints/cluster", sys.argv[2])
print("epochs:", len(trained.history))
"""
ENDLESS = """
import os
import time
from pathlib import Path

import torch


class Network(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layer = torch.nn.Linear(inputs, 1)

    def forward(self, numeric, categorical):
        (Path({folder!r}) / str(os.getpid())).touch()
        time.sleep(3)
        return self.layer(numeric)


def build(schema):
    return Network(len(schema["numeric"]))
"""

OF_THE_CLUSTER = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::_AutoscalingCoordinatorActor")
"""What no job owns: Ray's agents, waiting workers, and an actor that Ray Data keeps, one for each cluster."""

HEAD = pick(objects("trial"), "StatefulSet", "evergreen-ray-head")["spec"]["template"]["spec"]["containers"][0]
CHARTS_OWN = {one["name"]: one["value"] for one in HEAD["env"] if "value" in one}
"""What the chart's head is told beside the settings of the project."""


@dataclass(frozen=True)
class RayCluster:
    """A head with two cores."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    folder: Path
    """What Ray keeps of its sessions."""

    def workers(self) -> list[str]:
        """Return the processes that run something of a job: Ray renames those that do."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                title = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if title.startswith("ray::") and not title.startswith(OF_THE_CLUSTER):
                found.append(title.strip())
        return found

    def training(self, folder: Path) -> list[psutil.Process]:
        """Return the cluster's processes that have left their number in a folder."""
        pids = {int(path.name) for path in folder.iterdir()}
        return [one for one in psutil.Process(self.process.pid).children(recursive=True) if one.pid in pids]

    def free(self) -> dict[str, float]:
        """Return the resources nobody holds."""
        program = (
            "import json, os, ray; ray.init(os.environ['EVERGREEN_RAY_ADDRESS'], log_to_driver=False);"
            "print(json.dumps(ray.available_resources()))"
        )
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return found

    def driver(self, name: str, models: Path) -> subprocess.Popen[str]:
        """Start a training as a step does."""
        command = [sys.executable, "-c", DRIVER, str(Path(__file__).parents[1]), name]
        environment = {**self.environment, "EVERGREEN_MODELS_DIR": str(models)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """As the chart starts one; it ends with this process, however this ends."""
    gcs, client, node, objects = free_ports(4)
    folder = tmp_path_factory.mktemp("cluster")
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-") as short:  # sockets of Ray have long paths
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "RAY_"))},
            "EVERGREEN_STATE_DIR": str(folder / "state"),
            "EVERGREEN_RAY_ADDRESS": f"ray://127.0.0.1:{client}",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TRAIN_V2_ENABLED": "1",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "GLOO_SOCKET_IFNAME": "lo",
            **CHARTS_OWN,
            "TMPDIR": short,
        }
        options = ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--ray-client-server-port={client}"]
        options += [f"--node-manager-port={node}", f"--object-manager-port={objects}", f"--temp-dir={short}/ray"]
        options += ["--include-dashboard=false", "--num-cpus=2", "--object-store-memory=200000000", "--block"]
        ray = str(Path(sys.executable).with_name("ray"))
        guarded = [sys.executable, "-I", "-S", str(guardian.__file__), "--", ray, "start", "--head", *options]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(guarded, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
            try:
                wait_for(lambda: b"Ray runtime started" in (folder / "log").read_bytes(), process)
                yield RayCluster(process, environment, Path(short, "ray"))
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(60)


def test_a_local_step_is_let_in_by_the_token_of_the_shell(
    cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, cluster.environment[name])
    user = Settings(state_dir=tmp_path, ray_address=cluster.environment["EVERGREEN_RAY_ADDRESS"])
    told = {**step_config(user), **step_secrets(user, "postgresql://h", Credentials())}
    machine = {name: os.environ[name] for name in BASE_VARIABLES if name in os.environ}
    assert replace(cluster, environment={**machine, **told}).free()["CPU"] == 2


def test_the_head_forks_for_a_driver_without_grpcs_handlers(cluster: RayCluster) -> None:
    """With them the new process crashes now and then: of 40 drivers one or more were turned away, of 100 none now."""
    wait_for(lambda: cluster.free().get("CPU") == 2, cluster.process)
    log = (cluster.folder / "session_latest" / "logs" / "ray_client_server.err").read_text()
    assert "SpecificServer started" in log
    assert "fork() handlers" not in log


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.2)


def test_a_training_runs_on_the_cluster_and_leaves_it_as_it_was(cluster: RayCluster, tmp_path: Path) -> None:
    write_model(tmp_path / "models", "binary", workers=2)
    driver = cluster.driver("done", tmp_path / "models")
    output, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, output
    assert "epochs: 3" in output
    wait_for(lambda: not cluster.workers(), cluster.process)
    wait_for(lambda: cluster.free().get("CPU") == 2, cluster.process)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_is_ended_takes_its_training_with_it(
    cluster: RayCluster, tmp_path: Path, how: signal.Signals
) -> None:
    write_model(tmp_path / "models", "binary", workers=2)
    training = tmp_path / "training"
    training.mkdir()
    (tmp_path / "models" / "small_binary" / "network.py").write_text(ENDLESS.format(folder=str(training)))
    driver = cluster.driver(f"ended-by-{how.name}", tmp_path / "models")
    try:
        wait_for(lambda: len(cluster.training(training)) == 2, driver)
        # here nodes can be preempted, which must not count as the training's own failures (ray-project/ray #63968)
        wait_for(lambda: any("PreemptionWatcher" in title for title in cluster.workers()), driver)
        workers = cluster.training(training)
        driver.send_signal(how)
        driver.wait(60)
        wait_for(lambda: not any(worker.is_running() for worker in workers), cluster.process)
        wait_for(lambda: not cluster.workers(), cluster.process)
        wait_for(lambda: cluster.free().get("CPU") == 2, cluster.process)
    finally:
        driver.kill()
        driver.communicate()


@pytest.mark.slow
def test_a_head_that_is_gone_is_temporary(cluster: RayCluster, tmp_path: Path) -> None:
    """An upgrade to another image, or a drained node, while it trains. The last test: it takes the head away."""
    write_model(tmp_path / "models", "binary", workers=2)
    training = tmp_path / "training"
    training.mkdir()
    (tmp_path / "models" / "small_binary" / "network.py").write_text(ENDLESS.format(folder=str(training)))
    cluster.environment["RAY_CLIENT_RECONNECT_GRACE_PERIOD"] = "1"  # instead of 30 s
    driver = cluster.driver("head-gone", tmp_path / "models")
    try:
        wait_for(lambda: len(cluster.training(training)) == 2, driver)
        for one in psutil.Process(cluster.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        output, _ = driver.communicate(timeout=120)
    finally:
        driver.kill()
    assert driver.returncode == 1
    assert output.splitlines()[-1].startswith("evergreen.contract.TemporaryError: "), output
