"""Rows that a person releases from quarantine: published from then on, as long as they are what was released."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from pydantic import JsonValue

from decision_log_kit import invoke
from documented import run_cli
from evergreen.contract import Manifest, RunIdentity, Status, Window
from evergreen.data.lake import get_lake
from evergreen.judgement.audit import read_events
from evergreen.judgement.events import EventKind
from evergreen.runner import build_request, execute
from evergreen.settings import Settings, get_settings
from evergreen.store import get_store
from things_kit import DAY, SUITE, ingest, make_model, reasons, run

pytestmark = pytest.mark.integration

SIZE = "expect_column_values_to_be_between(size)"
NAME = "expect_column_value_lengths_to_be_between(name)"
TWO_WARNINGS = SUITE + (
    "- {type: expect_column_value_lengths_to_be_between, severity: warning, kwargs: {column: name, max_value: 6}}\n"
)
ROWS: list[tuple[object, object]] = [
    ("good", 1.0),
    ("low", -1.0),
    ("lower", -2.0),
    ("too long", 3.0),
    ("very low", -9.0),
]
"""Two are too small, one has too long a name, one is and has both."""


@pytest.fixture
def model(lake_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a model with two warnings; returns its folder."""
    folder = make_model(tmp_path, monkeypatch)
    (folder / "e.yaml").write_text(TWO_WARNINGS)
    return folder


def publish(window: Window = DAY) -> Manifest:
    assert run("validate", window).failure is None
    published = run("publish", window)
    assert published.failure is None, published.failure
    return published


def names() -> list[str]:
    return [str(name) for name in get_lake().read("small", "things")["name"].to_pylist()]


def release(run_id: str = "r", window: Window = DAY, **params: JsonValue) -> Manifest:
    identity = RunIdentity(dag_id="small.release", run_id=run_id, task_id="release")
    given: dict[str, JsonValue] = {"source": "things", "why": "the scale was recalibrated", "by": "ada", **params}
    return execute(build_request("release", "small", window, identity, {}, given))


def refused(**params: JsonValue) -> str:
    failure = release("refused", **params).failure
    assert failure is not None
    assert failure.failure_class == "configuration"
    return f"{failure.message} {failure.hint}"


def on_record() -> int:
    return len([event for event in read_events(get_store(), "small") if event.kind is EventKind.QUARANTINE_RELEASED])


def test_what_is_released_is_published_and_stays_so(model: Path) -> None:
    ingest(model, ROWS)
    assert publish().facts["released"] == 0
    assert names() == ["good"]
    done = release()
    assert done.status is Status.OK, done.failure
    assert (done.facts["rows"], done.facts["stay"], done.facts["exempt"]) == (4, 0, {SIZE: 3, NAME: 2})
    assert names() == ["good"], "the release itself moves no row"
    for _ in range(2):  # the partition is processed again, and once more
        ingest(model, ROWS)
        published = publish()
        assert {name: published.facts[name] for name in ("rows", "quarantined", "released")} == {
            "rows": 5,
            "quarantined": 0,
            "released": 4,
        }
        assert sorted(names()) == sorted(str(name) for name, _ in ROWS)
        assert reasons() == {}


def test_a_backfill_of_many_days_keeps_them_published(model: Path) -> None:
    ingest(model, ROWS)
    publish()
    release()
    window = Window(start=DAY.start, end=DAY.end.replace(day=2))
    assert run("ingest", window).failure is None
    published = publish(window)
    assert (published.facts["released"], published.facts["quarantined"]) == (4, 4), (
        "of the other day nothing is released"
    )


def test_only_exactly_what_was_released_passes(model: Path) -> None:
    ingest(model, ROWS)
    publish()
    release()
    changed: list[tuple[object, object]] = [("low", -1.0), ("lower", -2.5), ("new", -3.0), ("good", 1.0)]
    ingest(model, changed)  # one corrected, one new, all in another order
    published = publish()
    assert (published.facts["released"], published.facts["quarantined"]) == (1, 2)
    assert names() == ["low", "good"]
    assert reasons() == {1: SIZE, 2: SIZE}


def test_a_release_is_from_what_was_failed_then_and_from_nothing_else(model: Path) -> None:
    ingest(model, ROWS)
    publish()
    release()
    (model / "e.yaml").write_text(
        TWO_WARNINGS + "- {type: expect_column_values_to_not_be_in_set, severity: warning, "
        "kwargs: {column: size, value_set: [-1.0]}}\n"
    )
    ingest(model, ROWS)
    publish()
    assert list(reasons()) == [1], "it fails a new expectation, which nobody has exempted it from"
    (model / "e.yaml").write_text(SUITE)
    ingest(model, ROWS)
    assert publish().facts["quarantined"] == 0, "fewer expectations need no new release"


def test_another_limit_is_another_expectation(model: Path) -> None:
    """What was released from a size below 0 was not looked at for being below 0.5, and not by a second warning."""
    ingest(model, ROWS)
    publish()
    release()
    limit = "kwargs: {column: size, min_value: 0}"
    second = f"- {{type: expect_column_values_to_be_between, severity: warning, {limit.replace('0}', '-5}')}}}\n"
    for suite, stay in ((TWO_WARNINGS.replace(limit, limit.replace("0}", "0.5}")), 3), (TWO_WARNINGS + second, 1)):
        (model / "e.yaml").write_text(suite)
        ingest(model, ROWS)
        assert publish().facts["quarantined"] == stay
    assert len(reasons()[4].split(" #")) == 3, "both are named, each with what it asks"
    assert release("again").facts["stay"] == 0
    ingest(model, ROWS)
    assert publish().facts["quarantined"] == 0
    assert on_record() == 2
    (model / "e.yaml").write_text(TWO_WARNINGS)
    ingest(model, ROWS)
    assert publish().facts["quarantined"] == 0, "what was released first is so still"


def test_a_reason_selects_the_rows_that_are_held_for_it(model: Path) -> None:
    ingest(model, ROWS)
    publish()
    done = release(reason=SIZE)
    assert (done.facts["rows"], done.facts["stay"]) == (3, 2), "one of the three fails the other one too"
    ingest(model, ROWS)
    assert publish().facts["released"] == 2
    assert reasons() == {3: NAME, 4: f"{NAME}; {SIZE}"} or reasons() == {3: NAME, 4: f"{SIZE}; {NAME}"}
    assert release("another", reason=NAME).facts["stay"] == 0
    ingest(model, ROWS)
    assert publish().facts["released"] == 4


def test_what_the_contract_refuses_stays_where_it_is(model: Path) -> None:
    bad: list[tuple[object, object]] = [("good", 1.0), ("text", "huge"), ("claimed", 3.0), ("claimed", 4.0)]
    ingest(model, bad)
    publish()
    said = refused()
    assert "small: no row of things of 2013-03-01 can be released" in said
    assert "size: 'huge' is not a double" in said
    assert "Only what a warning in e.yaml keeps back can" in said
    ingest(model, [*bad, ("low", -1.0), ("copied", -2.0), ("copied", -2.0)])
    publish()
    done = release()
    assert (done.facts["rows"], done.facts["stay"]) == (2, 4)
    ingest(model, [*bad, ("low", -1.0), ("copied", -2.0), ("copied", -2.0)])
    published = publish()
    assert (published.facts["released"], published.facts["quarantined"]) == (2, 4)
    assert sorted(names()) == ["copied", "good", "low"], "an exact copy is one row"


def test_a_day_that_fails_wholly_stays_refused(model: Path) -> None:
    ingest(model, ROWS)
    publish()
    release()
    (model / "e.yaml").write_text(SUITE.replace("severity: warning", "severity: critical"))
    ingest(model, ROWS)
    judged = run("validate")
    assert judged.failure is not None
    assert "nothing is published" in judged.failure.message
    assert names() == ["good"]


def test_released_twice_is_released_once(model: Path) -> None:
    ingest(model, ROWS)
    publish()
    first = release()
    again, by_another = release(), release("another", by="bob", why="again")
    assert [one.facts["event"] for one in (again, by_another)] == [first.facts["event"]] * 2
    assert by_another.facts["by"] == "ada"
    assert on_record() == 1
    ingest(model, ROWS)
    publish()
    for run_id in ("r", "later"):  # nothing is in quarantine any more
        assert release(run_id).facts == {**first.facts, "stay": 0}
    assert on_record() == 1


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"source": "nothing"}, "small has no source 'nothing'. Sources: things."),
        ({"why": "  "}, "why: it is missing"),
        ({"reason": "size"}, f"can be released from 'size'. Reasons: {NAME} (2 rows), {SIZE} (3 rows)."),
        ({"window": Window(start=DAY.start, end=DAY.end.replace(day=2))}, "is not one day"),
        (
            {"window": Window(start=DAY.start.replace(day=2), end=DAY.end.replace(day=2))},
            "no rows of things of 2013-03-02 are in quarantine. The newest days that have some: 2013-03-01 (4).",
        ),
    ],
)
def test_what_cannot_be_released_is_refused_with_what_there_is(
    model: Path, params: dict[str, JsonValue], said: str
) -> None:
    ingest(model, ROWS)
    publish()
    assert said in refused(**params)
    assert on_record() == 0


def test_before_anything_was_published_there_is_nothing_to_release(model: Path) -> None:
    assert "no rows of things of 2013-03-01 are in quarantine. The newest days that have some: none." in refused()


def test_more_rows_than_one_release_takes_are_an_expectation_to_correct(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(model, ROWS)
    publish()
    monkeypatch.setattr("evergreen.steps.release._MOST_ROWS", 3)
    assert "4 rows are more than one release takes, 3. What so many rows fail" in refused()
    assert release(reason=SIZE).failure is None


def test_who_has_no_key_releases_nothing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(model, ROWS)
    publish()
    monkeypatch.delenv("EVERGREEN_SIGNING_KEY")
    get_settings.cache_clear()
    assert "EVERGREEN_SIGNING_KEY is not set" in refused()
    assert on_record() == 0


def test_a_log_that_was_touched_releases_nothing_and_days_without_such_rows_do_not_ask_it(model: Path) -> None:
    ingest(model, ROWS)
    publish()
    release()
    with psycopg.connect(get_settings().database("audit").replace("+psycopg", "")) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE audit_log SET event = replace(event, 'ada', 'eve')")
    ingest(model, ROWS)
    assert run("validate").failure is None
    failed = run("publish").failure
    assert failed is not None
    assert "the audit log of small: record 1 was changed" in failed.message
    ingest(model, [("good", 1.0), ("text", "huge")])
    assert publish().facts["quarantined"] == 1


def test_the_commands_show_and_release(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ingest(model, [*ROWS, ("text", "huge")])
    publish()
    shown = run_cli(["evergreen", "quarantine", "show", "small"], monkeypatch, capsys)
    assert shown.splitlines()[:3] == [
        "small.things of 1 day: 5 rows in quarantine",
        f"  3  {SIZE}",
        "       ds=2013-03-01, name=low, size=-1.0",
    ]
    assert "  1  size: 'huge' is not a double\n       ds=2013-03-01, name=text, size=None\n" in shown
    of_another_day = ["evergreen", "quarantine", "show", "small", "things", "--partition", "2013-03-02"]
    printed = run_cli(of_another_day, monkeypatch, capsys)
    assert printed == "small.things of 2013-03-02: 0 rows in quarantine\n"
    words = ["quarantine", "release", "small", "things", "2013-03-01", "--why", "recalibrated", "--reason", SIZE]
    released = run_cli(["evergreen", *words], monkeypatch, capsys)
    assert released.startswith("small: 3 rows of things of 2013-03-01 are released, record 1; 3 stay in quarantine.\n")
    assert """small.ingest --conf '{"partition": "2013-03-01"}'""" in released
    history = run_cli(["evergreen", "history", "small"], monkeypatch, capsys)
    for said in ("released from quarantine: 3 rows of things of 2013-03-01", f"{SIZE}: 3 rows", "recalibrated", "by "):
        assert said in history
    audit = run_cli(["evergreen", "audit", "show", "small"], monkeypatch, capsys)
    assert "quarantine_released things of 2013-03-01" in audit
    assert "signed by key" in audit
    assert run_cli(["evergreen", "audit", "verify", "small"], monkeypatch, capsys).startswith("small: ok: 1 records")


def test_the_commands_say_what_is_wrong(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "small has no source 'sales'. Sources: things." in invoke("quarantine", "show", "small", "sales")[1]
    assert "--partition='May' is not a day" in invoke("quarantine", "show", "small", "--partition", "May")[1]
    monkeypatch.setattr("evergreen.logs.configure", lambda: None)
    printed, code = invoke("quarantine", "release", "small", "sales", "2013-03-01", "--why", "x")
    assert "error: small has no source 'sales'" in printed
    assert code == "78"
    assert "PARTITION='May' is not a day" in invoke("quarantine", "release", "small", "things", "May", "--why", "x")[1]
