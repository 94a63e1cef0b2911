"""What a logged model runs when MLflow loads it ("models from code"): raw columns in, predictions out.

MLflow copies this file and the folder ``model`` (encoder.py, network.py, encoder.json, weights.pt) into the
model. There is no pickle in it, and nothing of Evergreen is imported: it loads wherever torch does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow  # noqa: TID253  # only MLflow loads this file
import pandas as pd  # noqa: TID253


def _load(path: Path) -> ModuleType:
    """Import a file under a name of its content: two versions of it live side by side in one process."""
    name = f"evergreen_encoder_{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None  # noqa: S101  # a .py path always has a loader
        assert spec.loader is not None  # noqa: S101
        sys.modules[name] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return sys.modules[name]


class LoggedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow has no types here
    """An encoder and a network, with ``predict`` on raw columns."""

    def load_context(self, context: Any) -> None:
        """Load the files of the model's folder."""
        import torch

        folder = Path(context.artifacts["model"])
        self.code = _load(folder / "encoder.py")
        described = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        self.encoder = self.code.Encoder(**described["encoder"])
        self.network = self.code.load_network(folder / "network.py", described["function"], self.encoder.schema)
        self.network.load_state_dict(torch.load(folder / "weights.pt", map_location="cpu", weights_only=True))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return probabilities or values for raw rows; see ``Encoder.decode``."""
        return self.code.predict(self.network, self.encoder, model_input)


mlflow.models.set_model(LoggedModel())
