"""Tests that are looked at every minute: how often they cry wolf, and what they find how soon, by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evergreen.judgement.sequential import (
    bounds_of_rate,
    chance_of_block,
    distance,
    width_of_distribution,
    width_of_mean,
)

ALPHA = 0.05
RUNS = 1000
TOO_MANY = 0.05 + 3 * math.sqrt(0.05 * 0.95 / RUNS)
"""Of so many runs no more may cry wolf: three standard errors of the simulation above alpha."""
LOOKS = np.unique(np.geomspace(5, 3000, 60).astype(int))


def alarms(rate: float, *, clustered: bool = False) -> float:
    """Return in which share of A/A runs a challenger seems worse at any look, of one margin: none."""
    rng, found = np.random.default_rng(7), 0
    for _ in range(RUNS):
        shape = (2, int(LOOKS[-1]))
        of = rng.beta(0.2, 0.2 * (1 / rate - 1), shape) if clustered else np.full(shape, rate)
        hits = (rng.random(shape) < of).cumsum(axis=1)
        for rows in LOOKS:
            champion, challenger = (int(one[rows - 1]) for one in hits)
            if challenger <= champion:
                continue
            low = bounds_of_rate(challenger, int(rows), ALPHA / 2)[0]
            if low > bounds_of_rate(champion, int(rows), ALPHA / 2)[1]:
                found += 1
                break
    return found / RUNS


@pytest.mark.parametrize("rate", [0.0005, 0.01, 0.3])
def test_a_rate_that_is_the_same_cries_wolf_no_more_often_than_allowed(rate: float) -> None:
    assert alarms(rate) <= TOO_MANY


def test_nor_do_entities_of_very_different_rates() -> None:
    assert alarms(0.05, clustered=True) <= TOO_MANY


def test_a_test_that_is_made_for_one_look_would_be_noticed() -> None:
    """The same simulation, with the usual test of two shares at every look, cries wolf far too often."""
    rng, found = np.random.default_rng(7), 0
    for _ in range(300):
        hits = (rng.random((2, int(LOOKS[-1]))) < 0.3).cumsum(axis=1)[:, LOOKS - 1] / LOOKS
        pooled = hits.mean(axis=0)
        z = (hits[1] - hits[0]) / np.sqrt(np.maximum(2 * pooled * (1 - pooled) / LOOKS, 1e-9))
        found += bool((z > 1.645).any())
    assert found / 300 > 2 * ALPHA


def test_no_hit_leaves_a_doubt_and_no_row_leaves_all() -> None:
    assert bounds_of_rate(0, 0, ALPHA) == (0.0, 1.0)
    low, high = bounds_of_rate(0, 300, ALPHA)
    assert low == 0
    assert 0.01 < high < 0.05
    assert bounds_of_rate(300, 300, ALPHA)[1] == 1


def test_a_true_rate_stays_within_its_bounds_at_all_times() -> None:
    rng, left = np.random.default_rng(3), 0
    for _ in range(RUNS):
        hits = (rng.random(int(LOOKS[-1])) < 0.002).cumsum()
        bounds = (bounds_of_rate(int(hits[rows - 1]), int(rows), ALPHA) for rows in LOOKS)
        left += any(not low <= 0.002 <= high for low, high in bounds)
    assert left / RUNS <= TOO_MANY


def test_a_distribution_that_is_the_same_cries_wolf_no_more_often_than_allowed() -> None:
    rng, found = np.random.default_rng(5), 0
    for _ in range(RUNS):
        champion, challenger = rng.normal(size=(2, 1500))
        apart = (
            distance(champion[:rows], challenger[:rows]) - 2 * width_of_distribution(rows, ALPHA / 2)
            for rows in (10, 30, 100, 300, 700, 1500)
        )
        found += any(low > 0 for low in apart)
    assert found / RUNS <= TOO_MANY


def test_a_mean_stays_within_its_asymptotic_bounds() -> None:
    rng, left = np.random.default_rng(9), 0
    looks = np.unique(np.geomspace(100, 5000, 80).astype(int))
    for _ in range(RUNS):
        values = rng.exponential(size=5000)
        sums, squares = values.cumsum()[looks - 1], (values**2).cumsum()[looks - 1]
        means = sums / looks
        errors = np.sqrt((squares / looks - means**2) / looks)
        widths = [width_of_mean(float(error), int(rows), ALPHA) for error, rows in zip(errors, looks, strict=True)]
        left += bool((np.abs(means - 1) > widths).any())
    assert left / RUNS <= TOO_MANY
    assert width_of_mean(0.01, 99, ALPHA) == math.inf


def test_the_chances_of_all_blocks_are_one() -> None:
    assert sum(chance_of_block(number) for number in range(100_000)) == pytest.approx(1, abs=1e-4)


def test_a_width_shrinks_with_the_rows_and_grows_with_the_confidence() -> None:
    assert width_of_distribution(0, ALPHA) == 1
    assert width_of_distribution(10_000, ALPHA) < width_of_distribution(100, ALPHA) < 1
    assert width_of_distribution(100, 0.001) > width_of_distribution(100, ALPHA)
