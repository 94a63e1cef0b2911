"""From raw columns to tensors: what a model learned about its inputs, beside its weights.

This file is copied into every logged model and loaded from there, so it imports nothing of
Evergreen: a champion keeps the encoding it was trained with when this code moves on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CLIP = 8.0
"""Standardised inputs are clipped at this many standard deviations: one broken sensor value must not
dominate a prediction."""
UNKNOWN = 0
"""Index of a category that was missing, or not seen in training."""


@dataclass(frozen=True)
class Encoder:
    """The schema of a model's inputs and what was learned about them from the training window only.

    Parameters
    ----------
    task
        ``binary``, ``multiclass`` or ``regression``.
    mean, scale
        Of each numeric input; a missing value becomes the mean.
    indicators
        Numeric inputs that had missing values in training: each gets a 0/1 column of its own.
    vocabulary
        The categories of each categorical input; category i has index i + 1, see :data:`UNKNOWN`.
    labels
        The classes of a classification task as text, in the order of the network's outputs.
    target_mean, target_scale
        Of a regression target: the network learns the standardised one.
    """

    task: str
    mean: dict[str, float]
    scale: dict[str, float]
    indicators: list[str]
    vocabulary: dict[str, list[str]]
    labels: list[str]
    target_mean: float = 0.0
    target_scale: float = 1.0

    @classmethod
    def fit(
        cls, frame: pd.DataFrame, labels: pd.Series, task: str, numeric: Sequence[str], categorical: Sequence[str]
    ) -> Self:
        """Learn the encoding from the training rows."""
        import numpy as np

        values = {name: _numbers(frame[name]) for name in numeric}
        known = {name: column[np.isfinite(column)] for name, column in values.items()}
        target = _numbers(labels) if task == "regression" else np.zeros(1)
        return cls(
            task=task,
            mean={name: float(column.mean()) if column.size else 0.0 for name, column in known.items()},
            scale={name: (float(column.std()) if column.size else 0.0) or 1.0 for name, column in known.items()},
            indicators=[name for name in numeric if known[name].size < values[name].size],
            vocabulary={name: sorted(category_names(frame[name]).dropna().unique()) for name in categorical},
            labels=_class_names(labels, task),
            target_mean=float(target.mean()),
            target_scale=float(target.std()) or 1.0,
        )

    @property
    def schema(self) -> dict[str, Any]:
        """What a network is built from.

        ``numeric``: names of the standardised inputs, indicators included; ``categorical``: name to
        number of categories, the unknown one included; ``task``; ``outputs``: width of the last layer.
        """
        return {
            "numeric": [*self.mean, *(f"{name}_missing" for name in self.indicators)],
            "categorical": {name: len(values) + 1 for name, values in self.vocabulary.items()},
            "task": self.task,
            "outputs": len(self.labels) if self.task == "multiclass" else 1,
        }

    @property
    def columns(self) -> list[str]:
        """Names of the raw input columns."""
        return [*self.mean, *self.vocabulary]

    def encode(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return float32 (rows, numeric) and int64 (rows, categorical) inputs.

        Raises
        ------
        ValueError
            If a column is missing; the message names those that the model does not know, of which one may be misspelt.
        """
        import numpy as np
        import pandas as pd

        if missing := [name for name in self.columns if name not in frame.columns]:
            unknown = [str(name) for name in frame.columns if name not in self.columns]
            raise ValueError(f"missing inputs: {', '.join(missing)}; not an input: {', '.join(unknown) or 'none'}")
        raw = {name: _numbers(frame[name]) for name in self.mean}
        numeric = [
            np.clip(np.where(np.isfinite(column), (column - self.mean[name]) / self.scale[name], 0.0), -CLIP, CLIP)
            for name, column in raw.items()
        ]
        numeric += [(~np.isfinite(raw[name])).astype(float) for name in self.indicators]
        categorical = [
            pd.Index(values, dtype=object).get_indexer(category_names(frame[name])) + 1
            for name, values in self.vocabulary.items()
        ]
        return _columns(numeric, len(frame), np.float32), _columns(categorical, len(frame), np.int64)

    def encode_labels(self, labels: pd.Series) -> np.ndarray:
        """Return the training target, one value a row: 0/1, the class index, or the standardised value."""
        import numpy as np
        import pandas as pd

        if self.task == "multiclass":
            classes: np.ndarray = (
                pd.Index(self.labels, dtype=object).get_indexer(category_names(labels)).astype(np.int64)
            )
            return classes
        # a binary target has mean 0 and scale 1
        return ((_numbers(labels) - self.target_mean) / self.target_scale).astype(np.float32)

    def decode(self, outputs: np.ndarray) -> pd.DataFrame:
        """Return predictions from the network's raw outputs (rows, outputs).

        Binary: ``probability``; multiclass: a column of probabilities per class; regression: ``prediction``.
        """
        import numpy as np
        import pandas as pd

        outputs = outputs.astype(np.float64)
        if self.task == "binary":
            return pd.DataFrame({"probability": 1.0 / (1.0 + np.exp(-np.clip(outputs[:, 0], -500, 500)))})
        if self.task == "regression":
            return pd.DataFrame({"prediction": outputs[:, 0] * self.target_scale + self.target_mean})
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return pd.DataFrame(powers / powers.sum(axis=1, keepdims=True), columns=self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return the encoding as JSON values."""
        return asdict(self)


def load_network(file: str | Path, function: str, schema: Mapping[str, Any]) -> Any:
    """Return the torch module that ``function`` in ``file`` builds for a schema."""
    name = f"evergreen_network_{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]}"
    if name not in sys.modules:  # named by its content: every model may have a network.py, in many versions
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is no Python file")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    build: Callable[[Mapping[str, Any]], Any] = getattr(sys.modules[name], function)
    return build(schema)


def load(folder: Path) -> tuple[Encoder, Any]:
    """Return encoder and network from the files of a logged model: text, and weights as safetensors. No pickle."""
    import json

    from safetensors.torch import load_file

    described = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    encoder = Encoder(**described["encoder"])
    network = load_network(folder / "network.py", described["function"], encoder.schema)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    return encoder, network


def predict(network: Any, encoder: Encoder, frame: pd.DataFrame, batch_size: int = 65536) -> pd.DataFrame:
    """Score raw rows in batches; the result has the index of ``frame``."""
    import numpy as np
    import torch

    numeric, categorical = (torch.from_numpy(part) for part in encoder.encode(frame))
    network.eval()
    with torch.inference_mode():
        parts = [
            network(numeric[start : start + batch_size], categorical[start : start + batch_size]).numpy()
            for start in range(0, len(frame), batch_size)
        ]
    outputs = np.concatenate(parts) if parts else np.zeros((0, encoder.schema["outputs"]))
    return encoder.decode(outputs).set_index(frame.index)


def _numbers(column: pd.Series) -> np.ndarray:
    import numpy as np
    import pandas as pd

    values = pd.to_numeric(column).astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    return np.where(np.isfinite(values), values, np.nan)


def category_names(column: pd.Series) -> pd.Series:
    """Return categories as text: 5, 5.0 and "5" are one category, whatever type a missing value forced."""
    import pandas as pd

    column = column.convert_dtypes()  # whole floats become integers, objects what they hold
    if pd.api.types.is_float_dtype(column):
        column = column.map(lambda value: f"{value:.15g}", na_action="ignore")
    return column.astype("string").astype(object).where(column.notna(), None)


def _class_names(labels: pd.Series, task: str) -> list[str]:
    if task == "regression":
        return []
    return ["0", "1"] if task == "binary" else sorted(category_names(labels).dropna().unique())


def _columns(columns: Sequence[Any], rows: int, dtype: Any) -> np.ndarray:
    import numpy as np

    return np.stack(columns, axis=1).astype(dtype) if columns else np.zeros((rows, 0), dtype=dtype)
