"""How long Airflow needs to parse the DAG files, cold, with one model and with a hundred.

As the DAG processor parses: a process that has preloaded what ``config/airflow_local_settings.py`` names, forks for a
file. Beside it, the same number of bare KubernetesPodOperators in bare DAGs: what Airflow takes for itself. CPU time,
so that what else the machine does counts little; parsing waits for nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from evergreen.pipelines import PIPELINES

PROJECT = Path(__file__).resolve().parents[2]
MODELS = 100
TASKS = {pipeline: len(steps) for pipeline, steps in PIPELINES.items()} | {"monitor": 3, "retrain": 3}
TASKS |= {"deliver": 2, "release": 2}
"""What a model's DAGs have: their steps, and the tasks that only Airflow has. A test compares them with the DAGs."""

COLD = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
began = time.process_time()
bag = DagBag(sys.argv[1], load_op_links=False)
seconds = time.process_time() - began
assert not bag.import_errors, bag.import_errors
print(json.dumps({"parse": seconds, "dags": len(bag.dags)}))
"""
"""Nothing of ours is imported yet, nor the pod operator."""

FORKED = """
import gc, json, os, sys, time
sys.argv.insert(1, "dag-processor")
import airflow.settings
airflow.settings.initialize()  # loads airflow_local_settings.py, which preloads
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

def parse(path):
    began = time.process_time()
    bag = DagBag(path, load_op_links=False)
    parsed = time.process_time()
    assert not bag.import_errors, bag.import_errors
    for dag in bag.dags.values():
        DagSerialization.to_dict(dag)
    return {"parse": parsed - began, "serialize": time.process_time() - parsed, "dags": len(bag.dags)}

gc.freeze()  # as the DAG processor does
total = {"parse": 0.0, "serialize": 0.0, "dags": 0}
for path in sys.argv[2:]:
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(parse(path)).encode())
        os._exit(0)
    os.close(writer)
    for name, value in json.loads(os.fdopen(reader).read()).items():
        total[name] += value
print(json.dumps(total))
"""

BARE = """
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG, chain

TASKS = {tasks!r}
for model in range({models}):
    for pipeline, tasks in TASKS.items():
        with DAG(f"model_{{model}}.{{pipeline}}", schedule=None):
            chain(*(KubernetesPodOperator(task_id=f"task_{{task}}", image="image:1") for task in range(tasks)))
"""


def measure(runs: int = 5) -> dict[str, float]:
    """Return CPU seconds cold with one model, and CPU milliseconds per further model, ours and bare."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        one, hundred = copies(root / "one", 1), copies(root / "hundred", MODELS)
        home = airflow_home(root / "home")
        files = sorted(str(path) for path in (PROJECT / "dags").glob("*.py"))
        cold = _median(runs, COLD, home, one, [str(PROJECT / "dags")])
        small = _median(runs, FORKED, home, one, files)
        large = _median(runs, FORKED, home, hundred, files)
        bare = [_median(runs, FORKED, home, one, [str(bare_dags(root, count))]) for count in (1, MODELS)]
    assert large["dags"] - small["dags"] == bare[1]["dags"] - bare[0]["dags"] == len(TASKS) * (MODELS - 1)
    ours, floor = _each(small, large), _each(*bare)
    return {
        "cold_one_model_s": cold["parse"],
        "further_model_ms": ours["parse"],
        "bare_further_model_ms": floor["parse"],
        "parse_ratio": ours["parse"] / floor["parse"],
        "serialize_further_model_ms": ours["serialize"],
        "bare_serialize_further_model_ms": floor["serialize"],
    }


def copies(folder: Path, count: int) -> Path:
    """Write ``count`` models that differ in name only; returns their folder."""
    original = PROJECT / "include" / "models" / "flight_delay"
    for number in range(count):
        name = f"model_{number:03d}"
        shutil.copytree(original, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        spec = folder / name / "model.yaml"
        spec.write_text(spec.read_text().replace("name: flight_delay", f"name: {name}", 1))
    return folder


def bare_dags(folder: Path, models: int) -> Path:
    """Write a file of as many DAGs and tasks as ours, with nothing in them."""
    path = folder / f"bare_{models}.py"
    path.write_text(BARE.format(tasks=TASKS, models=models))
    return path


def airflow_home(home: Path) -> Path:
    """Make an AIRFLOW_HOME whose settings module is the project's."""
    home.mkdir()
    (home / "config").symlink_to(PROJECT / "config")
    return home


def _median(runs: int, program: str, home: Path, models_dir: Path, arguments: list[str]) -> dict[str, float]:
    found = [_run(program, home, models_dir, arguments) for _ in range(runs)]
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def _run(program: str, home: Path, models_dir: Path, arguments: list[str]) -> dict[str, float]:
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "EVERGREEN_MODELS_DIR": str(models_dir),
    }
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _each(small: dict[str, float], large: dict[str, float]) -> dict[str, float]:
    return {name: (large[name] - small[name]) / (MODELS - 1) * 1000 for name in ("parse", "serialize")}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
