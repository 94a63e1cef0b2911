"""How often the gate promotes a challenger that is no better, and how often one that is: docs/decisions/interval.md.

In made-up worlds everything is known. Days come one after the other, each like the one before (an AR(1) process: 2013's
daily late rate has a lag-1 autocorrelation of 0.45). Two models see the same rows; each has its own opinion of the day
and its own error, and now one and now the other has the better days. They are equal by symmetry: what one is, the
other might be. A challenger with a gain makes a smaller error.

A champion is judged four times, in windows that follow each other or that slide by a week. A false promotion is a yes
to equal models at any of the four.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cache, partial

import numpy as np
import pandas as pd
from scipy import stats

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.judgement.evaluation import evaluation_of
from evergreen.judgement.evidence import Candidate
from evergreen.judgement.interval import improvement
from evergreen.judgement.metrics import Scored
from evergreen.judgement.rules import decide
from evergreen.spec import METRICS, ModelSpec, Task

LOOKS, RISK = 4, 0.0125
DAY_SPREAD = 0.8
"""Standard deviation of a day's log odds; 2013's daily late rates have 0.83."""
FAVOUR, OPINION = 0.25, 0.15
TASKS = {"auc": Task.BINARY, "log_loss": Task.BINARY, "rmse": Task.REGRESSION}


@dataclass(frozen=True)
class World:
    """Days that were never seen, and what two models say of them.

    Parameters
    ----------
    task
        Binary, or regression.
    days, rows
        How many, and rows a day on average.
    rho
        The lag-1 autocorrelation of everything that belongs to a day.
    unequal
        Whether some days have many times the rows of others.
    gain
        By how much the challenger's error is smaller than the champion's.
    """

    task: Task
    days: int
    rho: float
    rows: int = 100
    unequal: bool = False
    gain: float = 0.0

    def draw(self, seed: int) -> tuple[Scored, Scored, np.ndarray]:
        """Return champion, challenger and the day of each row."""
        generator = np.random.default_rng(seed)
        sizes = generator.lognormal(-0.32, 0.8, self.days) if self.unequal else np.ones(self.days)
        day = np.repeat(np.arange(self.days), np.maximum(5, (self.rows * sizes).astype(int)))
        weather, favour, one, other = (ar1(generator, self.days, self.rho)[day] for _ in range(4))
        known, shared = generator.normal(size=(2, day.size))
        truth = known + DAY_SPREAD * weather - 1.2
        if self.task is Task.BINARY:
            truth = (generator.random(day.size) < _share(truth)).astype(float)
        else:
            truth = truth + generator.normal(size=day.size)
        models = []
        for sign, opinion, gain in ((1, one, 0.0), (-1, other, self.gain)):
            error = (1 - gain) * np.exp(sign * FAVOUR * favour) * (0.8 * shared + 0.6 * generator.normal(size=day.size))
            said = known - 1.2 + 0.4 * weather + OPINION * opinion + 0.7 * error
            models.append(Scored(self.task, truth, _share(said) if self.task is Task.BINARY else said))
        return models[0], models[1], day


def ar1(generator: np.random.Generator, days: int, rho: float) -> np.ndarray:
    """Return a stationary series of mean 0 and variance 1, each value like the one before."""
    series = generator.normal(size=days)
    for day in range(1, days):
        series[day] = rho * series[day - 1] + np.sqrt(1 - rho**2) * series[day]
    return series


def _share(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-odds))


@cache
def gain_for(auc: float) -> float:
    """Return the gain that makes a challenger's AUC better by so much, in a world too large for chance."""
    equal = World(Task.BINARY, 4000, 0.0).draw(0)[1].metrics()["auc"]
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        found = World(Task.BINARY, 4000, 0.0, gain=middle).draw(0)[1].metrics()["auc"] - equal
        low, high = (middle, high) if found < auc else (low, middle)
    return high


Method = Callable[[np.ndarray, float, float], bool]
"""Whether the shares of the days (their mean is the improvement) promote, at a risk."""


def days_drawn(shares: np.ndarray, point: float, risk: float) -> bool:
    """What the gate did before: whole days drawn as if they were independent, and a percentile."""
    drawn = np.random.default_rng(0).integers(0, len(shares), (500, len(shares)))
    return bool(np.quantile(point + shares[drawn].mean(axis=1), risk) > 0)


def blocks_drawn(shares: np.ndarray, point: float, risk: float) -> bool:
    """Blocks of days that follow each other, as long as the autocorrelation asks for, and a percentile."""
    drawn = _blocks(shares)
    return bool(np.quantile(point + shares[drawn].mean(axis=1), risk) > 0)


def blocks_studentised(shares: np.ndarray, point: float, risk: float) -> bool:
    """The same blocks, each draw divided by its own standard error over blocks."""
    drawn, length = shares[_blocks(shares)], _block_length(shares)

    def error(series: np.ndarray) -> np.ndarray:
        count = series.shape[-1] // length
        means = series[..., : count * length].reshape(*series.shape[:-1], count, length).mean(axis=-1)
        spread: np.ndarray = means.std(axis=-1, ddof=1) / np.sqrt(count)
        return spread

    ratios = drawn.mean(axis=1) / np.maximum(error(drawn), 1e-12)
    return bool(point - np.quantile(ratios, 1 - risk) * float(error(shares)) > 0)


def _block_length(shares: np.ndarray) -> int:
    """Return the length for an AR(1) series (Carlstein 1986), at most a third of the days."""
    centred = shares - shares.mean()
    rho = float(np.clip((centred[1:] @ centred[:-1]) / (centred @ centred), 0, 0.9))
    length = (2 * rho / (1 - rho**2)) ** (2 / 3) * len(shares) ** (1 / 3)
    return int(np.clip(round(length), 1, len(shares) // 3))


def _blocks(shares: np.ndarray) -> np.ndarray:
    count, length = len(shares), _block_length(shares)
    starts = np.random.default_rng(0).integers(0, count, (500, -(-count // length)))
    days: np.ndarray = (starts[:, :, None] + np.arange(length)).reshape(500, -1)[:, :count] % count
    return days


def student(shares: np.ndarray, point: float, risk: float) -> bool:
    """Student's t over the days as if they were independent."""
    count = len(shares)
    return bool(point > stats.t.ppf(1 - risk, count - 1) * shares.std(ddof=1) / np.sqrt(count))


def cosines(shares: np.ndarray, point: float, risk: float, waves: int = 4) -> bool:
    """The long waves alone say how far the mean is off (Lazarus, Lewis, Stock & Watson 2018)."""
    count = len(shares)
    phase = np.pi * np.outer(np.arange(1, waves + 1), (np.arange(count) + 0.5) / count)
    heights = np.sqrt(2 / count) * np.cos(phase) @ shares
    return bool(point > stats.t.ppf(1 - risk, waves) * np.sqrt((heights**2).mean() / count))


METHODS: dict[str, tuple[Method, float]] = {
    "days drawn, 95 %": (days_drawn, 0.025),
    "days drawn": (days_drawn, RISK),
    "Student's t over days": (student, RISK),
    "blocks drawn": (blocks_drawn, RISK),
    "blocks, studentised": (blocks_studentised, RISK),
    "cosines": (cosines, RISK),
}
"""What else was tried, each with the risk of one look."""


@cache
def spec_for(metric: str) -> ModelSpec:
    """Return a model that decides by a metric and by nothing else, with the gate as it is by default."""
    spec = load_model("flight_delay")
    gate = spec.gate.model_copy(
        update={
            "metric": metric,
            "direction": METRICS[metric][1],
            "limits": {},
            "required": (),
            "slices": (),
            "rule": "confidence",
            "minimum_improvement": 0.0,
        }
    )
    windows = spec.windows.model_copy(update={"minimum_evaluation_rows": 1})
    return spec.model_copy(update={"task": TASKS[metric], "gate": gate, "windows": windows})


def gate_promotes(metric: str, champion: Scored, challenger: Scored, day: np.ndarray) -> bool:
    """Return what the whole gate says of two models on some rows."""
    first = date(2024, 1, 1)
    names = np.array([str(first + timedelta(days=int(number))) for number in range(day.max() + 1)])
    learned = Window(start=first - timedelta(days=90), end=first - timedelta(days=1))
    both = [
        (Candidate(run_id=name, training=learned, metrics={metric: 0.0}), model)
        for name, model in (("challenger", challenger), ("champion", champion))
    ]
    frame = pd.DataFrame({"ds": names[day]})
    evaluation = evaluation_of(spec_for(metric), frame, "made up", both[0], both[1], lambda: frame)
    return decide(evaluation, spec_for(metric)).passed


def promotes(methods: Sequence[str], metric: str, champion: Scored, challenger: Scored, day: np.ndarray) -> set[str]:
    """Return the methods that say yes."""
    said = {"gate"} if "gate" in methods and gate_promotes(metric, champion, challenger, day) else set()
    if others := [name for name in methods if name in METHODS]:
        better = improvement(champion, challenger, metric, day)
        said |= {name for name in others if better and METHODS[name][0](better.shares, better.point, METHODS[name][1])}
    return said


def looks(world: World, days: int, step: int, seed: int) -> Iterator[tuple[Scored, Scored, np.ndarray]]:
    """Yield four windows of a world, each a step after the last."""
    champion, challenger, day = replace(world, days=days + (LOOKS - 1) * step).draw(seed)
    for start in range(0, LOOKS * step, step):
        rows = (day >= start) & (day < start + days)
        yield champion.select(rows), challenger.select(rows), day[rows]


def false_promotions(methods: Sequence[str], metric: str, world: World, step: int, worlds: int) -> dict[str, float]:
    """Return for each method the share of worlds in which any of four looks promotes one of two equal models."""
    wrong: Counter[str] = Counter()
    for seed in range(worlds):
        said = (promotes(methods, metric, *look) for look in looks(world, world.days, step, seed))
        wrong.update(set[str]().union(*said))
    return {name: wrong[name] / worlds for name in methods}


def power(methods: Sequence[str], metric: str, world: World, worlds: int) -> dict[str, float]:
    """Return for each method the share of worlds in which one look promotes."""
    right: Counter[str] = Counter()
    for seed in range(worlds):
        right.update(promotes(methods, metric, *world.draw(seed)))
    return {name: right[name] / worlds for name in methods}


SLIDING, IN_TURN = ("sliding by a week", 7), ("one after the other", 0)
"""How far apart four looks are, in days; 0: by the length of the window."""
WINDOWS = (
    *((days, False, SLIDING) for days in (30, 20, 14, 10)),
    *((days, True, SLIDING) for days in (30, 10)),
    *((days, False, IN_TURN) for days in (30, 10)),
)
RHOS = (0.0, 0.45, 0.7)


def measure(say: Callable[[str], None] = print, worlds: int = 300) -> dict[str, float]:
    """Print the tables of docs/decisions/interval.md; returns every share."""
    found: dict[str, float] = {}

    def rows(title: str, made: World, share: Callable[[World], dict[str, float]]) -> None:
        columns = [share(replace(made, rho=rho)) for rho in RHOS]
        for method in columns[0]:
            values = [column[method] for column in columns]
            found.update({f"{method}, {title}, rho {rho}": value for rho, value in zip(RHOS, values, strict=True)})
            say(f"{method + ', ' + title:<66}" + "".join(f"{value:8.1%}" for value in values))

    everything = ("gate", *METHODS)
    say(f"false promotions in any of {LOOKS} looks, {worlds} worlds; rho {', '.join(map(str, RHOS))}")
    for metric, task in TASKS.items():
        for days, unequal, (design, step) in WINDOWS:
            world, plain = World(task, days, 0.0, unequal=unequal), (days, unequal, step) == (30, False, 7)
            title = f"{metric}, {days}{' unequal' if unequal else ''} days, {design}"
            methods = everything if plain else ("gate",)
            rows(title, world, partial(_false, methods, metric, step or days, worlds))
    say(f"promotions of a challenger with a better AUC, one look, {worlds} worlds")
    for days in (30, 20, 14, 10):
        for auc in (0.01, 0.02, 0.03):
            world = World(Task.BINARY, days, 0.0, gain=gain_for(auc))
            methods = everything if days == 30 else ("gate",)
            rows(f"AUC better by {auc}, {days} days", world, partial(_right, methods, worlds))
    return found


def _false(methods: Sequence[str], metric: str, step: int, worlds: int, world: World) -> dict[str, float]:
    return false_promotions(methods, metric, world, step, worlds)


def _right(methods: Sequence[str], worlds: int, world: World) -> dict[str, float]:
    return power(methods, "auc", world, worlds)
