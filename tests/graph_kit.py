"""The files of small models of every task, as a training writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from evergreen.catalog import load_model
from evergreen.judgement.metrics import deciding_metric
from evergreen.spec import ModelSpec, Serving, Task
from evergreen.training import tracking
from evergreen.training.encoder import Encoder, load_network
from evergreen.training.golden import outputs_of
from evergreen.training.ray_training import Trained

LABEL = "label"
NETWORK = """
import torch


class Network(torch.nn.Module):
    def __init__(self, schema):
        super().__init__()
        counts = schema["categorical"].values()
        self.embeddings = torch.nn.ModuleList(torch.nn.Embedding(count, 3) for count in counts)
        width = len(schema["numeric"]) + 3 * len(counts)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(width, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.GELU(),
            torch.nn.Dropout(0.5),
            torch.nn.LayerNorm(16),
            torch.nn.Linear(16, schema["outputs"]),
        )

    def forward(self, numeric, categorical):
        embedded = [embedding(categorical[:, index]) for index, embedding in enumerate(self.embeddings)]
        return self.layers(torch.cat([numeric, *embedded], dim=1))


def build(schema):
    return Network(schema)
"""
WIDE = NETWORK.replace("LayerNorm(16)", "Linear(16, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 16)")
"""With a layer that is worth quantizing."""
LABELS = {
    Task.BINARY: np.arange(200) % 2,
    Task.MULTICLASS: np.array(["late", "on time", "early"])[np.arange(200) % 3],
    Task.REGRESSION: 1e4 + 250.0 * np.arange(200),
}
METRICS = {Task.BINARY: "auc", Task.MULTICLASS: "log_loss", Task.REGRESSION: "rmse"}


def frame_of(task: Task, rows: int = 200) -> pd.DataFrame:
    """Return labelled rows with all that may be missing."""
    place = np.arange(rows)
    return pd.DataFrame(
        {
            "x": np.where(place % 7 == 0, np.nan, np.linspace(-2, 2, rows)),
            "n": pd.array([None, *range(rows - 1)], dtype="Int64"),
            "constant": np.full(rows, 4.0),
            "site": pd.Series(["a", "été", None, ""], dtype=object).take(place % 4).to_numpy(),
            "hour": np.where(place % 5 == 0, np.nan, place % 24),
            LABEL: np.resize(LABELS[task], rows),
        }
    )


def spec_of(folder: Path, task: Task, network: str = NETWORK, **serving: object) -> ModelSpec:
    """Return the specification of a model whose network is written into a folder."""
    (folder / "network.py").write_text(network)
    spec = load_model("flight_delay")
    examples = spec.features.examples.model_copy(update={"label": LABEL})
    better = "maximize" if task is Task.BINARY else "minimize"
    spec = spec.model_copy(
        update={
            "task": task,
            "features": spec.features.model_copy(update={"examples": examples}),
            "gate": spec.gate.model_copy(
                update={"metric": METRICS[task], "direction": type(spec.gate.direction)(better)}
            ),
            "serving": Serving(**serving),
        }
    )
    spec._folder = folder
    return spec


def files_of(
    folder: Path,
    task: Task = Task.BINARY,
    network: str = NETWORK,
    frame: pd.DataFrame | None = None,
    inputs: tuple[list[str], list[str]] = (["x", "n", "constant"], ["site", "hour"]),
    **serving: object,
) -> Path:
    """Write the files of a model whose network was in training for a moment."""
    spec = spec_of(folder, task, network, **serving)
    rows = frame_of(task) if frame is None else frame
    encoder = Encoder.fit(rows, rows[LABEL], task, *inputs)
    torch.manual_seed(0)
    module = load_network(spec.folder / "network.py", "build", encoder.schema)
    numeric, categorical = encoder.encode(rows)
    module.train()(torch.from_numpy(numeric), torch.from_numpy(categorical))
    golden = outputs_of(module, numeric, categorical).numpy()
    trained = Trained(encoder, module.state_dict(), [], golden)
    tracking._write_model(folder / "files", spec, trained, rows, deciding_metric)
    return folder / "files"
