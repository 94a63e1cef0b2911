"""Training on a real Ray: the same weights however often it is interrupted, and nothing left behind."""

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from pkgutil import resolve_name

import psutil
import pytest
import torch

from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError, TemporaryError
from evergreen.environment import complete
from evergreen.settings import get_settings
from evergreen.training.ray_training import _explain, _lost, train, trainer_without_cleaner
from lifecycle_kit import training_rows, write_model
from process_kit import eventually

pytestmark = pytest.mark.integration

# the first worker to reach its second epoch kills itself, once: as soon as Ray, which asks its workers now and
# then, has noted what the first epoch left
FRAGILE = """
import os
import time
from pathlib import Path

import torch


class Network(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(inputs, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
        self.calls = 0

    def forward(self, numeric, categorical):
        self.calls += self.training
        marker, noted = Path({marker!r}), Path({noted!r})
        if self.training and marker.exists():
            with marker.open("a") as batches:
                batches.write("x")
        if self.calls > 20 and not marker.exists():
            deadline = time.monotonic() + 60
            while not noted.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            marker.touch()
            os._exit(1)
        return self.layer(numeric)


def build(schema):
    return Network(len(schema["numeric"]))
"""


@pytest.fixture
def models(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    get_settings.cache_clear()
    return tmp_path / "models"


def descendants():
    return psutil.Process().children(recursive=True)


def test_workers_share_the_work_stay_on_loopback_and_leave_nothing(models, tmp_path, monkeypatch):
    complete()  # torch's own cache, which steps keep, is where the variables say
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # sockets of Ray have long paths
        monkeypatch.setattr(tempfile, "tempdir", short)
        _check_two_workers(models)
        assert list(Path(short).iterdir()) == []


def _check_two_workers(models):
    spec = load_model(write_model(models, "binary", workers=2))
    before, listening, ended = set(descendants()), set(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            for process in descendants():
                try:
                    found = process.net_connections("tcp")
                except psutil.Error:
                    continue
                listening.update(one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        trained = train(spec, training_rows("binary"), "checkpoints/two", "run")
    finally:
        ended.set()
        watcher.join()
    assert [entry["epoch"] for entry in trained.history] == [1, 2, 3]
    assert trained.history[-1]["train_loss"] < trained.history[0]["train_loss"] < 0.8
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert eventually(lambda: set(descendants()) <= before), "Ray's processes are still there"


def test_a_killed_worker_resumes_and_ends_with_the_same_weights(models, tmp_path):
    spec = load_model(write_model(models, "binary"))
    marker, frame = tmp_path / "killed", training_rows("binary")
    noted = get_settings().state_dir / "artifacts/checkpoints/one/killed/checkpoint_manager_snapshot.json"
    (spec.folder / "network.py").write_text(FRAGILE.format(marker=str(marker), noted=str(noted)))
    resumed = train(spec, frame, "checkpoints/one", "killed")
    assert marker.exists()
    assert [entry["epoch"] for entry in resumed.history] == [1, 2, 3]
    went_on = marker.stat().st_size
    undisturbed = train(spec, frame, "checkpoints/one", "undisturbed")
    whole = marker.stat().st_size - went_on
    assert went_on * 3 == whole * 2, "killed in the second of three epochs: that one and the third were left to do"
    assert [entry["train_loss"] for entry in resumed.history] == [entry["train_loss"] for entry in undisturbed.history]
    for name, weights in undisturbed.weights.items():
        assert torch.equal(weights, resumed.weights[name]), name
    assert resumed.golden.shape == (20, 1)
    assert (resumed.golden == undisturbed.golden).all()

    # the same name again: the checkpoint is all there is to do
    again = train(spec, frame, "checkpoints/one", "undisturbed")
    assert again.history == undisturbed.history
    assert (again.golden == undisturbed.golden).all()


STUCK = """
import tempfile
import time
from pathlib import Path

import torch


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, numeric, categorical):
        if self.training:
            Path({marker!r}).write_text(tempfile.mkdtemp())  # as a checkpoint that is being written
            time.sleep(600)
        return self.layer(numeric[:, :1])


def build(schema):
    return Network()
"""
TRAINING = """
import sys

sys.path.insert(0, {tests!r})
from evergreen.catalog import load_model
from evergreen.training.ray_training import _lost, train
from lifecycle_kit import training_rows

train(load_model({model!r}), training_rows("binary"), "checkpoints/stuck", "stuck")
"""


def test_nothing_is_left_of_a_training_that_is_killed(models, tmp_path):
    model, marker = write_model(models, "binary"), tmp_path / "training"
    (models / model / "network.py").write_text(STUCK.format(marker=str(marker)))
    code = TRAINING.format(tests=str(Path(__file__).parent.parent), model=model)
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        driver = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": short})
        try:
            assert eventually(lambda: marker.exists() and marker.read_text() != "", 300)
            family = psutil.Process(driver.pid).children(recursive=True)
            assert Path(marker.read_text()).is_dir()
            assert any("raylet" in process.name() for process in family)
        finally:
            driver.kill()
            driver.wait()
        # Ray's two agents stay a minute or more, asking for a Ray that is gone; a guardian ends them with the task
        assert eventually(lambda: list(Path(short).iterdir()) == []), sorted(Path(short).rglob("*"))[:20]


BROKEN = """
import os

import torch


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, numeric, categorical):
        if self.training:  # or the network would be refused before Ray is asked
            {training}
        return self.layer(numeric[:, :1])


def build(schema):
    return Network()
"""


@pytest.mark.parametrize(
    ("training", "temporary", "said"),
    [
        ("os._exit(1)", True, "training workers died"),
        ("self.layer(numeric, scale=2)", False, "got an unexpected keyword argument 'scale'"),
    ],
)
def test_only_workers_that_died_are_worth_another_try(models, training, temporary, said):
    spec = load_model(write_model(models, "binary"))
    (spec.folder / "network.py").write_text(BROKEN.format(training=training))
    with pytest.raises(Exception, match=said) as raised:
        train(spec, training_rows("binary"), "checkpoints/broken", "broken")
    assert isinstance(raised.value, TemporaryError) is temporary


def test_a_checkpoint_that_another_process_of_the_same_training_deleted_is_worth_another_try():
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    folder = "/artifacts/checkpoints/m/2013-03-01-key"
    gone = (
        ControllerError(FileNotFoundError(f"Path not found: (a file system, {folder}/checkpoint_1)")),
        WorkerGroupError("rank 0", {0: FileNotFoundError(2, "No such file", f"{folder}/checkpoint_1/checkpoint.pt")}),
    )
    for error in gone:
        explained = _explain(error, folder)
        assert isinstance(explained, TemporaryError)
        assert f"{folder}: another process trains the same" in explained.message
        assert _explain(error, "/artifacts/checkpoints/m/2013-03-02-key") is error


def test_a_training_starts_no_process_that_would_stay_in_a_cluster(monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_V2_ENABLED", "1")
    from ray.train.torch import TorchTrainer

    def callbacks(trainer):
        return {type(callback).__name__ for callback in trainer(lambda: None)._create_default_callbacks()}

    stock, ours = callbacks(TorchTrainer), callbacks(trainer_without_cleaner())
    assert stock - ours == {"PlacementGroupCleanerCallback"}  # Ray still has it, and by default
    assert ours < stock


@pytest.mark.parametrize(
    ("error", "message", "becomes"),
    [
        ("builtins.ConnectionError", "Client is shutting down.", TemporaryError),
        ("ray.exceptions.ObjectStoreFullError", "full", ConfigurationError),
        ("ray.exceptions.OutOfDiskError", "full", ConfigurationError),
        ("ray.exceptions.RuntimeEnvSetupError", "no", ConfigurationError),
    ],
)
def test_a_cluster_that_is_too_small_is_not_taken_for_one_that_was_lost(error, message, becomes):
    with pytest.raises(becomes, match="EVERGREEN_RAY_ADDRESS=ray://head:10001"), _lost("ray://head:10001"):
        raise resolve_name(error)(message)
