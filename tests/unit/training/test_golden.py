"""What a fresh process gets from a model's files: as training had it, or said in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from evergreen.catalog import load_model
from evergreen.judgement.metrics import deciding_metric
from evergreen.settings import SIGNING_KEY
from evergreen.spec import ModelSpec, Task
from evergreen.training import tracking
from evergreen.training.encoder import Encoder, load_network
from evergreen.training.golden import FILE, Golden, found_wrong, golden_rows, outputs_of, read_golden
from evergreen.training.loading import read_model
from evergreen.training.ray_training import Trained
from evergreen.trust.statement import Bound, Statement

NETWORK = """
import torch

SHIFTED = []


class Network(torch.nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.layer = torch.nn.Linear(inputs, 1)
        self.register_buffer("shift", torch.zeros(1), persistent={persistent})

    def forward(self, numeric, categorical):
        if self.training:
            {learned}
        return self.layer(numeric) + self.shift + len(SHIFTED)


def build(schema):
    return Network(len(schema["numeric"]))
"""
GOOD = NETWORK.format(persistent=True, learned="self.shift += 1")
NOT_SAVED = NETWORK.format(persistent=False, learned="self.shift += 1")
OF_THE_PROCESS = NETWORK.format(persistent=True, learned="SHIFTED.append(1)")
RAW = pd.DataFrame(
    {
        "x": np.where(np.arange(90) % 7 == 0, np.nan, np.linspace(-2, 2, 90)),
        "n": pd.array([None, *range(89)], dtype="Int64"),
        "site": ["a", "b", None] * 30,
        "hour": np.arange(90) % 24,
    }
)


def logged(folder: Path, network: str, task: str = "binary", labels: pd.Series | None = None) -> Path:
    """Write the files of a model after a moment of training in this process."""
    spec = model_with(folder, network)
    learned = pd.Series(np.arange(90) % 2) if labels is None else labels
    encoder = Encoder.fit(RAW, learned, task, ["x", "n"], ["site", "hour"])
    torch.manual_seed(0)
    module = load_network(spec.folder / "network.py", "build", encoder.schema)
    numeric, categorical = encoder.encode(RAW)
    module.train()(torch.from_numpy(numeric), torch.from_numpy(categorical))
    golden = outputs_of(module, numeric, categorical).numpy()
    files = folder / "files"
    tracking._write_model(files, spec, Trained(encoder, module.state_dict(), [], golden), RAW, deciding_metric)
    return files


def model_with(folder: Path, network: str) -> ModelSpec:
    spec = load_model("flight_delay")
    (folder / "network.py").write_text(network)
    spec = spec.model_copy()
    spec._folder = folder
    return spec


def test_a_model_answers_as_in_training(tmp_path: Path) -> None:
    files = logged(tmp_path, GOOD)
    assert found_wrong(files) == ""
    golden = read_golden(files)
    assert golden is not None
    assert golden.rows == 20
    first, last = ({name: values[row] for name, values in golden.inputs.items()} for row in (0, -1))
    assert first == {"x": None, "n": None, "site": "a", "hour": "0"}
    assert last == {"x": 2.0, "n": 88.0, "site": None, "hour": "17"}


@pytest.mark.parametrize("network", [NOT_SAVED, OF_THE_PROCESS])
def test_what_is_not_in_the_files_is_missed_and_the_first_answer_is_named(tmp_path: Path, network: str) -> None:
    wrong = found_wrong(logged(tmp_path, network))
    assert wrong.startswith("does not answer as it did: row 1 of golden.json: probability: expected 0.")
    assert ", as in training, got 0." in wrong


def test_the_process_is_a_fresh_one(tmp_path: Path) -> None:
    """In this one the module of the network is there still, with what training has left in it, and nobody notices."""
    files = logged(tmp_path, OF_THE_PROCESS)
    statement = Statement(files={}, bound=Bound(model="m", run_id="r", logged_model="l"))
    golden = read_golden(files)
    assert golden is not None
    said = read_model(files, "here", statement).predict(pd.DataFrame(golden.inputs, dtype=object))
    assert golden.difference(said.to_dict("list")) == ""
    assert found_wrong(files) != ""


def test_a_changed_weight_is_found(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    files = logged(tmp_path, GOOD)
    weights = load_file(files / "weights.safetensors")
    weights["layer.bias"] += 1e-3
    save_file(weights, files / "weights.safetensors")
    assert "does not answer as it did" in found_wrong(files)


def test_a_model_of_before_is_loaded_and_asked_about_nothing_known(tmp_path: Path) -> None:
    files = logged(tmp_path, NOT_SAVED)
    (files / FILE).unlink()
    assert found_wrong(files) == ""
    (files / "network.py").write_text("def build(schema):\n    raise RuntimeError('no such layer')\n")
    assert found_wrong(files) == "does not load: RuntimeError: no such layer"


def test_a_model_s_code_is_given_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = logged(tmp_path, GOOD)
    (files / "network.py").write_text("import os\n\n\ndef build(schema):\n    raise RuntimeError(os.environ)\n")
    secrets = (SIGNING_KEY, "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "PGPASSWORD")
    for secret in (*secrets, "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CLIENT_SECRET", "OF_NOBODY_KNOWN"):
        monkeypatch.setenv(secret, "not to be seen")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    said = found_wrong(files)
    assert "'OMP_NUM_THREADS': '3'" in said
    assert "not to be seen" not in said


def test_a_process_that_ends_is_told_by_how_it_ended(tmp_path: Path) -> None:
    files = logged(tmp_path, GOOD)
    (files / "network.py").write_text("import os\n\n\ndef build(schema):\n    os._exit(3)\n")
    assert found_wrong(files) == "does not load: its process ended with 3"
    (files / "network.py").write_text("import os\n\n\ndef build(schema):\n    os.kill(os.getpid(), 9)\n")
    with pytest.raises(MemoryError):
        found_wrong(files)


def test_a_regression_is_compared_in_the_spread_of_its_label(tmp_path: Path) -> None:
    """Float32 has some seven digits: of a million they are whole numbers."""
    labels = pd.Series(1e6 * np.arange(90.0))
    files = logged(tmp_path, GOOD, Task.REGRESSION, labels)
    assert found_wrong(files) == ""
    golden = read_golden(files)
    assert golden is not None
    assert (golden.unit, golden.center) == (pytest.approx(labels.std(ddof=0)), labels.mean())
    said = [answer + 1e-6 * golden.unit for answer in golden.answers["prediction"]]
    assert golden.difference({"prediction": said}) == ""
    said[3] += 1e-4 * golden.unit
    assert golden.difference({"prediction": said}).startswith("row 4 of golden.json: prediction: expected ")


@pytest.mark.parametrize("mean", [0.0, 1e6])
@pytest.mark.parametrize("far", [0.0, 1.0, 100.0, -100.0])
def test_an_answer_far_from_the_mean_may_differ_in_proportion(far: float, mean: float) -> None:
    """Float32 has some seven digits of what the network gives: how far from the mean it is, in deviations."""
    expected, allowed = mean + 2 * far, 2e-5 * max(1.0, abs(far))
    golden = Golden(inputs={"x": (1.0,)}, answers={"prediction": (expected,)}, unit=2.0, center=mean)
    for times, same in ((-0.9, True), (0.9, True), (-1.1, False), (1.1, False)):
        assert (golden.difference({"prediction": [expected + times * allowed]}) == "") is same
    of_before = golden.model_copy(update={"center": None})
    assert (of_before.difference({"prediction": [expected + 3e-5]}) == "") is False


def test_answers_that_were_not_finite_stay_so() -> None:
    golden = Golden(inputs={"x": (1.0, 2.0)}, answers={"probability": (None, 0.5)})
    assert Golden.parse(golden.model_dump_json()) == golden
    assert golden.difference({"probability": [np.nan, 0.5]}) == ""
    for wrong in ([0.5, 0.5], [np.nan, np.nan], [np.nan, 0.50002]):
        assert golden.difference({"probability": wrong})
    assert "row 2 of golden.json: probability: expected 0.5, as in training, got nan" in golden.difference(
        {"other": []}
    )


@pytest.mark.parametrize(("count", "positions"), [(1, [0]), (3, [0, 1, 2]), (39, list(range(0, 39, 2)))])
def test_golden_rows_are_evenly_taken(count: int, positions: list[int]) -> None:
    assert golden_rows(count).tolist() == positions
