"""How easily a model changes its answer: inputs that go missing, and numbers that are a little off, one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from evergreen.judgement.evidence import Figure
from evergreen.judgement.figures import known
from evergreen.spec import FLIP_METRICS, ModelSpec, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from evergreen.training.scorer import Scorer

ROWS = 5000
"""Rows that are asked about, or a few more, evenly taken from the window: of so many a share is known to 1.4 points."""
NOISE = 0.01
"""Of a number's standard deviation on these rows: the spread of the noise that is added to it."""
NUDGE = 0.1
"""Of the same: how far one number of a row may go, up or down, to find another answer."""
SHIFT = 0.5
"""Of the same: how far one number is off in every row, up or down, as after a change of its source."""
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
    for metric, least in sorted(asked):
        sample = frame.iloc[:: max(1, len(frame) // max(ROWS, least))].reset_index(drop=True)
        ours, detail = _flip_rate(spec, metric, sample, challenger)
        theirs = _flip_rate(spec, metric, sample, champion)[0] if champion else math.nan
        yield Figure(
            metric=metric,
            minimum_rows=least,
            rows=len(sample),
            challenger=known(ours),
            champion=known(theirs),
            detail=detail,
        )


def _flip_rate(spec: ModelSpec, metric: str, frame: pd.DataFrame, model: Scorer) -> tuple[float, str]:
    """Return the share of rows whose answer is another one when inputs change, and the change that does it most.

    Of several changes the worst one counts; of nudges it is enough that one of them changes a row's answer.
    """
    import numpy as np

    rows = frame[list(model.inputs)]
    before = model.predict(rows)
    flipped: dict[str, np.ndarray] = {}
    for change, changed in _CHANGES[metric](rows, [name for name, number in model.inputs.items() if number]):
        found = _flipped(spec, frame, before, model.predict(changed))
        if found is None:
            return math.nan, change
        flipped[change] = found
    if not flipped:
        return 0.0, ""
    worst = max(flipped, key=lambda change: flipped[change].mean())
    counted = np.any([*flipped.values()], axis=0) if metric == "flip_rate_nudge" else flipped[worst]
    return float(counted.mean()), worst


def _taken_away(rows: pd.DataFrame, _: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows without each of their inputs."""
    for name in rows:
        yield f"without {name}", rows.assign(**{name: None})


def _with_noise(rows: pd.DataFrame, numbers: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows with noise in every number; it is always the same noise."""
    import numpy as np

    values = rows[numbers].astype("float64")
    noise = np.random.default_rng(0).standard_normal(values.shape)
    yield "", rows.assign(**(values + NOISE * values.std().fillna(0).to_numpy() * noise))


def _moved(distance: float, rows: pd.DataFrame, numbers: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the rows with each number higher and lower, by a part of its standard deviation, and within its bounds."""
    for name in numbers:
        values = rows[name].astype("float64")
        step = distance * values.std(ddof=0)
        for direction, by in (("higher", step), ("lower", -step)):
            yield f"{name} {direction}", rows.assign(**{name: (values + by).clip(values.min(), values.max())})


_CHANGES: dict[str, Callable[[pd.DataFrame, list[str]], Iterator[tuple[str, pd.DataFrame]]]] = {
    "flip_rate_missing": _taken_away,
    "flip_rate_noise": _with_noise,
    "flip_rate_nudge": partial(_moved, NUDGE),
    "flip_rate_shift": partial(_moved, SHIFT),
}


def _flipped(spec: ModelSpec, frame: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame) -> np.ndarray | None:
    """Return for each row whether its answer is another; None if a prediction is not finite."""
    import numpy as np

    said = [each.to_numpy(dtype=np.float64) for each in (before, after)]
    if not all(np.isfinite(each).all() for each in said):
        return None
    flipped: np.ndarray
    if spec.task is Task.MULTICLASS:
        flipped = said[0].argmax(axis=1) != said[1].argmax(axis=1)
    elif spec.task is Task.BINARY:
        flipped = (said[0][:, 0] > 0.5) != (said[1][:, 0] > 0.5)
    else:
        label = frame[spec.features.examples.label].to_numpy(dtype=np.float64)
        flipped = abs(said[1][:, 0] - said[0][:, 0]) > MOVED * label.std()
    return flipped
