"""What is promised of a task's manifest when several of its attempts write theirs, in threads and in processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from uuid import UUID

import pytest

from evergreen.contract import Manifest, RunIdentity, Status, TemporaryError, Window, utc_now
from evergreen.store import ArtifactStore, read_manifest, write_manifest

RUN = RunIdentity(dag_id="demo.ingest", run_id="one", task_id="ingest")
_FIRST = 1_760_000_000_000
"""Milliseconds since 1970: when the first attempt got its id."""
STEP = """
import sys, time
from pathlib import Path
from evergreen import runner
from evergreen.contract import Result
_, started, go = map(Path, sys.argv)
def run(request, spec):
    started.touch()
    while not go.exists():
        time.sleep(0.001)
    return Result(facts={"padding": "x" * 500_000})
runner.load_step = lambda name: run
sys.argv[1:] = ["run-step", "ingest", "--model=flight_delay", "--partition=2013-03-01", "--run-id=r"]
from evergreen.cli import main
main()
"""


def attempt(try_number: int, after: int = 0) -> str:
    """Name an attempt as Airflow does; its id was made ``after`` milliseconds after the first."""
    identifier = UUID(int=(_FIRST + after) << 80 | 7 << 76 | 2 << 62)  # RFC 9562: time, version 7, variant 2
    return f"{try_number}-{identifier}"


def a_manifest(run: RunIdentity = RUN, attempt: str = "1") -> Manifest:
    """Return what a step leaves that went well."""
    return Manifest(
        step="ingest",
        model="demo",
        window=Window(start=date(2013, 3, 1), end=date(2013, 3, 1)),
        run=run,
        attempt=attempt,
        status=Status.OK,
        code_version="abc",
        config_digest="0" * 16,
        started=utc_now(),
        finished=utc_now(),
    )


def assert_an_older_attempt_that_ends_later_does_not_count(store: ArtifactStore) -> None:
    """It is told so, and what the newer one wrote stays."""
    older, newer = (a_manifest(attempt=name) for name in (attempt(1), attempt(2, after=1)))
    write_manifest(store, newer)
    with pytest.raises(TemporaryError, match=f"attempt {newer.attempt}, which is newer than {older.attempt}"):
        write_manifest(store, older)
    assert read_manifest(store, RUN) == newer


def assert_the_newest_of_many_attempts_counts(store: ArtifactStore, count: int = 8) -> None:
    """Attempts that write at the same moment, each as often as it takes, leave the manifest of the newest."""
    manifests = [a_manifest(attempt=attempt(number, after=number)) for number in range(1, count + 1)]

    def write(manifest: Manifest) -> bool:
        try:
            write_manifest(store, manifest)
        except TemporaryError:
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        stored = list(pool.map(write, manifests))
    assert stored[-1]
    assert read_manifest(store, RUN) == manifests[-1]


def assert_of_two_processes_the_newer_attempt_counts(
    store: ArtifactStore, folder: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Two real processes of one task that end at the same moment leave one whole manifest, that of the newer one."""
    script, go = folder / "step.py", folder / "go"
    script.write_text(STEP)
    attempts = [attempt(1), attempt(2, after=1)]
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder / name), str(go)],
            env={**os.environ, **(environment or {}), "EVERGREEN_ATTEMPT": name},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in attempts
    ]
    try:
        _wait_for(lambda: all((folder / name).exists() for name in attempts))  # neither is refused
        go.touch()
        ends = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    older, newer = processes
    assert newer.returncode == 0, ends
    assert older.returncode == 0 or (older.returncode == 75 and "took this step over" in ends[0][1]), ends
    printed = json.loads(ends[1][0])
    stored = read_manifest(store, RunIdentity.model_validate(printed["run"]))
    assert stored == Manifest.model_validate(printed)
    assert stored is not None
    assert stored.attempt == attempts[1]


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
