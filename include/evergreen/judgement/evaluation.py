"""Scores champion and challenger on the same labelled rows, as a whole and by slice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from evergreen.contract import ConfigurationError, DataError
from evergreen.data.lake import PARTITION
from evergreen.judgement.evidence import SliceScore
from evergreen.judgement.metrics import Interval, Scored, improvement, scored
from evergreen.spec import ModelSpec
from evergreen.training.preparation import check_labels

if TYPE_CHECKING:
    import pandas as pd


def score(spec: ModelSpec, frame: pd.DataFrame, models: list[Any]) -> list[Scored]:
    """Return the predictions of loaded MLflow models beside the labels of a frame.

    Raises
    ------
    DataError
        If a column is missing, or a label is missing or no value of the task.
    """
    label = spec.features.examples.label
    needed = [label, *spec.features.numeric, *spec.features.categorical]
    if missing := [name for name in needed if name not in frame.columns]:
        raise DataError(f"the evaluation set of {spec.name} lacks the columns {', '.join(missing)}.")
    check_labels(spec, frame[label])
    return scored(spec.task, frame[label], [model.predict(_inputs(model, frame)) for model in models])


def _inputs(model: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns a model asks for: a champion may know fewer inputs than the spec names today."""
    from mlflow.types import DataType

    wanted = {column.name: column.type for column in model.metadata.get_input_schema().inputs}
    if missing := [name for name in wanted if name not in frame.columns]:
        raise DataError(
            f"a model asks for inputs the data set does not have: {', '.join(missing)}.",
            "Keep the inputs of the champion in model.yaml until it is replaced, or remove its alias.",
        )
    numeric = {name: "float64" for name, kind in wanted.items() if kind == DataType.double}
    return frame[list(wanted)].astype(numeric)


def compare(spec: ModelSpec, frame: pd.DataFrame, champion: Scored, challenger: Scored) -> Interval | None:
    """Return how much better the challenger is by the deciding metric, with its interval."""
    gate = spec.gate
    return improvement(
        champion,
        challenger,
        gate.metric,
        frame[PARTITION].astype("category").cat.codes.to_numpy(dtype="int64"),
        confidence=gate.confidence,
        resamples=gate.resamples,
        seed=spec.training.seed,
    )


def slice_scores(
    spec: ModelSpec, frame: pd.DataFrame, champion: Scored | None, challenger: Scored
) -> Iterator[SliceScore]:
    """Yield the deciding metric of both models on every value of every slice column.

    Raises
    ------
    ConfigurationError
        If a slice column is not in the data set.
    """
    from evergreen.training.encoder import texts

    for rule in spec.gate.slices:
        if rule.column not in frame.columns:
            raise ConfigurationError(
                f"{spec.folder / 'model.yaml'}: gate.slices: the data set has no column {rule.column!r}.",
                f"Use one of: {', '.join(frame.columns)}.",
            )
        values = texts(frame[rule.column]).fillna("missing")
        for value in sorted(values.unique()):
            rows = (values == value).to_numpy()
            yield SliceScore(
                column=rule.column,
                value=value,
                rows=int(rows.sum()),
                champion=champion.metrics(rows).get(spec.gate.metric) if champion else None,
                challenger=challenger.metrics(rows).get(spec.gate.metric),
            )
