"""What a model costs whoever serves it: how much there is to ship, and how long a request waits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING

from evergreen.judgement.evidence import Figure
from evergreen.spec import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

    from evergreen.training.scorer import Scorer

REQUESTS = 200
"""That each model is asked, one row each; the median of so many does not move with a few that had to wait."""
_WARM_UP = 20
"""Requests before those: the first ones also pay for what is loaded and compiled once."""


def costs_of(spec: ModelSpec, frame: pd.DataFrame, challenger: Scorer, champion: Scorer | None) -> Iterator[Figure]:
    """Yield the size and the latency that ``gate.rules`` ask for; nothing is measured where no rule asks.

    Parameters
    ----------
    spec, frame
        The model, and the rows of the evaluation window.
    challenger, champion
        What is measured, in the same process and, of the latency, in turns: whatever else this machine is doing at the
        time slows both down.
    """
    models = [challenger, *([champion] if champion else [])]
    for metric, measure, requests in (("size_mb", _sizes, 0), ("latency_ms", latencies, REQUESTS)):
        asked = sorted({rule.minimum_rows for rule in spec.gate.rules if rule.metric == metric})
        ours, *theirs = measure(models, frame) if asked else [None]
        for least in asked:
            against = theirs[0] if theirs else None
            yield Figure(metric=metric, minimum_rows=least, rows=requests, challenger=ours, champion=against)


def _sizes(models: Sequence[Scorer], _: pd.DataFrame) -> list[float | None]:
    return [model.size / 1e6 or None for model in models]


def latencies(models: Sequence[Scorer], frame: pd.DataFrame) -> list[float | None]:
    """Return the median time, in milliseconds, that each model needs to answer for one row."""
    step = max(1, len(frame) // REQUESTS)
    rows = [frame.iloc[[(number * step) % len(frame)]] for number in range(_WARM_UP + REQUESTS)]
    seconds: list[list[float]] = [[] for _ in models]
    for number, row in enumerate(rows):
        turns = list(zip(models, seconds, strict=True))
        for model, times in turns if number % 2 else reversed(turns):  # nobody is always the second
            known = row[list(model.inputs)]
            began = time.perf_counter()
            model.predict(known)
            times.append(time.perf_counter() - began)
    return [1000 * median(times[_WARM_UP:]) for times in seconds]
