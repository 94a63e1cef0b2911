"""Made-up labelled windows: what the inputs have to do with the label is known, and can be turned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from drift_kit import spec_with
from evergreen.monitoring.concept import compare_concept
from evergreen.monitoring.learning import learn_reference
from evergreen.monitoring.proposal import ConceptDrift
from evergreen.monitoring.relations import with_concept
from evergreen.spec import ModelSpec, Task

LABEL = "late"
CLASSES = ("early", "on time", "late", "lost")
COLUMNS = ("normal", "long tail", "mostly zero", "a tenth missing", "5 categories")
"""Of the population: what the label has to do with, and what not."""


@dataclass(frozen=True)
class World:
    """How a label comes about.

    Parameters
    ----------
    task
        Of which the label is.
    turned
        Columns whose effect has the other sign.
    base
        By how much every row is likelier to be late, in logits, or later, in standard deviations of the noise.
    day_effect
        How much days differ in that.
    rare
        How much rarer the label is than in three rows of ten, in logits.
    """

    task: Task = Task.BINARY
    turned: tuple[str, ...] = ()
    base: float = 0.0
    day_effect: float = 0.0
    rare: float = 0.0

    def labelled(self, rng: np.random.Generator, frame: pd.DataFrame) -> pd.DataFrame:
        """Return rows with a label."""
        day = frame["ds"].astype("category").cat.codes
        score = self.score(frame) + self.base + self.day_effect * rng.normal(size=day.max() + 1)[day]
        return frame.assign(**{LABEL: self._label(rng, score)})

    def score(self, frame: pd.DataFrame) -> np.ndarray:
        """(rows,) what the inputs say of the label."""
        effects = {
            "normal": 0.7 * frame["normal"],
            "long tail": 0.4 * np.log(frame["long tail"]),
            "5 categories": 0.6 * (frame["5 categories"].cat.codes % 2 - 0.5),
            "50 categories": 0.3 * (frame["50 categories"].cat.codes % 3 - 1),
        }
        signed = [-effect if name in self.turned else effect for name, effect in effects.items()]
        score: np.ndarray = np.sum([effect.to_numpy(dtype=float) for effect in signed], axis=0)
        return score

    def _label(self, rng: np.random.Generator, score: np.ndarray) -> Any:
        if self.task is Task.REGRESSION:
            return score + rng.normal(size=score.size)
        if self.task is Task.MULTICLASS:
            ranks = np.arange(len(CLASSES))
            luck = rng.gumbel(size=(score.size, len(CLASSES)))
            return np.array(CLASSES)[(score[:, None] * ranks + luck).argmax(axis=1)]
        return (rng.random(score.size) < 1 / (1 + np.exp(1.0 + self.rare - score))).astype(float)


@cache
def concept_spec(task: Task = Task.BINARY, columns: tuple[str, ...] = COLUMNS) -> ModelSpec:
    """Return a model with some columns of the population for inputs."""
    spec = spec_with(columns=columns)
    categories = tuple(name for name in columns if "categories" in name)
    numbers = tuple(name for name in columns if name not in categories)
    features = spec.features.model_copy(update={"numeric": numbers, "categorical": categories})
    return spec.model_copy(update={"task": task, "features": features})


def compared(reference: pd.DataFrame, current: pd.DataFrame, spec: ModelSpec | None = None) -> ConceptDrift:
    """Return what the check finds of two labelled frames."""
    spec = spec or concept_spec()
    return compare_concept(spec, with_concept(spec, learn_reference(spec, reference), reference), current)
