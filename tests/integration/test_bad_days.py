"""Some two hundred bad days through ingest, validate and publish: nothing lost, nothing wrong published, no bug."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from bad_days import PUBLISHED, REFUSED, SOURCE, UNREAD
from data_steps import UPSTREAM, day
from evergreen.contract import Manifest, RunIdentity, Status, Window
from evergreen.data.lake import get_lake
from evergreen.runner import build_request, execute, exit_code
from evergreen.settings import PROJECT_ROOT, Settings, get_settings

pytestmark = pytest.mark.integration
DAY = day("2013-03-01")
COLUMNS = {"name": "string", "size": "double", "count": "int64", "flag": "boolean", "born": "date", "at": "timestamp"}
SUITE = "- {type: expect_column_values_to_be_between, severity: warning, kwargs: {column: count, min_value: 0}}\n"


@pytest.fixture
def model(lake_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose only source is read by `SOURCE`."""
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    spec = yaml.safe_load((PROJECT_ROOT / "include/models/flight_delay/model.yaml").read_text())
    source = {"name": "things", "reader": "source.py:read", "key": ["name"], "event_time": "at", "columns": COLUMNS}
    spec |= {"name": "small", "sources": [{**source, "expectations": "e.yaml"}]}
    (folder / "model.yaml").write_text(yaml.safe_dump(spec))
    (folder / "e.yaml").write_text(SUITE)
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(folder.parent))
    get_settings.cache_clear()
    return folder


def _reads(folder: Path, cases: list[str]) -> None:
    """Let the reader give one case a day, from `DAY` on."""
    table = "".join(f"    lambda day: {case},\n" for case in cases)
    read = f"\n\ndef read(day):\n    return CASES[(day - datetime.date({DAY.start:%Y, %-m, %-d})).days](day)\n"
    (folder / "source.py").write_text(f"{SOURCE}\n\nCASES = [\n{table}]\n{read}")


def _run(step: str, window: Window = DAY) -> Manifest:
    identity = RunIdentity(dag_id="test", run_id=str(window), task_id=step)
    manifest = execute(build_request(step, "small", window, identity, UPSTREAM.get(step, {}), {}))
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest
    return manifest


def test_what_is_wrong_with_a_row_is_named_and_the_rest_is_published(model: Path) -> None:
    _reads(model, list(PUBLISHED))
    days = {case: DAY.start + timedelta(days=number) for number, case in enumerate(PUBLISHED)}
    window = Window(start=DAY.start, end=max(days.values()))
    manifests = {step: _run(step, window) for step in ("ingest", "validate", "publish")}
    assert not [manifest.failure for manifest in manifests.values() if manifest.failure]
    bad = get_lake().read("small", "things_quarantine").to_pylist()
    wrong = []
    for case, expected in PUBLISHED.items():
        found = {row["row"]: row["reason"] for row in bad if row["ds"] == str(days[case])}
        if found.keys() != expected.keys() or not all(expected[row] in found[row] for row in expected):
            wrong.append((case, found))
    assert not wrong
    assert max(len(row["reason"]) for row in bad) < 300

    good = get_lake().read("small", "things").to_pylist()
    assert len(good) + len(bad) == manifests["ingest"].facts["rows"]["things"]  # type: ignore[call-overload,index]
    assert (len(good), len(bad)) == (manifests["publish"].facts["rows"], manifests["publish"].facts["quarantined"])
    assert max(Counter((row["ds"], row["name"]) for row in good).values()) == 1
    for row in good:
        assert row["name"] == row["name"].strip()
        assert row["size"] is None or math.isfinite(row["size"])
        assert abs(row["at"].date() - window.start.fromisoformat(row["ds"])) <= timedelta(days=1)


def test_a_day_that_is_wrong_as_a_whole_is_refused_in_words_of_its_own(model: Path) -> None:
    for case, said in REFUSED.items():
        _reads(model, [case])
        assert _run("ingest").status is Status.OK, case
        _assert_refused(case, _run("validate"), {65}, said)
    assert not get_lake().has("small", "things")


def test_a_day_that_cannot_be_read_is_the_fault_of_the_data_or_of_its_reader(model: Path) -> None:
    for case, said in UNREAD.items():
        _reads(model, [case])
        _assert_refused(case, _run("ingest"), {65, 78}, said)
    assert not get_lake().has("small", "raw_things")


def _assert_refused(case: str, manifest: Manifest, codes: set[int], said: str) -> None:
    assert exit_code(manifest) in codes, (case, manifest.failure)
    assert manifest.failure is not None
    whole = f"{manifest.failure.message} {manifest.failure.hint}"
    assert said in whole, (case, whole)
    assert len(whole) < 1500, case
    assert whole.isprintable() or "\n" in whole, case
    assert "things" in whole or "source.py" in whole or "DataError(5" in case, whole


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("print('mine')", 0),
        ("os.write(1, b'mine')", 0),
        ("os.system('echo mine')", 0),
        ("os.close(1)", 0),
        ("sys.stdout.close()", 0),
        ("os.close(2)", 0),
        ("os.chdir('/')", 0),
        ("os.environ.clear()", 0),
        ("os.environ.update(EVERGREEN_DATABASE_URL='postgresql://nobody@127.0.0.1:1/', PGUSER='nobody')", 0),
        ("os.umask(0o777)", 0),
        ("threading.Thread(target=print, args=('mine',)).start()", 0),
        ("sys.setrecursionlimit(200)", 0),
        ("__import__('warnings').simplefilter('error')", 0),
        ("print('mine'); raise SystemExit(0)", 78),
        ("raise KeyboardInterrupt", 75),
        ("raise MemoryError", 137),
    ],
)
@pytest.mark.slow
def test_whatever_a_reader_does_to_its_process_the_manifest_alone_is_printed(model: Path, body: str, code: int) -> None:
    _reads(model, ["None"])
    text = (model / "source.py").read_text()
    (model / "source.py").write_text(text.replace("\n\ndef read(day):\n", f"\n\ndef read(day):\n    {body}\n"))
    (model / "source.py").write_text((model / "source.py").read_text().replace("lambda day: None", "good"))
    command = [sys.executable, "-m", "evergreen", "run-step", "ingest", "--model=small", f"--partition={DAY.end}"]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    manifest = Manifest.model_validate_json(done.stdout)
    assert exit_code(manifest) == code
    assert code or manifest.facts["rows"] == {"things": 4}


@pytest.mark.slow
def test_a_reader_that_ends_its_process_leaves_no_manifest(model: Path) -> None:
    """Exit 0 without one is a failure to whoever started it."""
    _reads(model, ["os._exit(0)"])
    command = [sys.executable, "-m", "evergreen", "run-step", "ingest", "--model=small", f"--partition={DAY.end}"]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
