"""How good each variant is in what it answered itself, as far as it is known what became of its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evergreen.data.served import outputs_of
from evergreen.judgement.decline import MeasuredMetric, measured_metric
from evergreen.judgement.metrics import Scored, scored
from evergreen.spec import ModelSpec, Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Variant:
    """A version in one role.

    Parameters
    ----------
    name, version
        ``champion`` or ``challenger``, and its number.
    answers
        How many it gave; those in the shadow of the champion, which no caller saw, count too.
    rows
        Those of which it is known what became of them.
    scores
        What it said in these beside the truth.
    metrics, measured
        Its metrics, and the deciding one with its error.
    """

    name: str
    version: str
    answers: int
    rows: pd.DataFrame
    scores: Scored
    metrics: dict[str, float]
    measured: MeasuredMetric


def variants_of(spec: ModelSpec, rows: pd.DataFrame) -> list[Variant]:
    """Return every version that has answered with a known outcome, in each role it had, the champion first.

    Parameters
    ----------
    spec
        The model.
    rows
        Answers with their outcomes, as ``served_with_outcomes`` has them.
    """
    found = []
    for (name, version), given in rows.groupby(["variant", "version"]):
        known = given[_usable(spec, given["outcome"])].reset_index(drop=True)
        if known.empty:
            continue
        outcome = known["outcome"] if spec.task is Task.MULTICLASS else known["outcome"].astype(float)
        (scores,) = scored(spec.task, outcome, [outputs_of(spec, known)])
        metrics = scores.metrics()
        measured = measured_metric(spec, known, scores, metrics)
        found.append(Variant(str(name), str(version), len(given), known, scores, metrics, measured))
    return sorted(found, key=lambda one: one.name != "champion")


def _usable(spec: ModelSpec, outcomes: pd.Series) -> pd.Series:
    """Tell which outcomes are one of the task: of a binary model 0 or 1."""
    return outcomes.isin([0.0, 1.0]) if spec.task is Task.BINARY else outcomes.notna()
