"""What a logged model runs when somebody else's MLflow loads it ("models from code"): raw columns in, predictions out.

MLflow copies this file and the folder ``model`` (encoder.py, network.py, encoder.json, weights.safetensors,
golden.json) into the model. There is no pickle in it, and nothing of Evergreen is imported: it loads wherever torch and
safetensors do. Evergreen itself does not come this way: see
``evergreen.training.loading``.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow  # noqa: TID253  # only MLflow loads this file
import pandas as pd  # noqa: TID253


class LoggedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow has no types here
    """An encoder and a network, with ``predict`` on raw columns."""

    def load_context(self, context: Any) -> None:
        """Load the files of the model's folder."""
        folder = Path(context.artifacts["model"])
        # run and not imported: every model keeps its own version, however many there are in one process
        self.code = SimpleNamespace(**runpy.run_path(str(folder / "encoder.py"), run_name="evergreen_encoder"))
        self.encoder, self.network = self.code.load(folder)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return probabilities or values for raw rows; see ``Encoder.decode``."""
        return self.code.predict(self.network, self.encoder, model_input)


mlflow.models.set_model(LoggedModel())
