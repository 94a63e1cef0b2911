"""How easily a model changes its answer: inputs that go missing one at a time, and numbers that are a little off."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from evergreen.judgement.evidence import Figure
from evergreen.judgement.figures import known
from evergreen.spec import FLIP_METRICS, ModelSpec, Task

if TYPE_CHECKING:
    import pandas as pd

    from evergreen.training.scorer import Scorer

ROWS = 5000
"""Rows that are asked about, or a few more, evenly taken from the window: of so many a share is known to 1.4 points."""
NUDGE = 0.01
"""Of a number's standard deviation on these rows: the spread of the noise that is added to it."""
MOVED = 0.1
"""Of the label's standard deviation on these rows: a regression that moves by more has changed its answer."""


def flips_of(spec: ModelSpec, frame: pd.DataFrame, challenger: Scorer, champion: Scorer | None) -> Iterator[Figure]:
    """Yield the flip rates that ``gate.rules`` ask for; rules that ask for the same share one.

    Parameters
    ----------
    spec, frame
        The model, and the rows of the evaluation window.
    challenger, champion
        What is asked; each is given the inputs that it knows.
    """
    asked = {(rule.metric, rule.minimum_rows) for rule in spec.gate.rules if rule.metric in FLIP_METRICS}
    rate = {"flip_rate_missing": _without_an_input, "flip_rate_noise": _with_noise}
    for metric, least in sorted(asked):
        sample = frame.iloc[:: max(1, len(frame) // max(ROWS, least))].reset_index(drop=True)
        ours, detail = rate[metric](spec, sample, challenger)
        theirs = rate[metric](spec, sample, champion)[0] if champion else math.nan
        yield Figure(
            metric=metric,
            minimum_rows=least,
            rows=len(sample),
            challenger=known(ours),
            champion=known(theirs),
            detail=detail,
        )


def _without_an_input(spec: ModelSpec, frame: pd.DataFrame, model: Scorer) -> tuple[float, str]:
    """Return the largest share of answers that change when one input is missing everywhere, and that input."""
    rows = frame[list(model.inputs)]
    before = model.predict(rows)
    rates = {name: _changed(spec, frame, before, model.predict(rows.assign(**{name: None}))) for name in model.inputs}
    worst = max(rates, key=lambda name: rates[name] if math.isfinite(rates[name]) else math.inf)
    return rates[worst], f"without {worst}"


def _with_noise(spec: ModelSpec, frame: pd.DataFrame, model: Scorer) -> tuple[float, str]:
    """Return the share of answers that change when noise is added to every number; it is always the same noise."""
    import numpy as np

    rows, generator = frame[list(model.inputs)], np.random.default_rng(0)
    numbers = rows[[name for name, number in model.inputs.items() if number]].astype("float64")
    nudged = numbers + NUDGE * numbers.std().fillna(0).to_numpy() * generator.standard_normal(numbers.shape)
    return _changed(spec, frame, model.predict(rows), model.predict(rows.assign(**nudged))), ""


def _changed(spec: ModelSpec, frame: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame) -> float:
    """Return the share of rows whose answer is another; nan if a prediction is not finite."""
    import numpy as np

    said = [each.to_numpy(dtype=np.float64) for each in (before, after)]
    if not all(np.isfinite(each).all() for each in said):
        return math.nan
    if spec.task is Task.MULTICLASS:
        changed = said[0].argmax(axis=1) != said[1].argmax(axis=1)
    elif spec.task is Task.BINARY:
        changed = (said[0] > 0.5) != (said[1] > 0.5)
    else:
        label = frame[spec.features.examples.label].to_numpy(dtype=np.float64)
        changed = abs(said[1] - said[0]) > MOVED * label.std()
    return float(changed.mean())
