"""How long Airflow needs to parse the DAG files, cold, with one model and with a hundred.

A fresh process a figure: interpreter and Airflow are up (as they are in the dag-processor, which forks), nothing of
ours is imported yet.
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

PROJECT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json, sys, time
from airflow.dag_processing.dagbag import DagBag
import airflow.providers.cncf.kubernetes.operators.pod  # preloaded in the dag-processor, see config/
began = time.perf_counter()
bag = DagBag(sys.argv[1], include_examples=False, load_op_links=False)
seconds = time.perf_counter() - began
assert not bag.import_errors, bag.import_errors
print(json.dumps({"seconds": seconds, "dags": len(bag.dags)}))
"""


def parse_once(models_dir: Path, home: Path) -> dict[str, float]:
    """Return seconds and number of DAGs of one parse of ``dags/`` in a process of its own."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "EVERGREEN_MODELS_DIR": str(models_dir),
    }
    command = [sys.executable, "-c", PROGRAM, str(PROJECT / "dags")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def copies(folder: Path, count: int) -> Path:
    """Write ``count`` models that differ in name only; returns their folder."""
    original = PROJECT / "include" / "models" / "flight_delay"
    for number in range(count):
        name = f"model_{number:03d}"
        shutil.copytree(original, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        spec = folder / name / "model.yaml"
        spec.write_text(spec.read_text().replace("name: flight_delay", f"name: {name}", 1))
    return folder


def measure(runs: int = 5) -> dict[str, float]:
    """Return the median seconds with one model, with a hundred, and milliseconds per further model."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        one, hundred = copies(root / "one", 1), copies(root / "hundred", 100)
        small = statistics.median(parse_once(one, root / "home")["seconds"] for _ in range(runs))
        large = statistics.median(parse_once(hundred, root / "home")["seconds"] for _ in range(runs))
    return {"one_model_s": small, "hundred_models_s": large, "per_further_model_ms": (large - small) / 99 * 1000}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
