"""Turns a training set into arrays, after checking that there is something to learn and something to learn it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from evergreen.contract import ConfigurationError, DataError, Window, is_stop
from evergreen.data.lake import PARTITION
from evergreen.spec import ModelSpec, Task
from evergreen.training.encoder import Encoder, load_network

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Prepared:
    """The training set as arrays, ready to be shared with the workers."""

    encoder: Encoder
    numeric: np.ndarray
    categorical: np.ndarray
    target: np.ndarray


def prepare(spec: ModelSpec, frame: pd.DataFrame) -> Prepared:
    """Learn the encoding from a training frame and encode it.

    Raises
    ------
    DataError
        If a column is missing, a label is missing or no value of the task, or there is nothing to learn.
    ConfigurationError
        If the network cannot be built for these inputs.
    """
    label = spec.features.examples.label
    inputs = [*spec.features.numeric, *spec.features.categorical]
    if missing := [name for name in [label, *inputs] if name not in frame.columns]:
        raise DataError(f"the training set of {spec.name} lacks the columns {', '.join(missing)}.")
    check_labels(spec, frame[label])
    encoder = Encoder.fit(frame, frame[label], spec.task, spec.features.numeric, spec.features.categorical)
    _check_classes(spec, encoder, frame[label])
    _check_network(spec, encoder, frame)
    numeric, categorical = encoder.encode(frame)
    return Prepared(encoder, numeric, categorical, encoder.encode_labels(frame[label]))


def window_of(frame: pd.DataFrame) -> Window:
    """Return the first and last partition of a data set."""
    return Window(start=date.fromisoformat(frame[PARTITION].min()), end=date.fromisoformat(frame[PARTITION].max()))


def check_labels(spec: ModelSpec, labels: pd.Series) -> None:
    """Refuse labels that are missing, or no value of the task.

    Raises
    ------
    DataError
        Naming the column and a wrong value.
    """
    import numpy as np
    import pandas as pd

    sql = spec.folder / spec.features.examples.sql
    where = f"the label {labels.name!r} of {spec.name}"
    if labels.isna().any():
        raise DataError(
            f"{where} is missing in {int(labels.isna().sum())} of {len(labels)} rows.",
            f"Leave unlabelled rows null in {sql}: the training set takes the labelled ones.",
        )
    if spec.task is Task.MULTICLASS:
        return
    numbers = pd.to_numeric(labels, errors="coerce").astype(float)
    wrong = ~np.isfinite(numbers) if spec.task is Task.REGRESSION else ~numbers.isin([0.0, 1.0])
    if wrong.any():
        kind = "a finite number" if spec.task is Task.REGRESSION else "0 or 1"
        raise DataError(
            f"{where} has a value that is not {kind}: {labels[wrong].tolist()[0]!r}.", f"Correct it in {sql}."
        )


def _check_classes(spec: ModelSpec, encoder: Encoder, labels: pd.Series) -> None:
    if spec.task is Task.REGRESSION:
        return
    if labels.nunique() < 2:
        raise DataError(
            f"the training set of {spec.name} has {labels.nunique()} class(es) of {labels.name!r}: nothing to learn.",
            "Widen windows.training_days, or check the label's SQL.",
        )
    if spec.task is Task.MULTICLASS and len(encoder.labels) > spec.training.classes:
        raise DataError(
            f"{labels.name!r} has {len(encoder.labels)} classes in the training set of {spec.name}, but "
            f"training.classes is {spec.training.classes}.",
            f"Correct training.classes in {spec.folder / 'model.yaml'}, or the label's SQL.",
        )


def _check_network(spec: ModelSpec, encoder: Encoder, frame: pd.DataFrame) -> None:
    import torch

    file, _, function = spec.training.network.partition(":")
    hint = (
        f"{function}(schema) in {spec.folder / file} returns a torch module; "
        "see evergreen.training.encoder.Encoder.schema."
    )
    if not (spec.folder / file).is_file():
        raise ConfigurationError(f"{spec.folder / 'model.yaml'}: training.network: there is no file {file!r}.", hint)
    try:
        network = load_network(spec.folder / file, function, encoder.schema).eval()
        numeric, categorical = (torch.from_numpy(part) for part in encoder.encode(frame.head(2)))
        shape = tuple(network(numeric, categorical).shape)
    except BaseException as error:  # whatever the model's own code raises is for its author
        if is_stop(error):
            raise
        raise ConfigurationError(f"{spec.folder / file}: {type(error).__name__}: {error}.", hint) from error
    expected = (min(2, len(frame)), encoder.schema["outputs"])
    if shape != expected:
        raise ConfigurationError(f"{spec.folder / file}: outputs of shape {shape}, expected {expected}.", hint)
