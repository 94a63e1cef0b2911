"""Made-up windows for drift, and the cases that a check of it must get right."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from evergreen.catalog import load_model
from evergreen.monitoring.counting import count, frame_batches
from evergreen.monitoring.drift import DriftReport, compare
from evergreen.monitoring.learning import learn
from evergreen.spec import ModelSpec

REFERENCE_DAYS, WINDOW_DAYS = 90, 30
CASE_ROWS = 20_000
Column = Callable[[np.random.Generator, int], Any]


@cache
def spec_with(**drift: Any) -> ModelSpec:
    """Return a model with a rule of its own."""
    spec = load_model("flight_delay")
    return spec.model_copy(update={"drift": spec.drift.model_copy(update={"minimum_rows": 500, **drift})})


def days(first: str, number: int, rows: int) -> np.ndarray:
    """Return the day of each row, as many rows a day."""
    names = pd.date_range(first, periods=number).strftime("%Y-%m-%d").to_numpy()
    return np.sort(np.resize(names, rows))


def judged(reference: pd.DataFrame, current: pd.DataFrame, **drift: Any) -> DriftReport:
    """Return what the check finds of two frames: all their columns but the day."""
    spec = spec_with(**drift)
    columns = [name for name in reference.columns if name != "ds"]
    numbers = {name for name in columns if reference[name].dtype.kind in "fiub" or _decimal(reference[name])}
    baseline = learn(columns, numbers, frame_batches(reference, columns))
    return compare(spec, baseline, count(baseline.columns, frame_batches(current, columns)))


def _decimal(column: pd.Series) -> bool:
    return isinstance(column.iloc[0], Decimal | bool | np.bool_)


def frames(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a reference and a window with these columns."""
    rows = [len(next(iter(columns.values()))) for columns in (before, now)]
    return (
        pd.DataFrame({"ds": days("2024-01-01", REFERENCE_DAYS, rows[0]), **before}),
        pd.DataFrame({"ds": days("2024-05-01", WINDOW_DAYS, rows[1]), **now}),
    )


@dataclass(frozen=True)
class Case:
    """A column before and now, and whether it has drifted.

    Parameters
    ----------
    before, now
        The values.
    drift
        What is right.
    said
        What the verdict's sentence must say.
    """

    before: Any
    now: Any
    drift: bool
    said: str = ""


def cases() -> Iterator[tuple[str, Case]]:
    """Yield small inputs on which checks of drift go wrong without a word."""
    rng, rows = np.random.default_rng(0), CASE_ROWS
    plain, same, moved = rng.normal(size=rows), rng.normal(size=rows), rng.normal(3, 1, rows)
    yield "nothing moved", Case(plain, same, drift=False)
    yield "moved by three standard deviations", Case(plain, moved, drift=True)
    yield (
        "the same, and one row of 20,000 holds 1000",
        Case(plain, _with(moved, 1000.0), True, "far from all others: 1000"),
    )
    yield "the same, and one -9999 in the reference", Case(_with(plain, -9999.0), moved, True, "from all others: -9999")
    yield "nothing moved, one -9999 in the reference", Case(_with(plain, -9999.0), same, False, "all others: -9999")
    few = rng.integers(0, 5, rows).astype(float)
    yield "constant 1.0, then 1.0000001", Case(np.full(rows, 1.0), np.full(rows, 1.0000001), drift=False)
    yield "constant 1.0, then 2.0", Case(np.full(rows, 1.0), np.full(rows, 2.0), drift=True)
    yield "five values, last bits differ", Case(few, few * 1.0000001, drift=False)
    yield "values 0 and 10, then 5 as well", Case(few % 2 * 10, np.where(few == 4, 5.0, few % 2 * 10), drift=True)
    half = np.where(rng.random(rows) < 0.9, 0.0, rng.exponential(size=rows))
    yield "nine of ten rows 0, then 1e-9", Case(half, np.where(half == 0, 1e-9, half), drift=False)
    yield "Decimal, nothing moved", Case(_decimals(plain), _decimals(same), drift=False)
    yield "Decimal, moved", Case(_decimals(plain), _decimals(moved), drift=True)
    yield "bool, nothing moved", Case(rng.random(rows) < 0.3, rng.random(rows) < 0.3, drift=False)
    yield "bool, 30 % then 60 %", Case(rng.random(rows) < 0.3, rng.random(rows) < 0.6, drift=True)
    yield (
        "5,000 categories, nothing moved",
        Case(_texts(rng, 5000), _texts(rng, 5000), False, "each too rare to compare"),
    )
    ids = [f"{side}{row}" for side in "ab" for row in range(rows)]
    yield "an id", Case(ids[:rows], ids[rows:], False, "own value, like an id")
    four = rng.choice(list("abcd"), rows, p=[0.32, 0.32, 0.32, 0.04])
    three = rng.choice(list("abc"), rows)
    yield "a new category with 4 % of the rows", Case(three, four, True, "x: new value 'd', 4.")
    yield "a new category in one row", Case(three, np.where(np.arange(rows) == 7, "d", three), drift=False)
    holes = np.where(rng.random(rows) < 0.3, np.nan, same)
    yield "30 % missing, the rest as before", Case(plain, holes, True, "the share of missing values moved: x")
    yield "all missing", Case(plain, np.full(rows, np.nan), True, "the share of missing values moved: x")
    yield "infinite where it was missing", Case(holes, np.where(np.isnan(holes), np.inf, holes), drift=False)


def _with(values: np.ndarray, far: float) -> np.ndarray:
    return np.where(np.arange(len(values)) == 5, far, values)


def _decimals(values: np.ndarray) -> list[Decimal]:
    return [Decimal(f"{value:.2f}") for value in values]


def _texts(rng: np.random.Generator, levels: int) -> np.ndarray:
    return rng.integers(0, levels, CASE_ROWS).astype(str)


def category(levels: int, slope: float = 1.0) -> Column:
    """Return a category of so many levels, the first ones more frequent (Zipf)."""
    shares = 1 / np.arange(1, levels + 1) ** slope
    names = [f"level {number}" for number in range(levels)]
    return lambda rng, rows: pd.Categorical.from_codes(rng.choice(levels, rows, p=shares / shares.sum()), names)


POPULATION: Mapping[str, Column] = {
    "normal": lambda rng, rows: rng.normal(size=rows),
    "long tail": lambda rng, rows: rng.lognormal(size=rows),
    "mostly zero": lambda rng, rows: np.where(rng.random(rows) < 0.8, 0.0, rng.exponential(size=rows)),
    "a tenth missing": lambda rng, rows: np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
    **{f"{levels} categories": category(levels) for levels in (2, 5, 10, 25, 50, 100)},
    "100 equal categories": category(100, 0.0),
}
"""Columns of every kind that is compared."""


def draw(rng: np.random.Generator, rows: int, day_effect: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a reference and a window of one population: its days are shuffled between them.

    Parameters
    ----------
    rng, rows
        How to draw, and the rows of the window, or a few more; the reference has three times as many.
    day_effect
        By how many standard deviations a day's numbers lie off together, as its weather would make them.
    """
    every = REFERENCE_DAYS + WINDOW_DAYS
    total = -(-rows * every // (WINDOW_DAYS * every)) * every  # as many rows on every day
    day = np.resize(rng.permutation(every), total)
    columns = {name: column(rng, total) for name, column in POPULATION.items()}
    off = day_effect * rng.normal(size=day.max() + 1)[day]
    for name in ("normal", "a tenth missing"):
        columns[name] = columns[name] + off
    frame = pd.DataFrame(
        {"ds": pd.date_range("2024-01-01", periods=day.max() + 1).strftime("%Y-%m-%d")[day], **columns}
    )
    frame = frame.sort_values("ds", kind="stable")
    inside = day[frame.index] >= REFERENCE_DAYS
    return frame[~inside].reset_index(drop=True), frame[inside].reset_index(drop=True)


CHANGES: Mapping[str, Callable[[np.random.Generator, pd.DataFrame], dict[str, Any]]] = {
    "half a standard deviation": lambda rng, now: {"normal": now["normal"] + 0.5},
    "a new category at 5 %": lambda rng, now: {
        "10 categories": now["10 categories"].astype(object).where(rng.random(len(now)) >= 0.05, "new")
    },
    "20 % nulls": lambda rng, now: {"long tail": now["long tail"].where(rng.random(len(now)) >= 0.2)},
}
"""What must be found in one window, of any size."""
