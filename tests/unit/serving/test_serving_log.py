"""Nothing that was answered is lost by a kill; what finds no room is counted; what is masked is nowhere."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError
from evergreen.serving.log_files import log_keys, read_log
from evergreen.serving.prediction_log import PredictionLog, _check_masked
from evergreen.serving.spool import Spool
from evergreen.spec import ModelSpec
from evergreen.store import LocalStore

MODEL = "flight_delay"
AT = datetime(2013, 1, 10, 12, tzinfo=UTC)
PROGRAM = """
import sys
from pathlib import Path
from evergreen.catalog import load_model
from evergreen.serving.prediction_log import PredictionLog
from evergreen.serving.spool import Spool
from evergreen.store import LocalStore
from test_serving_log import record
folder = Path(sys.argv[1])
spool = Spool(folder / "spool", "dead", 10**9)
log = PredictionLog(load_model("flight_delay"), (), LocalStore(folder / "store"), spool)
for number in range(10**9):
    log.append([record(f"{number}-{row}") for row in range(3)])
    print(number, flush=True)
"""


def record(name: str, **more: Any) -> dict[str, Any]:
    told = {"prediction_id": name, "status": "ok", "experiment": "none", "shadow": False}
    return {**told, "served_at": AT, "event_timestamp": AT, "latency_ms": 1.0, "output_probability": 0.5, **more}


def log_of(folder: Path, server: str = "me", limit: int = 10**9, masked: tuple[str, ...] = ()) -> PredictionLog:
    spec: ModelSpec = load_model(MODEL)
    spec = spec.model_copy(update={"serving": spec.serving.model_copy(update={"masked": masked})})
    return PredictionLog(spec, (), LocalStore(folder / "store"), Spool(folder / "spool", server, limit), b"key")


def ids(folder: Path) -> list[str]:
    store = LocalStore(folder / "store")
    return column(store, "prediction_id")


def column(store: LocalStore, name: str) -> list[str]:
    return read_log(store, log_keys(store, MODEL), {name: pa.string()}).table[name].to_pylist()


def test_what_was_answered_before_a_kill_is_in_the_log(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    assert process.stdout is not None
    answered = [int(process.stdout.readline()) for _ in range(300)]
    log = log_of(tmp_path)
    log.recover()
    assert ids(tmp_path) == [], "it lives"
    process.send_signal(signal.SIGKILL)
    answered += [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait()
    log.recover()
    found = ids(tmp_path)
    assert len(found) == len(set(found))
    assert {f"{number}-{row}" for number in answered for row in range(3)} <= set(found)
    assert not list((tmp_path / "spool").glob("dead*"))


def test_a_torn_line_is_counted_and_a_repeated_file_is_the_same(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.append([record("a"), record("b")])
    [spool] = (tmp_path / "spool").glob("*.jsonl")
    content = spool.read_bytes() + b'{"prediction_id": "c'
    spool.write_bytes(content)
    log._spool.rotate()
    assert log._bring(spool)
    log.flush()  # as after a kill between writing and removing
    [file] = (tmp_path / "store").rglob("*.parquet")
    assert (ids(tmp_path), pq.read_schema(file).metadata[b"evergreen.torn"]) == (["a", "b"], b"1")
    assert not spool.exists()


def test_a_file_of_which_no_table_can_be_made_holds_no_other_back(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.append([record("a", served_at="no time")])
    log._spool.rotate()
    log.append([record("b")])
    log.close()
    assert ids(tmp_path) == ["b"]
    assert not list((tmp_path / "spool").glob("*.jsonl"))
    (aside,) = (tmp_path / "spool").glob("*.aside")
    assert b"no time" in aside.read_bytes()


def test_the_files_of_others_that_cannot_be_read_hold_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError("a lock of somebody else")

    log = log_of(tmp_path)
    monkeypatch.setattr(log, "recover", broken)
    monkeypatch.setattr("evergreen.serving.prediction_log.ROTATE_SECONDS", 0.05)
    log.start()
    log.append([record("a")])
    deadline = time.monotonic() + 30
    while ids(tmp_path) != ["a"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    log.close()


def test_without_room_records_are_dropped_and_the_next_file_says_how_many(tmp_path: Path) -> None:
    size = len(orjson.dumps(record("a")))
    log = log_of(tmp_path, limit=5 * size // 2)
    (tmp_path / "store").write_text("no folder: nothing can be written")
    kept = [name for name in "abcdefgh" if log.append([record(name)])]
    assert kept == ["a", "b"]
    log.flush()
    assert not log.append([record("i")]), "the store is away still"
    (tmp_path / "store").unlink()
    log.flush()
    assert log.append([record("j")])
    log.flush()
    assert sorted(ids(tmp_path)) == ["a", "b", "j"]
    files = (tmp_path / "store").rglob("*.parquet")
    counts = {count for file in files if (count := (pq.read_schema(file).metadata or {}).get(b"evergreen.dropped"))}
    assert counts == {b"7"}


def test_what_is_masked_is_in_no_file_and_one_entity_has_one_digest(tmp_path: Path) -> None:
    log = log_of(tmp_path, masked=("carrier",))
    log.append(
        [
            record("a", request_carrier="secret"),
            record("b", request_carrier="secret"),
            record("c", request_carrier="other"),
        ]
    )
    [spool] = (tmp_path / "spool").glob("*.jsonl")
    assert b"secret" not in spool.read_bytes()
    log.flush()
    store = LocalStore(tmp_path / "store")
    digests = column(store, "request_carrier")
    assert (len(digests[0]), digests[0] == digests[1], digests[0] == digests[2]) == (64, True, False)


@pytest.mark.parametrize(("masked", "has_key", "named"), [("carier", True, "carier"), ("carrier", False, "MASK_KEY")])
def test_a_mask_that_would_mask_nothing_is_refused(masked: str, has_key: bool, named: str) -> None:
    spec = load_model(MODEL)
    spec = spec.model_copy(update={"serving": spec.serving.model_copy(update={"masked": (masked,)})})
    with pytest.raises(ConfigurationError, match=named):
        _check_masked(spec, has_key=has_key)


def test_feedback_is_filed_by_the_day_of_the_event(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.append([{"prediction_id": "x", "outcome": "1", "client": "c", "at": AT, "event_timestamp": AT}])
    log.flush()
    [file] = (tmp_path / "store" / "feedback" / MODEL / "2013-01-10").iterdir()
    assert pq.read_table(file).to_pylist() == [{"prediction_id": "x", "outcome": "1", "client": "c", "at": AT}]
