"""How many small trainings crash on a machine that is kept busy.

``python tests/benchmarks/crashes.py --trainings 300 --at-once 4 --load 8`` runs them, each as a process of its own with
a Ray of its own, beside so many endless loops, and prints what became of them; it ends with 1 if one did not end well.
A worker that dies counts too: no training is continued here. A Ray that takes too long to start on a busy machine does
not: nothing was trained, and the ending says so.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
OK, NO_RAY = "ok", "Ray did not start"
PROGRAM = """
import sys
from pathlib import Path

from evergreen.environment import complete

complete()  # as the command run-step does
from lifecycle_kit import training_rows, write_model
from evergreen.catalog import load_model
from evergreen.training import ray_training

fit = ray_training._fit

def fit_once(*arguments):
    import ray.train

    config = ray.train.FailureConfig
    ray.train.FailureConfig = lambda max_failures: config(max_failures=0, controller_failure_limit=0)
    return fit(*arguments)

ray_training._fit = fit_once
spec = load_model(write_model(Path(sys.argv[1]) / "models", "binary", workers=1, epochs=1))
ray_training.train(spec, training_rows("binary"), "checkpoints", "run")
"""


def one_training() -> str:
    """Return how a training ended: `OK`, `NO_RAY`, the signal it died by, or its exit code and last words."""
    with tempfile.TemporaryDirectory(prefix="crashes-") as folder:
        own = {"EVERGREEN_STATE_DIR": f"{folder}/state", "EVERGREEN_MODELS_DIR": f"{folder}/models"}
        path = os.pathsep.join([str(TESTS), str(TESTS.parent / "include")])
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", PROGRAM, folder],
            env={**os.environ, **own, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode < 0:
        sys.stderr.write(done.stderr[-4000:])
        return signal.Signals(-done.returncode).name
    words = (done.stderr.splitlines() or [""])[-1][:200]
    return OK if done.returncode == 0 else NO_RAY if NO_RAY in words else f"{done.returncode}: {words}"


def measure(trainings: int, at_once: int, load: int) -> dict[str, Any]:
    """Run them and return how they ended."""
    began, endings = time.monotonic(), collections.Counter[str]()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
    try:
        with ThreadPoolExecutor(at_once) as pool:
            for number, training in enumerate(as_completed([pool.submit(one_training) for _ in range(trainings)]), 1):
                endings[ending := training.result()] += 1
                sys.stderr.write(f"{number}: {ending} (load {os.getloadavg()[0]:.0f})\n")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    return {"endings": dict(endings), "seconds": round(time.monotonic() - began)}


def main() -> None:
    """Measure, print, and fail if one did not end well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--load", type=int, default=8)
    given = parser.parse_args()
    found = measure(given.trainings, given.at_once, given.load)
    sys.stdout.write(json.dumps(found) + "\n")
    sys.exit(OK not in found["endings"] or not found["endings"].keys() <= {OK, NO_RAY})


if __name__ == "__main__":
    main()
