"""What each setting of the private Ray saves: a small training with all of them, and without one at a time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
REPEATS = 3
WITHOUT = (
    "RAY_prestart_worker_first_driver",
    "RAY_TRAIN_METRICS_ENABLED",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S",
    "our trainer",
)
"""The settings that are there for speed; the others keep Ray on loopback and closed to strangers."""

PROGRAM = """
import sys, time
from pathlib import Path

without, folder = sys.argv[1], Path(sys.argv[2])
from lifecycle_kit import training_rows, write_model
from evergreen.catalog import load_model
from evergreen import environment
from evergreen.training import ray_training

if without == "our trainer":

    def trainer():
        from ray.train.torch import TorchTrainer

        return TorchTrainer

    ray_training.trainer_without_cleaner = trainer
elif without:
    del environment.PRIVATE_RAY[without]
spec = load_model(write_model(folder / "models", "binary", workers=2))
rows = training_rows("binary")  # torch is imported; Ray must not be, it would not see its settings

began = time.perf_counter()
ray_training.train(spec, rows, "checkpoints", "run")
print(time.perf_counter() - began)
"""


def measure(say: Callable[[str], None] = print) -> dict[str, float]:
    """Return the median seconds of a training with every setting, and without each."""
    found: dict[str, float] = {}
    for without in ("", *WITHOUT):
        name = f"without {without}" if without else "as it is"
        say(f"training on Ray, {name} ...")
        found[name] = statistics.median(_train(without) for _ in range(REPEATS))
    return found


def _train(without: str) -> float:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        environment = {
            **os.environ,
            "PYTHONPATH": str(TESTS),
            "EVERGREEN_STATE_DIR": f"{folder}/state",
            "EVERGREEN_MODELS_DIR": f"{folder}/models",
        }
        command = [sys.executable, "-c", PROGRAM, without, folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
