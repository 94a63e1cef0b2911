"""A kill between the commits of a step's tables: whoever reads finds the day as it was before or as it is after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta

import pyarrow as pa
import pytest

from data_steps import MODEL, day, run, run_all
from evergreen.catalog import load_model
from evergreen.contract import RunIdentity, Status, Window
from evergreen.data.lake import Lake, get_lake
from evergreen.data.partitions import published
from evergreen.settings import PROJECT_ROOT, Settings
from evergreen.store import get_store, read_manifest, write_manifest

pytestmark = pytest.mark.integration
FIRST, SECOND = day("2013-02-11"), day("2013-02-12")

KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pyiceberg.catalog.sql import SqlCatalog
import evergreen.data.commit
from data_steps import MODEL, UPSTREAM, day
from evergreen.contract import RunIdentity
from evergreen.runner import build_request, execute

commits, commit = [], SqlCatalog.commit_table

def counted(*arguments):
    answer = commit(*arguments)
    commits.append(answer)
    if len(commits) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return answer

SqlCatalog.commit_table = counted
@contextmanager
def no_transaction(catalog):
    yield catalog

if sys.argv[4] == "apart":
    evergreen.data.commit.one_transaction = no_transaction
step, window = sys.argv[1], day(sys.argv[2])
identity = RunIdentity(dag_id="test", run_id=f"killed after {sys.argv[3]} {sys.argv[4]}", task_id=step)
there = RunIdentity(dag_id="test", run_id=str(window), task_id=step)
upstream = {name: there.sibling(name).address for name in UPSTREAM.get(step, {})}
execute(build_request(step, MODEL, window, identity, upstream, {}))
"""


def _killed_after(commits: int, step: str, window: Window, how: str = "together") -> None:
    """Run a step in a process that is killed right after PyIceberg has committed so many tables."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT / "tests"), *sys.path])}
    command = [sys.executable, "-c", KILLED, step, str(window.end), str(commits), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def _twelfth_changes(change: Callable[[pa.Table], pa.Table]) -> None:
    """Another ingestion of the second day brought other rows."""
    lake = get_lake()
    written = {
        table: lake.write(MODEL, table, change(lake.read(MODEL, table, SECOND)), SECOND)
        for table in ("raw_flights", "raw_weather")
    }
    run = RunIdentity(dag_id="test", run_id=str(SECOND), task_id="ingest")
    ingested = read_manifest(get_store(), run)
    assert ingested is not None
    outputs = tuple(written.get(output.name, output) for output in ingested.outputs)
    write_manifest(get_store(), ingested.model_copy(update={"outputs": outputs}))


def test_publish_is_whole_or_not_at_all(lake_settings: Settings) -> None:
    for window in (FIRST, SECOND):
        for step in ("ingest", "validate", "publish"):
            assert run(step, window).status is Status.OK
    before = published(load_model(MODEL))
    assert before[1].quarantined  # the broken anemometer
    _twelfth_changes(lambda rows: rows.slice(0, rows.num_rows // 2))
    assert run("validate", SECOND).status is Status.OK
    for commits in (1, 2):
        _killed_after(commits, "publish", SECOND)
        assert published(load_model(MODEL)) == before
    _killed_after(1, "publish", SECOND, "apart")
    assert published(load_model(MODEL)) != before  # as it was without the transaction: a half
    assert run("publish", SECOND).status is Status.OK
    after = published(load_model(MODEL))
    assert after[0] == before[0]
    raw = get_lake().read(MODEL, "raw_weather", SECOND).num_rows
    assert after[1].rows["weather"] + after[1].quarantined == raw
    assert after[1].rows["flights"] < before[1].rows["flights"]


def test_features_are_whole_or_not_at_all(lake_settings: Settings) -> None:
    def snapshots() -> dict[str, str]:
        with get_lake().one_moment() as lake:
            return {name: lake.snapshot(MODEL, name) for name in tables}

    spec = load_model(MODEL)
    tables = ["examples", *(view.name for view in spec.features.views)]
    run_all(FIRST)
    for step in ("ingest", "validate", "publish"):
        assert run(step, SECOND).status is Status.OK
    before = snapshots()
    for commits in (1, len(tables)):
        _killed_after(commits, "build_features", SECOND)
        assert snapshots() == before
    assert run("build_features", SECOND).status is Status.OK
    after = snapshots()
    assert all(after[name] != before[name] for name in tables)


def _rows(window: Window, value: int) -> pa.Table:
    days = [str(window.start + timedelta(days=offset)) for offset in range(window.days)]
    return pa.table({"ds": pa.array(days, pa.string()), "value": pa.array([value] * len(days), pa.int64())})


def test_one_moment_shows_all_tables_as_they_were_then(lake_settings: Settings) -> None:
    lake, window = get_lake(), day("2013-03-01")
    lake.write_all("m", {"a": _rows(window, 1), "b": _rows(window, 1)}, window)
    with lake.one_moment() as then:
        assert then.read("m", "a")["value"].to_pylist() == [1]
        lake.write_all("m", {"a": _rows(window, 2), "b": _rows(window, 2)}, window)
        assert then.read("m", "b")["value"].to_pylist() == [1]
        assert lake.read("m", "b")["value"].to_pylist() == [2]
    assert lake.read("m", "a")["value"].to_pylist() == [2]


def test_what_is_there_already_is_not_written_again_with_the_rest(lake_settings: Settings) -> None:
    lake, window = get_lake(), day("2013-03-01")
    first = lake.write_all("m", {"b": _rows(window, 1), "a": _rows(window, 1)}, window)
    second = lake.write_all("m", {"b": _rows(window, 2), "a": _rows(window, 1)}, window)
    assert [output.name for output in second] == ["b", "a"]
    assert second[1] == first[1]
    assert second[0].version != first[0].version


def test_two_windows_that_commit_at_once_are_both_there_twenty_times(lake_settings: Settings) -> None:
    from concurrent.futures import ThreadPoolExecutor

    lake, start = get_lake(), date(2013, 3, 1)

    def write(number: int) -> None:
        window = Window(start=start + timedelta(days=2 * number), end=start + timedelta(days=2 * number + 1))
        rows = _rows(window, number)
        # tables in another order: writers that waited for each other would both be stopped by PostgreSQL
        names = ("a", "b", "c") if number % 2 else ("c", "b", "a")
        Lake(lake.catalog).write_all("m", dict.fromkeys(names, rows), window)

    for turn in range(20):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, (2 * turn, 2 * turn + 1)))
    for table in ("a", "b", "c"):
        assert lake.read("m", table)["value"].to_pylist() == [number for number in range(40) for _ in range(2)]
