"""When a champion is called worse: by noise seldom, and soon once it has broken, though the break itself is noisy."""

from __future__ import annotations

import math
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.judgement.decline import MeasuredMetric, drop_limit, measured_metric
from evergreen.judgement.metrics import Scored
from evergreen.spec import ModelSpec, Task

WORLDS, THEN, ROWS = 1000, 30, 2


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    """A regression whose error is measured, and that is called worse by noise."""
    found = load_model("flight_delay")
    gate = found.gate.model_copy(update={"metric": "mae"})
    retraining = found.retraining.model_copy(update={"performance_drop": "noise"})
    return found.model_copy(update={"task": Task.REGRESSION, "gate": gate, "retraining": retraining})


def measured(spec: ModelSpec, misses: np.ndarray) -> MeasuredMetric:
    """Return the metric of days on which a model was wrong by so much, in every row alike."""
    days = [str(date(2024, 1, 1) + timedelta(days=day)) for day in range(len(misses))]
    frame = pd.DataFrame({"ds": np.repeat(days, ROWS)})
    scores = Scored(Task.REGRESSION, np.zeros(len(frame)), np.repeat(misses, ROWS))
    return measured_metric(spec, frame, scores, scores.metrics())


def correlated(generator: np.random.Generator, days: int, rho: float) -> np.ndarray:
    """Return how wrong a model is, day by day: 10 on average, by 1 more or less, one day like the day before it."""
    noise = generator.normal(size=days + 20)
    for day in range(1, days + 20):
        noise[day] = rho * noise[day - 1] + math.sqrt(1 - rho**2) * noise[day]
    return 10 + noise[20:]


def called_worse(spec: ModelSpec, days: int, rho: float, broken: int = 0, by: float = 0.0) -> float:
    """Return the share of worlds in which a champion is called worse that errs by so much more on its last days."""
    generator, count = np.random.default_rng([days, int(10 * rho)]), 0
    for _ in range(WORLDS):
        then, now = (measured(spec, correlated(generator, length, rho)) for length in (THEN, days))
        if broken:
            worse = correlated(generator, days, rho)
            worse[-broken:] += by
            now = measured(spec, worse)
        limit = drop_limit(spec, then.error, now)
        assert limit is not None
        assert now.value is not None
        assert then.value is not None
        count += now.value - then.value > limit
    return count / WORLDS


@pytest.mark.parametrize("days", [7, 14, 30])
@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_a_champion_as_good_as_ever_is_seldom_called_worse(spec: ModelSpec, days: int, rho: float) -> None:
    assert called_worse(spec, days, rho) <= 0.025


@pytest.mark.parametrize(("days", "broken", "least"), [(7, 4, 0.85), (14, 7, 0.95), (30, 14, 0.95), (30, 7, 0.4)])
def test_a_break_does_not_excuse_itself_by_the_spread_it_makes(
    spec: ModelSpec, days: int, broken: int, least: float
) -> None:
    """Four times the days' spread: half of a window of it is beyond doubt, a quarter of it is found as often as not."""
    assert called_worse(spec, days, 0.0, broken, by=4.0) >= least


def test_a_window_that_is_wholly_broken_is_called_worse_though_its_days_are_alike(spec: ModelSpec) -> None:
    """Seven days that get worse and worse seem to be worth two: their own spread alone would let anything pass."""
    then, now = (measured(spec, days) for days in (10 + np.tile([-1.0, 1.0], 15), np.linspace(20.0, 30.0, 7)))
    assert now.independent == 2
    limit = drop_limit(spec, then.error, now)
    assert limit is not None
    assert limit < 3


def test_a_number_is_the_limit_itself_and_without_errors_there_is_none(spec: ModelSpec) -> None:
    now = measured(spec, np.full(10, 3.0))
    fixed = spec.retraining.model_copy(update={"performance_drop": 0.5})
    assert drop_limit(spec.model_copy(update={"retraining": fixed}), None, now) == 0.5
    assert drop_limit(spec, None, now) is None
    assert drop_limit(spec, 0.1, measured(spec, np.full(3, 3.0))) is None, "three days tell no error"
    assert measured(spec, np.full(3, 3.0)).interval is None


def test_a_champion_that_never_missed_when_promoted_is_judged_by_the_days_now(spec: ModelSpec) -> None:
    now = measured(spec, 10 + np.tile([-1.0, 1.0], 5))
    limit = drop_limit(spec, 0.0, now)
    assert limit is not None
    assert now.error is not None
    assert limit > 2 * now.error > 0


def test_an_interval_of_few_days_that_are_alike_is_not_as_wide_as_the_world(spec: ModelSpec) -> None:
    """They seem to be worth two, of which Student's t would make thirteen standard errors."""
    now = measured(spec, np.linspace(20.0, 30.0, 7))
    assert now.interval is not None
    value, low, high = now.interval
    assert now.error is not None
    assert (high - low) / 2 == pytest.approx(2.57 * now.error, rel=0.01)
    assert low < value < high
