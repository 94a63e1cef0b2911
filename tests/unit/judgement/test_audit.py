"""The audit log: what is done to it past the steps is found and named, by every reader and by `evergreen audit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from types import ModuleType

import psycopg
import pytest
from pydantic import JsonValue

from audit_log_kit import HEAD, NOON, TAMPERED, found, superuser
from decision_log_kit import MODEL, decided, event, four, invoke, log
from evergreen.catalog import load_model
from evergreen.contract import (
    ConfigurationError,
    DataError,
    Manifest,
    Request,
    RunIdentity,
    StepError,
    TemporaryError,
    Window,
)
from evergreen.judgement.audit import append, read_events
from evergreen.judgement.decisions import decision_of
from evergreen.judgement.events import DECIDE, Event, EventKind
from evergreen.settings import Settings, get_settings
from evergreen.steps import assemble, ingest, promote
from evergreen.store import get_store
from evergreen.training.registry import Version
from evergreen.trust.audit_log import head_key, read_head, records_of, write_head
from evergreen.trust.keys import new_key


def test_what_is_as_it_was_written_verifies(settings: Settings) -> None:
    four()
    printed, error = invoke("audit", "verify")
    assert (printed, error) == (f"{MODEL}: ok: 4 records, 4 of them signed\n", "")
    assert [one.kind for one in read_events(get_store(), MODEL)] == ["decided", "registered", "approved", "promoted"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET event = ''",
        "DELETE FROM audit_log",
        "DELETE FROM audit_log WHERE false",
        "TRUNCATE audit_log",
    ],
)
def test_the_database_refuses_changes_to_its_owner_too(settings: Settings, statement: str) -> None:
    four()
    address = get_settings().database("audit").replace("+psycopg", "")
    with psycopg.connect(address) as owner, pytest.raises(psycopg.Error, match="the audit log is only ever added to"):
        owner.execute(statement)  # type: ignore[call-overload]
    assert len(records_of(MODEL)) == 4


@pytest.mark.parametrize(
    ("tamper", "said"), TAMPERED, ids=[f"{one.__name__}-{n}" for n, (one, _) in enumerate(TAMPERED)]
)
def test_whatever_is_done_to_the_log_is_found_and_named(
    settings: Settings, tamper: Callable[[], None], said: str
) -> None:
    four()
    tamper()
    printed = found()
    assert said in printed
    assert f"the audit log of {MODEL}" in printed


def test_a_log_that_is_rewritten_whole_is_found_by_its_signatures(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chain, hashes and head fit each other: but nobody who is believed has signed them."""
    ours = get_settings().verification_keys
    private, public = new_key()
    monkeypatch.setenv("EVERGREEN_SIGNING_KEY", private)
    monkeypatch.setenv("EVERGREEN_VERIFICATION_KEYS", public)
    get_settings.cache_clear()
    four()
    assert invoke("audit", "verify", MODEL)[1] == ""
    monkeypatch.setenv("EVERGREEN_VERIFICATION_KEYS", ours)
    get_settings.cache_clear()
    printed = found()
    assert printed.count("is signed by the key") == 5, "four records and the head"


def test_the_records_of_one_model_are_not_another_s(settings: Settings) -> None:
    four()
    superuser("UPDATE audit_log SET model = 'flight_delay'")
    printed, _ = invoke("audit", "verify", "flight_delay")
    assert "the audit log of flight_delay: record 1: its event is another record's" in printed


def test_a_lost_head_stops_nobody_and_is_found(settings: Settings) -> None:
    four()
    path = settings.state_dir / "artifacts" / HEAD
    path.unlink()
    assert len(read_events(get_store(), MODEL)) == 4
    printed, _ = invoke("audit", "verify", MODEL)
    assert "its head" in printed
    assert "is lost: whether the end was cut off cannot be told" in printed
    log(decided("b"))
    assert invoke("audit", "verify", MODEL)[1] == ""


def test_a_head_goes_forward_only_and_one_that_was_put_back_is_found(settings: Settings) -> None:
    four()
    records, newest = records_of(MODEL), get_store().read(HEAD)
    write_head(get_store(), records[1])
    assert get_store().read(HEAD) == newest
    assert records[1].signature
    get_store().write(HEAD, records[1].signature.encode())
    printed, _ = invoke("audit", "verify", MODEL)
    assert "its head is record 2, and the last signed one is 4" in printed
    head = read_head(get_store(), MODEL)
    assert head is not None
    assert head.number == 2
    other = event("decided", "z", model="flight_delay")
    log(other.model_copy(update={"judgement": decided("z").judgement}))
    get_store().write(HEAD, get_store().read(head_key("flight_delay")) or b"")
    assert "is that of flight_delay" in found()


PINNED = ", which the audit log of raced begins with,"


def earlier_files() -> None:
    for number, one in enumerate((decided("a"), event("registered", "a", version="1")), start=1):
        get_store().write(f"decision_log/{MODEL}/00000{number}.json", one.model_dump_json().encode())


@pytest.mark.parametrize(
    ("number", "content", "said"),
    [
        (
            1,
            decided("a", why="edited").model_dump_json(),
            f"000001.json{PINNED} was changed",
        ),
        (2, None, f"000002.json{PINNED} was deleted"),
        (3, decided("b").model_dump_json(), f"000003.json{PINNED} was added"),
    ],
)
def test_the_files_of_an_earlier_version_are_pinned_by_the_first_record(
    settings: Settings, number: int, content: str | None, said: str
) -> None:
    earlier_files()
    log(event("promoted", "a", version="1"))
    assert [one.number for one in read_events(get_store(), MODEL)] == [1, 2, 3]
    assert [record.number for record in records_of(MODEL)] == [3]
    assert invoke("audit", "verify", MODEL)[1] == ""
    key = f"decision_log/{MODEL}/00000{number}.json"
    if content is None:
        (settings.state_dir / "artifacts" / key).unlink()
    else:
        get_store().write(key, content.encode())
    assert said in found()


def test_the_decision_in_a_file_lets_nobody_pass(settings: Settings) -> None:
    """As earlier versions left one: whoever can write to the artifact store can make it."""
    spec, run = load_model("flight_delay"), event("promoted", "planted", model="flight_delay").run
    planted = decided("planted", model=spec.name)
    get_store().write(f"decision_log/{spec.name}/000001.json", planted.model_dump_json().encode())
    window = Window(start=planted.partition, end=planted.partition)
    told = {"model": spec.name, "window": window, "attempt": "1", "code_version": "", "config_digest": ""}
    times = {"status": "ok", "started": NOON, "finished": NOON}
    upstream = {
        step: Manifest.model_validate({**told, **times, "step": step, "run": run.sibling(step)})
        for step in ("gate", "register")
    }
    request = Request(step="promote", model=spec.name, window=window, run=run, upstream=upstream)
    assert decision_of(read_events(get_store(), spec.name), request)
    with pytest.raises(ConfigurationError, match="no decision that lets the challenger of planted pass"):
        promote.run(request, spec)


def started(dag: str, run_id: str, step: ModuleType, day: date, **params: JsonValue) -> list[Event]:
    """Run the first step of a DAG on a day for which it has nothing to do; returns what is on record then."""
    spec, window = load_model("flight_delay"), Window(start=day, end=day)
    run = RunIdentity(dag_id=f"flight_delay.{dag}", run_id=run_id, task_id="first")
    for _ in range(2):  # and a retry
        step.run(Request(step="first", model=spec.name, window=window, run=run, params=params), spec)
    return read_events(get_store(), "flight_delay")


def test_who_starts_a_training_or_a_backfill_by_hand_is_on_record(settings: Settings) -> None:
    first, later = date(2013, 1, 1), date(2015, 1, 1)
    assert started("train", "drift__2013", assemble, first) == []
    assert started("ingest", "scheduled", ingest, later) == []
    started("train", "manual__1", assemble, first, triggered_by="ada")
    found = started("backfill", "manual__2", ingest, later)
    assert [(one.kind, one.by, one.params["window"]) for one in found] == [
        ("training_started", "ada", "2013-01-01..2013-01-01"),
        ("backfill_started", "manual__2", "2015-01-01..2015-01-01"),
    ]
    shown = invoke("history", "flight_delay")[0]
    assert "training started" in shown
    assert "manual__1: window 2013-01-01..2013-01-01" in shown


def without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVERGREEN_SIGNING_KEY")
    get_settings.cache_clear()


@pytest.mark.parametrize("kind", sorted(DECIDE))
def test_who_has_no_key_decides_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: EventKind) -> None:
    without_the_key(monkeypatch)
    with pytest.raises(ConfigurationError, match="EVERGREEN_SIGNING_KEY is not set"):
        append(get_store(), event(kind, "a", version="2"))
    assert records_of(MODEL) == []


def test_who_has_no_key_may_say_what_it_has_seen(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    four()
    without_the_key(monkeypatch)
    log(event("alias_moved", "", version="1", previous="2"), event("training_started", "b", by="ada"))
    printed, error = invoke("audit", "verify", MODEL)
    assert (printed, error) == (f"{MODEL}: ok: 6 records, 4 of them signed\n", "")


def test_no_audit_log_and_no_server_are_said_by_name(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def reading() -> StepError:
        get_settings.cache_clear()
        with pytest.raises(StepError) as caught:
            read_events(get_store(), MODEL)
        return caught.value

    monkeypatch.setenv("EVERGREEN_DATABASE_URL", "postgresql://steps:x@127.0.0.1:9")
    assert reading().failure_class == "temporary"
    monkeypatch.delenv("EVERGREEN_DATABASE_URL")
    assert "EVERGREEN_DATABASE_URL is not set" in str(reading())


def test_an_export_holds_all_that_a_stranger_needs(settings: Settings, tmp_path: object) -> None:
    four()
    file = settings.state_dir / "audit.jsonl"
    assert invoke("audit", "export", str(file))[0] == f"{file}: 4 records\n"
    *rows, head = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["hash"] for row in rows] == [record.hash for record in records_of(MODEL)]
    assert {*rows[0]} == {"model", "number", "at", "event", "previous", "hash", "signature"}
    assert head == {"model": MODEL, "records": 4, "head": rows[-1]["signature"]}
    assert invoke("audit", "export", "-", "--model", MODEL)[0] == file.read_text()
    assert "No such file or directory" in invoke("audit", "export", "/nowhere/x.jsonl")[1]
    assert "nothing" in invoke("audit", "export", "--model", "nothing", "-")[1]


def test_show_tells_who_did_what_and_who_signed_it(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    four()
    without_the_key(monkeypatch)
    log(event("alias_moved", "", version="[1]", previous="2", why="seen at version 1"))
    printed, _ = invoke("audit", "show", MODEL)
    assert "promoted version 2" in printed
    assert "by ada; signed by key " in printed
    assert "alias_moved version [1]" in printed
    assert "by promote; an observation, not signed" in printed


def test_history_at_a_time_names_the_champion_and_why(settings: Settings) -> None:
    hour = timedelta(hours=1)
    log(decided("a", at=NOON), event("promoted", "a", version="2", previous="1", by="ada", at=NOON + hour))
    log(event("alias_moved", "", version="7", previous="2", at=NOON + 2 * hour))
    log(event("rolled_back", "", version="1", previous="2", by="bob", why="wrong in the rain", at=NOON + 3 * hour))
    for time, said in (
        ("2013-06-01T12:59", "raced: no champion at 2013-06-01 12:59 UTC"),
        ("2013-06-01T15:30+02:00", "raced: version 2 at"),
        ("2013-06-01 14:59", "2013-06-01 14:59 UTC, since 2013-06-01 13:00"),
        ("2013-06-02", "rolled back, instead of 2: wrong in the rain\n  by bob"),
    ):
        assert said in invoke("history", "--at", time)[0], time
    assert "--at='yesterday' is not a time. Write it as 2013-06-01T12:00." in invoke("history", "--at", "yesterday")[1]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            "7",
            "the alias champion was seen at version 7; the audit log has 2: somebody has moved it past the promotion",
        ),
        (None, "the alias champion was seen at version none; the audit log has 2: somebody has moved it"),
        ("2", "verified by itself"),
    ],
)
def test_an_alias_moved_by_hand_is_said_before_its_version_is_verified(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, seen: str | None, said: str
) -> None:
    """Else the signature that the other version lacks is what a person is told of, and a good champion goes."""
    log(decided("a", at=NOON), event("promoted", "a", version="2", previous="1", by="ada", at=NOON))
    version = Version(MODEL, seen, "r") if seen else None
    monkeypatch.setattr("evergreen.judgement.champions.by_alias", lambda *_: version)

    def verified(*_: object, **__: object) -> None:
        raise DataError("verified by itself")

    monkeypatch.setattr("evergreen.training.verification.verified_version", verified)
    before = records_of(MODEL)
    error = invoke("models", "verify", f"{MODEL}@champion")[1]
    assert said in error
    assert ("--to 2 puts it back" in error) == (seen != "2")
    assert records_of(MODEL) == before
    assert invoke("models", "verify", f"{MODEL}@7")[1] == "verified by itself"


def test_without_the_log_a_version_is_verified_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object) -> None:
        raise TemporaryError("the database is away.")

    def verified(*_: object, **__: object) -> None:
        raise DataError("verified by itself")

    monkeypatch.setattr("evergreen.judgement.champions.read_events", away)
    monkeypatch.setattr("evergreen.training.verification.verified_version", verified)
    assert invoke("models", "verify", f"{MODEL}@champion")[1] == "verified by itself"
    assert "whether the alias is where it was put cannot be told: the database is away" in caplog.text


def test_a_version_is_named_with_its_number_or_alias(settings: Settings) -> None:
    for name in (MODEL, f"{MODEL}@"):
        assert (
            f"{name!r} names no version. Write {MODEL}@VERSION, or {MODEL}@champion."
            in invoke("models", "verify", name)[1]
        )
