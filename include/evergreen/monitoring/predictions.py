"""What the champion says of rows, as one more column to compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evergreen.contract import DataError
from evergreen.monitoring.baseline import PREDICTION
from evergreen.spec import ModelSpec, Task

if TYPE_CHECKING:
    import pandas as pd

    from evergreen.training.scorer import Scorer


def monitored(spec: ModelSpec) -> tuple[str, ...]:
    """Return the columns that are compared: those asked for and the prediction, unless its name is taken."""
    return spec.drift.columns if _taken(spec) else (*spec.drift.columns, PREDICTION)


def numeric(spec: ModelSpec) -> set[str]:
    """Return the columns that are compared as numbers: the prediction is one, unless it is a class."""
    as_number = spec.task is not Task.MULTICLASS and not _taken(spec)
    return {*spec.features.numeric, *([PREDICTION] if as_number else [])}


def _taken(spec: ModelSpec) -> bool:
    return PREDICTION in {*spec.features.inputs, *spec.features.keys, spec.features.examples.label}


def with_prediction(spec: ModelSpec, model: Scorer, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with what a model predicts for them: a number, or of a multiclass model the likeliest class.

    Raises
    ------
    DataError
        If the rows lack an input of the model.
    """
    if _taken(spec):
        return frame
    if missing := [name for name in model.inputs if name not in frame.columns]:
        raise DataError(
            f"{model.name} asks for inputs that the rows do not have: {', '.join(missing)}.",
            "Keep the inputs of the champion in model.yaml until it is replaced.",
        )
    said = model.predict(frame[list(model.inputs)])
    column = said.idxmax(axis=1) if spec.task is Task.MULTICLASS else said.iloc[:, 0]
    return frame.assign(**{PREDICTION: column.to_numpy()})
