"""Two real processes that are asked to run the same task of the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

SECONDS = 6
STEP = """
import sys, time
from pathlib import Path
from evergreen import runner
from evergreen.contract import Result
_, marker, seconds = sys.argv
def run(request, spec):
    Path(marker).write_text("running")
    time.sleep(float(seconds))
    return Result()
runner.load_step = lambda name: run
sys.argv[1:] = ["run-step", "ingest", "--model=flight_delay", "--partition=2013-03-01", "--run-id=r"]
from evergreen.cli import main
main()
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_one_process_at_a_time(folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """The second process is refused while the first lives, and goes on once that was killed and its lease ended."""
    script = folder / "step.py"
    script.write_text(STEP)

    def start(name: str, seconds: float, attempt: str) -> subprocess.Popen[str]:
        own = {"EVERGREEN_LEASE_SECONDS": str(SECONDS), "EVERGREEN_ATTEMPT": attempt}
        command = [sys.executable, str(script), str(folder / name), str(seconds)]
        merged = {**os.environ, **(environment or {}), **own}
        return subprocess.Popen(command, env=merged, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start("first", 600, "1-a")
    try:
        wait_for((folder / "first").exists)
        second = start("second", 0, "2-b")
        _, error = second.communicate(timeout=240)
        assert second.returncode == 75, error
        assert "this step is running already: attempt 1-a" in error
    finally:
        first.kill()
        first.communicate()
    killed = time.monotonic()
    outcome = (75, "", "")
    while outcome[0] == 75:  # as Airflow does: again after a pause
        assert time.monotonic() < killed + 240
        third = start("third", 0, "3-c")
        out, error = third.communicate(timeout=240)
        outcome = third.returncode, out, error
    assert outcome[0] == 0, outcome
    assert json.loads(outcome[1])["attempt"] == "3-c"
    assert not (folder / "second").exists()
