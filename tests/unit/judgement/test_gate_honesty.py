"""The whole gate under equality: two equal models, four looks, days that depend on each other.

docs/decisions/interval.md has the full measurement; here is one world of it, with enough draws that what the gate did
before fails, and the rest where it takes minutes.
"""

from __future__ import annotations

import sys

import pytest

from evergreen.settings import PROJECT_ROOT
from evergreen.spec import Task

sys.path.insert(0, str(PROJECT_ROOT / "tests" / "benchmarks"))
from interval import TASKS, WINDOWS, World, false_promotions, gain_for, power

BEFORE = "days drawn, 95 %"
LIMIT = 0.05


def test_equal_models_are_rarely_promoted_in_four_looks() -> None:
    world = World(Task.REGRESSION, 30, rho=0.7, rows=30)
    found = false_promotions(("gate", BEFORE), "rmse", world, step=7, worlds=250)
    assert found["gate"] <= LIMIT
    assert found[BEFORE] > 3 * LIMIT  # the test can fail


def test_a_better_model_is_promoted() -> None:
    """A gate that always says no is honest, too."""
    world = World(Task.BINARY, 30, rho=0.0, gain=gain_for(0.03))
    assert power(("gate",), "auc", world, worlds=40)["gate"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.45, 0.7])
@pytest.mark.parametrize("metric", TASKS)
@pytest.mark.parametrize(("days", "unequal", "design"), WINDOWS, ids=str)
def test_the_gate_is_honest_in_every_world(
    metric: str, days: int, unequal: bool, design: tuple[str, int], rho: float
) -> None:
    """Within two standard errors of what 400 worlds can tell."""
    world = World(TASKS[metric], days, rho, unequal=unequal)
    found = false_promotions(("gate",), metric, world, design[1] or days, worlds=400)
    assert found["gate"] <= LIMIT + 2 * (LIMIT * (1 - LIMIT) / 400) ** 0.5
