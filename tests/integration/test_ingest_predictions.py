"""The prediction log in the lake: each record once, whatever servers have left, and no longer than it is kept."""

from __future__ import annotations

import io
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from evergreen.catalog import load_model
from evergreen.contract import Manifest, RunIdentity, Status, Window
from evergreen.data.lake import get_lake
from evergreen.runner import build_request, execute
from evergreen.serving.log_files import DROPPED, NO_EXPERIMENT, feedback_schema, log_key, log_schema
from evergreen.settings import Settings, get_settings
from evergreen.store import get_store
from lifecycle_kit import write_model

pytestmark = pytest.mark.integration
DAY = date(2024, 3, 10)
MODEL = "small_binary"


@pytest.fixture(autouse=True)
def model(lake_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    get_settings.cache_clear()
    write_model(tmp_path / "models", "binary")


def ingest(day: date = DAY, run: str = "test") -> Manifest:
    identity = RunIdentity(dag_id=f"{MODEL}.ingest_predictions", run_id=run, task_id="ingest_predictions")
    return execute(build_request("ingest_predictions", MODEL, Window(start=day, end=day), identity, {}, {}))


def answer(number: int, day: date = DAY, **other: Any) -> dict[str, Any]:
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(seconds=number)
    row = {"prediction_id": f"p{number}", "variant": "champion", "version": "3", "status": "ok", "experiment": "none"}
    row |= {"client": "tests", "server": "s1", "shadow": False, "served_at": at, "event_timestamp": at}
    row |= {"latency_ms": 1.5, "request_x": 0.5, "output_probability": number / 100}
    return row | other


def leave(
    name: str, rows: list[dict[str, Any]], day: date = DAY, dropped: int = 0, extra: pa.Field | None = None
) -> str:
    """Leave a file as a server does; returns its key."""
    schema = log_schema(load_model(MODEL), outputs=["probability"])
    schema = schema.append(extra) if extra is not None else schema
    table = pa.Table.from_pylist(rows, schema.with_metadata({DROPPED: str(dropped).encode()}))
    return put(log_key(MODEL, NO_EXPERIMENT, day, name), table)


def put(key: str, table: pa.Table) -> str:
    content = io.BytesIO()
    pq.write_table(table, content)
    get_store().write(key, content.getvalue())
    return key


def leave_feedback(name: str, *rows: tuple[str, str], day: date = DAY) -> None:
    at = datetime(day.year, day.month, day.day, 18, tzinfo=UTC)
    content = [{"prediction_id": one, "outcome": outcome, "at": at, "client": "tests"} for one, outcome in rows]
    put(f"feedback/{MODEL}/{day}/{name}.parquet", pa.Table.from_pylist(content, feedback_schema()))


def served(day: date | None = None) -> list[dict[str, Any]]:
    window = Window(start=day, end=day) if day else None
    return get_lake().read(MODEL, "served", window).to_pylist()


def test_nothing_served_is_nothing_to_do() -> None:
    manifest = ingest()
    assert (manifest.status, manifest.reason) == (
        Status.SKIPPED,
        "Nothing new was served from 2024-03-07 to 2024-03-10.",
    )
    assert not get_lake().has(MODEL, "served")


def test_answers_and_feedback_are_brought_into_their_tables_and_counted() -> None:
    refused = answer(2, status="refused", reason="missing_features", version=None, variant=None)
    leave("a", [answer(1), refused], dropped=4)
    leave("b", [answer(3, variant="challenger", version="4")], dropped=1)
    leave_feedback("a", ("p1", "1"), ("p3", "0"))
    manifest = ingest()
    assert manifest.status is Status.OK, manifest.failure
    facts = manifest.facts["served"]
    assert facts == {
        "days": [str(DAY)],
        "rows": 3,
        "by_status": {"ok": 2, "refused": 1},
        "by_variant": {"champion": 1, "None": 1, "challenger": 1},
        "duplicates": 0,
        "dropped": 5,
        "files_set_aside": {},
        "rows_set_aside": {},
        "removed": [],
    }
    assert manifest.facts["feedback"]["rows"] == 2
    assert [output.name for output in manifest.outputs] == ["served", "feedback"]
    assert [row["prediction_id"] for row in served()] == ["p1", "p2", "p3"]
    assert {row["ds"] for row in served()} == {str(DAY)}
    assert {row["outcome"] for row in get_lake().read(MODEL, "feedback").to_pylist()} == {"0", "1"}


def test_a_record_that_is_in_two_files_is_one_and_a_shadow_of_it_another() -> None:
    leave("a", [answer(1), answer(2)])
    leave("b", [answer(2), answer(3), answer(1, variant="challenger", version="4", shadow=True)])
    leave_feedback("a", ("p1", "1"))
    leave_feedback("b", ("p1", "1"), ("p1", "0"))
    manifest = ingest()
    assert [(row["prediction_id"], row["shadow"]) for row in served()] == [
        ("p1", True),
        ("p1", False),
        ("p2", False),
        ("p3", False),
    ]
    assert manifest.facts["served"]["duplicates"] == 1
    assert manifest.facts["feedback"]["duplicates"] == 1
    assert get_lake().partitions(MODEL, "feedback") == [(str(DAY), 2)]


def test_nothing_is_read_again_unless_a_day_has_other_files() -> None:
    late = DAY - timedelta(days=3)
    leave("a", [answer(1)])
    leave("a", [answer(7, late)], late)
    ingest()
    snapshots = len(get_lake().load(MODEL, "served").snapshots())
    again = ingest(run="again")
    assert again.status is Status.SKIPPED
    assert len(get_lake().load(MODEL, "served").snapshots()) == snapshots
    leave("b", [answer(8, late)], late)
    more = ingest(run="more")
    assert more.facts["served"]["days"] == [str(late)]
    assert [row["prediction_id"] for row in served(late)] == ["p7", "p8"]
    assert [row["prediction_id"] for row in served(DAY)] == ["p1"]
    too_late = DAY - timedelta(days=4)
    leave("a", [answer(9, too_late)], too_late)
    assert ingest(run="too late").status is Status.SKIPPED
    assert ingest(too_late).facts["served"]["days"] == [str(too_late)]


def test_the_same_rows_in_other_files_write_nothing() -> None:
    leave("a", [answer(2), answer(1)])
    first = ingest().outputs
    leave("b", [answer(1)])
    again = ingest(run="again")
    assert again.outputs == first
    assert again.metrics["served_bytes_written"] == 0


def test_a_broken_file_is_set_aside_by_name_and_the_rest_is_ingested() -> None:
    leave("a", [answer(1)])
    broken = log_key(MODEL, NO_EXPERIMENT, DAY, "b")
    get_store().write(broken, b"PAR1 and no more")
    typed = put(
        log_key(MODEL, NO_EXPERIMENT, DAY, "c"), pa.table({"prediction_id": ["p2"], "served_at": ["yesterday"]})
    )
    without = put(log_key(MODEL, NO_EXPERIMENT, DAY, "d"), pa.table({"x": [1]}))
    manifest = ingest()
    assert manifest.status is Status.OK, manifest.failure
    aside = manifest.facts["served"]["files_set_aside"]
    assert set(aside) == {broken, typed, without}
    assert "prediction_id" in aside[without]
    assert [row["prediction_id"] for row in served()] == ["p1"]
    assert set(get_store().keys("set_aside/")) == {f"set_aside/{key}" for key in (broken, typed, without)}
    assert ingest(run="again").status is Status.SKIPPED


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"version": "latest"}, "no version"),
        ({"version": None}, "no version"),
        ({"variant": "winner"}, "another variant"),
        ({"status": "fine"}, "another status"),
        ({"status": None}, "another status"),
        ({"prediction_id": ""}, "no prediction_id"),
        ({"prediction_id": None}, "no prediction_id"),
        ({"event_timestamp": datetime(2024, 3, 11, tzinfo=UTC)}, "another day"),
        ({"status": "refused", "variant": "winner"}, "another variant"),
    ],
)
def test_a_row_that_no_server_writes_is_set_aside_with_the_reason(wrong: dict[str, Any], why: str) -> None:
    leave("a", [answer(1), answer(2, **wrong)])
    manifest = ingest()
    assert manifest.facts["served"]["rows_set_aside"] == {why: 1}
    assert [row["prediction_id"] for row in served()] == ["p1"]
    (key,) = get_store().keys("set_aside/")
    (row,) = pq.read_table(io.BytesIO(get_store().read(key) or b"")).to_pylist()
    assert row["set_aside"] == why


def test_columns_of_newer_and_of_older_servers_are_kept() -> None:
    leave("a", [answer(1)])
    ingest()
    leave("b", [answer(2, region="eu")], extra=pa.field("region", pa.string()))
    old = pa.table({name: [answer(3)[name]] for name in ("prediction_id", "variant", "version", "status")})
    at = pa.array([answer(3)["served_at"]], pa.timestamp("us", tz="UTC"))
    put(log_key(MODEL, "e1", DAY, "c"), old.append_column("event_timestamp", at).append_column("served_at", at))
    assert ingest(run="again").facts["served"]["rows"] == 3
    rows = {row["prediction_id"]: row for row in served()}
    assert {name: row["region"] for name, row in rows.items()} == {"p1": None, "p2": "eu", "p3": None}
    assert rows["p3"]["output_probability"] is None


def test_the_time_of_a_graph_joins_a_table_that_has_none_of_it() -> None:
    schema = log_schema(load_model(MODEL), outputs=["probability"])
    before = schema.remove(schema.get_field_index("graph_ms"))
    put(log_key(MODEL, "e1", DAY, "a"), pa.Table.from_pylist([answer(1)], before))
    ingest()
    assert "graph_ms" not in served()[0] or served()[0]["graph_ms"] is None
    leave("b", [answer(2, graph_ms=0.7)])
    assert ingest(run="again").facts["served"]["rows"] == 2
    assert {row["prediction_id"]: row["graph_ms"] for row in served()} == {"p1": None, "p2": 0.7}


def test_days_that_are_kept_long_enough_are_removed_with_their_files(tmp_path: Path) -> None:
    path = tmp_path / "models" / MODEL / "model.yaml"
    spec = yaml.safe_load(path.read_text()) | {"serving": {"log_retention_days": 5, "log_late_days": 1}}
    path.write_text(yaml.safe_dump(spec))
    kept, old = DAY - timedelta(days=5), DAY - timedelta(days=6)
    for day in (kept, old):
        leave("a", [answer(1, day)], day)
        leave_feedback("a", ("p1", "1"), day=day)
        ingest(day)
    manifest = ingest()
    assert manifest.status is Status.OK
    assert [manifest.facts[table]["removed"] for table in ("served", "feedback")] == [[str(old)], [str(old)]]
    for table in ("served", "feedback"):
        assert get_lake().partitions(MODEL, table) == [(str(kept), 1)]
        assert [key.split("/")[-2] for key in get_store().keys(f"{table}/{MODEL}/")] == [str(kept)]
    assert ingest(run="again").status is Status.SKIPPED


def keep(days: int, tmp_path: Path) -> None:
    path = tmp_path / "models" / MODEL / "model.yaml"
    spec = yaml.safe_load(path.read_text()) | {"serving": {"log_retention_days": days, "log_late_days": 1}}
    path.write_text(yaml.safe_dump(spec))


def test_what_was_written_lately_is_kept_though_its_event_is_older(tmp_path: Path) -> None:
    keep(5, tmp_path)
    long_ago = date(2024, 1, 5)
    at = datetime(2024, 3, 9, 12, tzinfo=UTC)
    leave("a", [answer(1, long_ago, served_at=at)], long_ago)
    ingest(long_ago)
    ingest()
    assert get_lake().partitions(MODEL, "served") == [(str(long_ago), 1)]
    assert len(list(get_store().keys(f"served/{MODEL}/"))) == 1
    later = ingest(DAY + timedelta(days=5))
    assert later.facts["served"]["removed"] == [str(long_ago)]
    assert get_lake().partitions(MODEL, "served") == list(get_store().keys(f"served/{MODEL}/")) == []


def test_what_was_never_ingested_is_not_removed(tmp_path: Path) -> None:
    keep(5, tmp_path)
    old, older = DAY - timedelta(days=20), DAY - timedelta(days=21)
    leave("a", [answer(1, old)], old)
    ingest(old)
    more = [leave("b", [answer(2, old)], old), leave("a", [answer(3, older)], older)]
    assert ingest().facts["served"]["removed"] == []
    assert set(more) < set(get_store().keys(f"served/{MODEL}/"))
    assert get_lake().partitions(MODEL, "served") == [(str(old), 1)]
