"""How often the gate's interval holds the true improvement: whole days drawn, against single rows.

Run it with ``.venv/bin/python tests/benchmarks/bootstrap.py``; docs/decisions/bootstrap.md has its output. The worlds
are made up, so that the truth is known, after the flights of 2013: 30 days, and a late rate that differs from day to
day by 0.8 in log odds. Both models see the same rows; the challenger has learned more of what makes a day bad than
the champion, and what it knows is itself right on one day and wrong on another.
"""

from __future__ import annotations

import argparse

import numpy as np

from evergreen.judgement.metrics import Scored, improvement
from evergreen.spec import Task

DAYS = 30
DAY_SPREAD = 0.8
"""Standard deviation of a day's log odds; 2013's daily late rates have 0.83."""


def world(generator: np.random.Generator, days: int, rows: int) -> tuple[Scored, Scored, np.ndarray]:
    """Return champion and challenger on made-up days, and each row's day."""
    day = np.repeat(np.arange(days), rows)
    weather = generator.normal(0, DAY_SPREAD, days)[day]
    surprise = generator.normal(0, 0.7, days)[day]
    known = generator.normal(size=day.size)
    truth = (generator.random(day.size) < _share(-1.2 + known + weather)).astype(float)
    champion = Scored(Task.BINARY, truth, _share(-1.2 + known))
    challenger = Scored(Task.BINARY, truth, _share(-1.2 + known + 0.5 * weather + surprise))
    return champion, challenger, day


def _share(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


def coverage(metric: str, unit: str, worlds: int, rows: int, confidence: float = 0.9, resamples: int = 200) -> float:
    """Return the share of worlds whose interval holds the true improvement.

    Parameters
    ----------
    metric
        The deciding metric.
    unit
        What is drawn: ``partition`` or ``row``.
    worlds, rows
        How many worlds, and rows a day.
    confidence, resamples
        As the gate has them.
    """
    champion, challenger, day = world(np.random.default_rng(1), 3000, 100)
    everything = improvement(champion, challenger, metric, day, confidence=confidence, resamples=1, seed=0)
    assert everything is not None
    held = 0
    for number in range(worlds):
        champion, challenger, day = world(np.random.default_rng(100 + number), DAYS, rows)
        units = day if unit == "partition" else np.arange(day.size)
        found = improvement(
            champion, challenger, metric, units, confidence=confidence, resamples=resamples, seed=number
        )
        assert found is not None
        held += found.low <= everything.improvement <= found.high
    return held / worlds


def main() -> None:
    """Print the table of docs/decisions/bootstrap.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--rows", type=int, default=300)
    options = parser.parse_args()
    for metric in ("auc", "log_loss"):
        for unit in ("partition", "row"):
            share = coverage(metric, unit, options.worlds, options.rows)
            print(f"{metric:10} {unit:10} {share:.0%} of {options.worlds} intervals of 90 % hold the truth", flush=True)


if __name__ == "__main__":
    main()
