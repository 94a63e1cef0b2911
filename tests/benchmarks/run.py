"""``make bench``: measures what docs/performance.md reports, and writes it to .evergreen/bench.json.

Every figure that is a claim is a ratio to the same work done without Airflow, in the same run on the same machine.
``make bench BENCH="--through=2013-04"`` for a shorter replay; ``--only=parse`` for one part.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT / "tests"), str(PROJECT / "tests" / "benchmarks")]

import parse  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from installation import Installation, installed  # noqa: E402

STARTS = 9


def main() -> int:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--through", default="2013-06", help="last month of the replay")
    parser.add_argument("--only", choices=("parse", "start", "loop"), help="one part only")
    arguments = parser.parse_args()
    out = Console()
    figures: dict[str, Any] = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    if arguments.only in {None, "parse"}:
        out.print("parsing the DAG files, cold ...")
        figures["parse"] = parse.measure()
    if arguments.only in {None, "start"}:
        out.print("starting a light step ...")
        figures["start"] = step_start()
    if arguments.only in {None, "loop"}:
        figures["loop"] = replay(arguments.through, out)
    path = PROJECT / ".evergreen" / "bench.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
    out.print(_table(figures))
    out.print(f"stored in {path.relative_to(PROJECT)}")
    return 0


def step_start() -> dict[str, float]:
    """Return the median seconds a light step's process needs before its function is called (a warm file cache).

    The step is ``gate``, which needs no library of its own: what is timed is the interpreter and the imports, beside
    the same for the bare libraries that the contract stands on.
    """
    program = ["-c", "import evergreen.cli, evergreen.runner, evergreen.steps.gate"]
    ours = [_seconds([sys.executable, *program]) for _ in range(STARTS)]
    bare = [_seconds([sys.executable, "-c", "import pydantic, typer, yaml"]) for _ in range(STARTS)]
    return {"light_step_s": statistics.median(ours), "bare_libraries_s": statistics.median(bare)}


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def replay(through: str, out: Console) -> dict[str, Any]:
    """Replay the same season through the scheduler and as plain function calls, each from nothing."""
    loop = ("loop", f"--through={through}")
    with installed() as scheduled:
        out.print(f"replaying through {through} with the scheduler ...")
        orchestrated = _loop(scheduled, *loop)
        tasks = list(_tasks(scheduled))
        orchestrated_rows = _decisions(scheduled)
    with installed() as plain:
        out.print("replaying the same as plain function calls ...")
        in_process = _loop(plain, *loop, "--in-process")
        assert _decisions(plain) == orchestrated_rows, "the two replays differ: the ratio would mean nothing"
    work = [task["end"] - task["start"] for task in tasks]
    gaps = list(scheduling_gaps(tasks))
    return {
        "through": through,
        "orchestrated_s": orchestrated,
        "in_process_s": in_process,
        "ratio": orchestrated / in_process,
        "tasks": len(tasks),
        "inside_tasks_s": sum(work),
        "between_tasks_s": sum(gaps),
        "median_gap_s": statistics.median(gaps),
        "decisions": orchestrated_rows,
    }


def _loop(installation: Installation, *arguments: str) -> float:
    began = time.perf_counter()
    installation.run(*arguments, timeout=3600)
    return time.perf_counter() - began


def _decisions(installation: Installation) -> list[tuple[str, str]]:
    summary = json.loads((installation.state / "loop" / "summary.json").read_text())
    return [(row["period"], row["decision"]) for row in summary["rows"]]


def _tasks(installation: Installation) -> Iterator[dict[str, Any]]:
    """Yield the tasks that ran, as Airflow recorded them."""
    program = (
        "import json; from evergreen.local.access import airflow_api; api = airflow_api();"
        "print(json.dumps(api._checked('GET', '/dags/~/dagRuns/~/taskInstances', params={'limit': 1000})))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=installation.environment, capture_output=True, text=True, check=True)
    for task in json.loads(done.stdout)["task_instances"]:
        if task["state"] == "success":
            yield {
                "run": (task["dag_id"], task["dag_run_id"]),
                "task": task["task_id"],
                "start": datetime.fromisoformat(task["start_date"]).timestamp(),
                "end": datetime.fromisoformat(task["end_date"]).timestamp(),
            }


def scheduling_gaps(tasks: list[dict[str, Any]]) -> Iterator[float]:
    """Yield the seconds from the last end of a task to the start of the next one of its run; checks may be parallel."""
    runs: dict[Any, list[dict[str, Any]]] = {}
    for task in tasks:
        runs.setdefault(task["run"], []).append(task)
    for run in runs.values():
        for task in run:
            ended = [other["end"] for other in run if other["end"] <= task["start"]]
            if ended:
                yield task["start"] - max(ended)


def _table(figures: dict[str, Any]) -> Table:
    table = Table("figure", "value", title="Evergreen, measured")
    for part, values in figures.items():
        for name, value in values.items() if isinstance(values, dict) else [("", values)]:
            shown = f"{value:.3f}" if isinstance(value, float) else str(value)
            table.add_row(f"{part} {name}".strip(), shown)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
