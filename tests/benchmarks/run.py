"""``make bench``: measures what docs/performance.md reports, and writes it to .evergreen/bench.json.

Every figure that is a claim is a ratio to the same work done without Airflow, in the same run on the same machine.
``make bench BENCH="--through=2013-04"`` for a shorter replay; ``BENCH="--only=parse"`` for one part.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT / "tests"), str(PROJECT / "tests" / "benchmarks")]

import drift  # noqa: E402
import interval  # noqa: E402
import parse  # noqa: E402
import policy  # noqa: E402
import predict_bench  # noqa: E402
import psutil  # noqa: E402
import ray_settings  # noqa: E402
import serving  # noqa: E402
import waiting  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from evergreen.contract import Manifest  # noqa: E402
from evergreen_airflow.kubelet.warm_client import socket_path  # noqa: E402
from evergreen_airflow.rest_api import TaskRun  # noqa: E402
from installation import Installation, installed  # noqa: E402

PARTS = ("parse", "start", "ray", "loop", "waiting", "roundtrip", "interval", "drift", "policy", "serving", "predict")
STARTS = 9
LIGHT = ("gate", "guard", "publish", "promote", "register")
"""Steps that do little: for them the way from the task's start to the step's counts most."""


def main() -> int:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--through", help="last month of the replay; default: 2013-06, of the policies 2013-12")
    parser.add_argument("--model", default="flight_delay", help="whose months the policies replay")
    parser.add_argument("--seeds", type=int, default=3, help="with how many seeds they do")
    parser.add_argument("--only", choices=PARTS, help="one part only")
    arguments = parser.parse_args()
    out = Console()
    figures: dict[str, Any] = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
    if arguments.only in {None, "parse"}:
        out.print("parsing the DAG files, cold ...")
        figures["parse"] = parse.measure()
    if arguments.only in {None, "start"}:
        out.print("starting a light step ...")
        figures["start"] = step_start()
    if arguments.only in {None, "ray"}:
        figures["ray"] = ray_settings.measure(out.print)
    if arguments.only in {None, "loop"}:
        figures["loop"] = replay(arguments.through or "2013-06", out)
    if arguments.only == "waiting":  # six minutes, and of interest to clusters alone
        figures |= waiting.measure()
    if arguments.only == "roundtrip":
        import roundtrip  # it imports Airflow

        figures |= roundtrip.measure()
    # how often the gate is wrong; ten million rows; a server under load
    alone = {"interval": interval, "predict": predict_bench, "serving": serving}
    if arguments.only in alone:
        figures[arguments.only] = alone[arguments.only].measure(out.print)
    if arguments.only == "drift":
        figures |= drift.measure(out.print)
    if arguments.only == "policy":  # nor is this: whether to retrain at all
        through = arguments.through or "2013-12"
        figures["policy"] = policy.installed_measure(arguments.model, through, arguments.seeds)
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
        orchestrated, busy = _loop(scheduled, *loop)
        orchestrated_rows = _decisions(scheduled)
        steps = _steps(scheduled)
        tasks = list(_tasks(scheduled, steps))
    with installed() as plain:
        out.print("replaying the same as plain function calls ...")
        in_process, busy_plain = _loop(plain, *loop, "--in-process")
        assert _decisions(plain) == orchestrated_rows, "the two replays differ: the ratio would mean nothing"
        plain_steps = _steps(plain)
    gaps = list(scheduling_gaps(tasks))
    return {
        "through": through,
        "orchestrated_s": orchestrated,
        "in_process_s": in_process,
        "ratio": orchestrated / in_process,
        "orchestrated_cpu_s": busy,
        "in_process_cpu_s": busy_plain,
        "tasks": len(tasks),
        "between_tasks_s": sum(gaps),
        "median_gap_s": statistics.median(gaps),
        **_inside(tasks, steps),
        "steps": _by_step(steps, plain_steps),
        "decisions": orchestrated_rows,
    }


def _loop(installation: Installation, *arguments: str) -> tuple[float, float]:
    """Run a loop; returns its seconds, and the CPU seconds that it and the services took."""
    while not socket_path(installation.state).exists():  # the last thing that starting services do
        time.sleep(0.1)
    began, busy = time.perf_counter(), _busy(installation)
    installation.run(*arguments, timeout=3600)
    return time.perf_counter() - began, _busy(installation) - busy


def _busy(installation: Installation) -> float:
    """Return the CPU seconds so far of an installation's services, and of all that this process has waited for."""
    supervisor = psutil.Process(json.loads((installation.state / "run" / "status.json").read_text())["pid"])
    taken = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    for process in (supervisor, *supervisor.children(recursive=True)):
        with suppress(psutil.Error):
            taken += sum(process.cpu_times()[:4])  # with its children's, as far as they have ended
    return taken


def _decisions(installation: Installation) -> list[tuple[str, str]]:
    summary = json.loads((installation.state / "loop" / "summary.json").read_text())
    return [(row["period"], row["decision"]) for row in summary["rows"]]


def _tasks(installation: Installation, steps: Iterable[Manifest]) -> Iterator[dict[str, Any]]:
    """Yield the tasks of the runs that these steps were of, as Airflow recorded them."""
    program = (
        "import json, sys; from evergreen_laptop.embedded_airflow import connect; api = connect();"
        "tasks = [task for run in json.loads(sys.argv[1]) for task in api.tasks(*run)];"
        "print('[', ','.join(task.model_dump_json() for task in tasks), ']')"
    )
    runs = sorted({(step.run.dag_id, step.run.run_id) for step in steps})
    command = [sys.executable, "-c", program, json.dumps(runs)]
    done = subprocess.run(command, env=installation.environment, capture_output=True, text=True, check=True)
    for task in map(TaskRun.model_validate, json.loads(done.stdout)):
        if task.state == "success" and task.start_date and task.end_date:
            yield {
                "run": (task.dag_id, task.dag_run_id),
                "task": task.task_id,
                "start": task.start_date.timestamp(),
                "end": task.end_date.timestamp(),
            }


def _steps(installation: Installation) -> list[Manifest]:
    """Return the manifests a loop left."""
    found = (installation.state / "artifacts" / "runs").rglob("result.json")
    return [Manifest.model_validate_json(path.read_text()) for path in found]


def _inside(tasks: Iterable[dict[str, Any]], steps: Iterable[Manifest]) -> dict[str, float]:
    """Return where the time inside tasks goes: before the step begins, the step, and after it."""
    manifests = {((step.run.dag_id, step.run.run_id), step.run.task_id): step for step in steps}
    before, work, after, light = [], [], [], []
    for task in tasks:
        step = manifests.get((task["run"], task["task"]))
        if step is None:
            continue  # a sensor, or a marker: no step
        began, ended = step.started.timestamp(), step.finished.timestamp()
        before.append(began - task["start"])
        work.append(ended - began)
        after.append(task["end"] - ended)
        if step.step in LIGHT:
            light.append(before[-1])
    return {
        "inside_before_steps_s": sum(before),
        "inside_steps_s": sum(work),
        "inside_after_steps_s": sum(after),
        "light_step_works_after_s": statistics.median(light),
    }


def _by_step(orchestrated: Iterable[Manifest], plain: Iterable[Manifest]) -> dict[str, str]:
    """Return seconds and number of each step: as tasks, and as function calls."""

    def seconds(manifests: Iterable[Manifest], name: str) -> list[float]:
        return [(one.finished - one.started).total_seconds() for one in manifests if one.step == name]

    orchestrated, plain = list(orchestrated), list(plain)
    table = {}
    for name in sorted({one.step for one in orchestrated}):
        tasks, calls = seconds(orchestrated, name), seconds(plain, name)
        table[name] = f"{sum(tasks):.1f} s in {len(tasks)} tasks, {sum(calls):.1f} s in {len(calls)} calls"
    return table


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
            for inner, item in value.items() if isinstance(value, dict) else [("", value)]:
                shown = f"{item:.3f}" if isinstance(item, float) else str(item)
                table.add_row(" ".join(filter(None, (part, name, inner))), shown)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
