"""How often drift is said of one population, what is found, how fast, and the cases beside Evidently's answers.

Drift of the inputs, and concept drift: of what the label has to do with them.

The tables are those of docs/decisions/drift.md.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from concept_kit import World, compared, concept_spec
from drift_kit import CHANGES, POPULATION, Case, cases, draw, frames, judged, spec_with
from evergreen.environment import add_constants
from evergreen.monitoring.counting import count, frame_batches, parquet_batches
from evergreen.monitoring.drift import compare
from evergreen.monitoring.learning import learn
from evergreen.spec import Task

DRAWS = 300
SIZES = (500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
DAY_EFFECTS = (0.0, 0.5)
_TASKS = tuple(Task)
_POWER_DRAWS, _POWER_SIZES = 20, (500, 2000, 10_000, 50_000)
MANY, LARGE = 10_000_000, 1_000_000
NUMBERS, CATEGORIES = [f"number{at}" for at in range(10)], ["category0", "category1"]


def measure(say: Callable[[str], None] = print) -> dict[str, Any]:
    """Print every table; returns the figures."""
    return {
        "false_alarms": false_alarms(say),
        "power": power(say),
        "concept_false_alarms": concept_false_alarms(say),
        "concept_power": concept_power(say),
        "speed": speed(say),
        "cases": beside_evidently(say),
    }


def false_alarms(say: Callable[[str], None], draws: int = DRAWS) -> dict[str, float]:
    """Return the share of draws of one population in which any column of eleven is called drifted."""
    say(f"checks that say drift of one population, {draws} draws a row, 11 columns")
    found = {}
    with ProcessPoolExecutor() as pool:
        for effect in DAY_EFFECTS:
            seeds = range(draws)
            alarms = list(pool.map(partial(_alarm, effect), seeds))
            by_size = Counter(size for size, drifted in alarms if drifted)
            found[f"day effect {effect}"] = sum(by_size.values()) / draws
            say(f"{effect:10.1f} {sum(by_size.values()) / draws:8.2%}  by rows {dict(sorted(by_size.items()))}")
    return found


def _alarm(effect: float, seed: int) -> tuple[int, list[str]]:
    rows = SIZES[seed % len(SIZES)]
    return rows, judged(*draw(np.random.default_rng([seed, int(10 * effect)]), rows, effect)).drifted


def power(say: Callable[[str], None], draws: int = _POWER_DRAWS) -> dict[str, float]:
    """Return the share of draws in which a change is found in the one column that has it, in one window."""
    say(f"changes found in one window, {draws} draws each; rows {_POWER_SIZES}")
    return _shares_found(say, product(DAY_EFFECTS, CHANGES), _finds, draws)


def _shares_found(
    say: Callable[[str], None], cases: Iterable[tuple[float, str]], finds: Callable[..., bool], draws: int
) -> dict[str, float]:
    """Return in which share of draws ``finds(effect, name, rows, seed)`` holds; a line printed for each case."""
    shares = {}
    with ProcessPoolExecutor() as pool:
        for effect, name in cases:
            line = f"{name:<28}{effect:5.1f}"
            for rows in _POWER_SIZES:
                share = float(np.mean(list(pool.map(partial(finds, effect, name, rows), range(draws)))))
                shares[f"{name}, {rows} rows, day effect {effect}"] = share
                line += f"{share:8.0%}"
            say(line)
    return shares


def _finds(effect: float, change: str, rows: int, seed: int) -> bool:
    rng = np.random.default_rng([seed, rows, int(10 * effect)])
    reference, current = draw(rng, rows, effect)
    moved = CHANGES[change](rng, current)
    return set(moved) <= set(judged(reference, current.assign(**moved)).drifted)


def concept_false_alarms(say: Callable[[str], None], draws: int = DRAWS) -> dict[str, float]:
    """Return the share of draws in which a relation is said to have changed that has not, though base rates swing."""
    say(f"checks that say a relation has changed, of one relation and another base rate, {draws} draws a row")
    found = {}
    with ProcessPoolExecutor() as pool:
        for effect in DAY_EFFECTS:
            alarms = list(pool.map(partial(_concept_alarm, effect), range(draws)))
            share, told = (sum(map(bool, said)) / draws for said in zip(*alarms, strict=True))
            found |= {f"day effect {effect}": share, f"label moved, day effect {effect}": told}
            said = [changed for changed, _ in alarms if changed]
            say(f"{effect:10.1f} {share:8.2%}  {said}; the label itself has moved in {told:.0%}")
    return found


def _concept_alarm(effect: float, seed: int) -> tuple[list[str], bool]:
    rng, rows, task = np.random.default_rng([seed, int(10 * effect)]), SIZES[seed % len(SIZES)], _TASKS[seed % 3]
    base = rng.normal(scale=0.7)
    frames = draw(rng, rows, effect)
    before, now = (World(task, base=level, day_effect=effect) for level in (0.0, base))
    found = compared(
        before.labelled(rng, frames[0]), now.labelled(rng, frames[1]), concept_spec(task, tuple(POPULATION))
    )
    return found.changed, found.label_drifted


def concept_power(say: Callable[[str], None], draws: int = _POWER_DRAWS) -> dict[str, float]:
    """Return the share of draws in which the one relation that has turned is found in one window and named first."""
    say(f"turned relations found and named in one window, {draws} draws each; rows {_POWER_SIZES}")
    return _shares_found(say, ((effect, task) for task in _TASKS for effect in DAY_EFFECTS), _names, draws)


def _names(effect: float, task: Task, rows: int, seed: int) -> bool:
    rng = np.random.default_rng([seed, rows, int(10 * effect)])
    reference, current = draw(rng, rows, effect)
    before, now = World(task, day_effect=effect), World(task, day_effect=effect, turned=("normal",))
    spec = concept_spec(task, tuple(POPULATION))
    return compared(before.labelled(rng, reference), now.labelled(rng, current), spec).changed[:1] == ["normal"]


def _rows(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    day = np.sort(rng.integers(0, 30, rows))
    frame = {name: rng.normal(size=rows) for name in NUMBERS}
    frame |= {name: rng.choice([f"level {at}" for at in range(100)], rows) for name in CATEGORIES}
    return pd.DataFrame({"ds": pd.date_range("2024-01-01", periods=30).strftime("%Y-%m-%d")[day], **frame})


def speed(say: Callable[[str], None]) -> dict[str, float]:
    """Return seconds and memory of a check of 10 million rows, and seconds beside Evidently's preset on a million."""
    figures = {}
    with TemporaryDirectory() as folder:
        files = {size: Path(folder) / f"{size}.parquet" for size in (LARGE, MANY)}
        for size, path in files.items():
            with pq.ParquetWriter(path, pa.Schema.from_pandas(_rows(10, 0), preserve_index=False)) as writer:
                for seed in range(size // LARGE):
                    writer.write_table(pa.Table.from_pandas(_rows(LARGE, seed), preserve_index=False))
        for size, path in files.items():
            answer = subprocess.run(
                [sys.executable, __file__, str(path), str(files[LARGE])], check=True, capture_output=True, text=True
            )
            figures |= {f"{name}, {size:,} rows": value for name, value in json.loads(answer.stdout).items()}
    figures |= _on_a_million()
    for name, value in figures.items():
        say(f"{name:<60}{value:10.2f}")
    return figures


def check_file(current: Path, reference: Path) -> dict[str, float]:
    """Check a Parquet file against another; in a process of its own, for its memory."""
    columns = [*NUMBERS, *CATEGORIES]
    start = time.perf_counter()
    baseline = learn(columns, set(NUMBERS), parquet_batches(reference, columns))
    learned = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu = time.process_time()
    counted = count(baseline.columns, parquet_batches(current, columns))
    done, cpu = time.perf_counter(), time.process_time() - cpu
    compare(spec_with(), baseline, counted)
    return {
        "learning a million rows of reference, s": learned - start,
        "counting, s": done - learned,
        "counting, CPU s": cpu,
        "limits and verdict, s": time.perf_counter() - done,
        "memory before counting, MiB": before / 1024,
        "most memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _on_a_million() -> dict[str, float]:
    add_constants()
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    columns = [*NUMBERS, *CATEGORIES]
    before, now = _rows(LARGE, 1), _rows(LARGE, 2)
    definition = DataDefinition(numerical_columns=NUMBERS, categorical_columns=CATEGORIES)
    start = time.perf_counter()
    datasets = [Dataset.from_pandas(frame[columns], definition) for frame in (now, before)]
    Report([DataDriftPreset(method="psi")]).run(*datasets).dict()
    theirs = time.perf_counter() - start
    baseline = learn(columns, set(NUMBERS), frame_batches(before, columns))
    start = time.perf_counter()
    compare(spec_with(), baseline, count(baseline.columns, frame_batches(now, columns)))
    ours = time.perf_counter() - start
    return {"Evidently's preset, 1 M against 1 M rows, s": theirs, "ours, s": ours, "ratio": theirs / ours}


def beside_evidently(say: Callable[[str], None]) -> dict[str, str]:
    """Return for each case what is right, what we say and what Evidently's index says at 0.2."""
    found = {}
    for name, case in cases():
        ours = judged(*frames({"x": case.before}, {"x": case.now}))
        right = "drift" if case.drift else "stable"
        found[name] = f"right {right}, ours {ours.verdict}, Evidently {_evidently(case)}"
        say(f"{name:<48}{right:<8}{ours.verdict:<8}{_evidently(case)}")
    return found


def _evidently(case: Case) -> str:
    from evidently.legacy.calculations.stattests.psi import _psi
    from evidently.legacy.core import ColumnType

    before, now = pd.Series(case.before), pd.Series(case.now)
    kind = ColumnType.Categorical if isinstance(before.iloc[0], str) else ColumnType.Numerical
    if before.dtype == bool:
        kind = ColumnType.Categorical
    try:
        with warnings.catch_warnings(action="ignore"):
            index, _ = _psi(before.dropna(), now.replace([np.inf, -np.inf], np.nan).dropna(), kind, 0.2)
    except Exception as error:  # whatever it raises is its answer
        return type(error).__name__
    return f"{'drift' if index >= 0.2 else 'stable'} ({index:.3f})"


if __name__ == "__main__":
    print(json.dumps(check_file(Path(sys.argv[1]), Path(sys.argv[2]))))
