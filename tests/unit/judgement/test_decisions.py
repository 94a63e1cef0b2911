"""The decision log: one record a run, kept as it was first taken, shown to people."""

import json
from datetime import UTC, date, datetime

import pytest
from typer.testing import CliRunner

from evergreen.cli import app
from evergreen.contract import ConfigurationError, RunIdentity, Window
from evergreen.judgement.decisions import (
    DecisionRecord,
    Promotion,
    Rejection,
    amend_decision,
    decision_key,
    list_decisions,
    read_decision,
    write_decision,
)
from evergreen.judgement.evidence import Candidate, Decision, Evaluation
from evergreen.store import get_store

WINDOW = Window(start=date(2013, 5, 2), end=date(2013, 5, 31))
TRAINING = Window(start=date(2013, 2, 1), end=date(2013, 5, 1))


def record(day=31, run_id="drift__a", decided=datetime(2013, 6, 1, tzinfo=UTC), decision=Decision.PROMOTE):
    return DecisionRecord(
        model="flight_delay",
        partition=date(2013, 5, day),
        run=RunIdentity(dag_id="flight_delay.train", run_id=run_id, task_id="gate"),
        decision=decision,
        why="better [by far]",
        decided_at=decided,
        requested_by=run_id,
        evaluation=Evaluation(
            model="flight_delay",
            metric="auc",
            window=WINDOW,
            rows=9,
            dataset="d",
            challenger=Candidate(run_id="r", training=TRAINING, metrics={"auc": 0.75}),
            champion=Candidate(version="1", run_id="q", training=TRAINING, metrics={"auc": 0.7}),
            improvement=0.05,
            low=0.04,
            high=0.06,
            confidence=0.95,
        ),
        evidence=(),
        gate={},
        config_digest="c",
        code_version="v",
    )


PROMOTION = Promotion(version="2", previous="1", approved_by="ada", promoted_at=datetime(2013, 6, 2, tzinfo=UTC))


def test_the_same_decision_again_changes_nothing(settings):
    store = get_store()
    key = write_decision(store, record())
    amend_decision(store, key, promotion=PROMOTION, registered_version="2")
    before = store.read(key)
    assert write_decision(store, record(decided=datetime(2014, 1, 1, tzinfo=UTC))) == key
    assert store.read(key) == before


def test_another_decision_replaces_it_and_what_followed(settings):
    store = get_store()
    key = write_decision(store, record())
    amend_decision(store, key, promotion=PROMOTION)
    write_decision(store, record(decision=Decision.NOT_JUSTIFIED))
    again = read_decision(store, key)
    assert again.decision is Decision.NOT_JUSTIFIED
    assert again.promotion is None


@pytest.mark.parametrize(("who", "said"), [("bob", "rejected by bob"), (None, "rejected: nobody answered in time")])
def test_a_rejection_is_kept_and_shown(settings, who, said):
    store = get_store()
    key = write_decision(store, record())
    rejection = Rejection(rejected_by=who, rejected_at=datetime(2013, 6, 2, tzinfo=UTC))
    amend_decision(store, key, rejection=rejection)
    write_decision(store, record(decided=datetime(2014, 1, 1, tzinfo=UTC)))
    assert read_decision(store, key).rejection == rejection
    shown = CliRunner().invoke(app, ["history", "flight_delay"], env={"COLUMNS": "250"}).output
    assert "promote, rejected" in shown
    assert f"a; {said}" in shown
    amend_decision(store, key, promotion=PROMOTION, rejection=None)  # asked again, and approved
    assert "rejected" not in CliRunner().invoke(app, ["history", "flight_delay"], env={"COLUMNS": "250"}).output


def test_records_come_oldest_partition_first(settings):
    store = get_store()
    for day, run_id in ((31, "a"), (1, "b"), (31, "../../c d")):
        write_decision(store, record(day, run_id))
    assert [(found.partition.day, found.run.run_id) for found in list_decisions(store)] == [
        (1, "b"),
        (31, "../../c d"),
        (31, "a"),
    ]
    assert list_decisions(store, "flight") == []
    assert ".." not in decision_key("flight_delay", date(2013, 5, 31), "../../c d").split("/")


def test_a_broken_record_is_named(settings):
    store = get_store()
    key = decision_key("flight_delay", date(2013, 5, 31), "x")
    store.write(key, b"{}")
    with pytest.raises(ConfigurationError, match="not a decision record: model: Field required"):
        list_decisions(store)


def test_amending_nothing_is_an_error(settings):
    with pytest.raises(ConfigurationError, match="gone"):
        amend_decision(get_store(), "decisions/flight_delay/x.json", promotion=PROMOTION)


def test_history_shows_every_decision(settings):
    runner = CliRunner()
    assert "No decisions yet" in runner.invoke(app, ["history"]).output
    store = get_store()
    amend_decision(store, write_decision(store, record(30, "a")), promotion=PROMOTION)
    write_decision(store, record(31, "b", decision=Decision.NOT_JUSTIFIED))
    shown = runner.invoke(app, ["history"], env={"COLUMNS": "80"}).output
    assert [line.rstrip() for line in shown.splitlines()] == [
        "2013-05-30  promote: version 2",
        "            auc: champion 0.7000, challenger 0.7500, +0.0500 [+0.0400, +0.0600]",
        "            better [by far]",
        "            by a; approved by ada",
        "",
        "2013-05-31  not justified",
        "            auc: champion 0.7000, challenger 0.7500, +0.0500 [+0.0400, +0.0600]",
        "            better [by far]",
        "            by b",
        "",
    ]
    rows = runner.invoke(app, ["history", "--json"]).output.splitlines()
    assert [json.loads(row)["partition"] for row in rows] == ["2013-05-30", "2013-05-31"]


def test_history_is_readable_at_eighty_columns_and_says_which_model_if_there_are_several(settings):
    why = "; ".join(f"origin={name}: auc worse by 0.0500 (900 rows), more than the allowed 0.03" for name in "ABC")
    first = record(30, "drift__flight_delay-2013-05-30-f4caefe4").model_copy(update={"why": why})
    for one in (first, record(31).model_copy(update={"model": "churn"})):
        write_decision(get_store(), one)
    shown = CliRunner().invoke(app, ["history"], env={"COLUMNS": "80"}).output
    assert why in " ".join(line[12:].rstrip() for line in shown.splitlines())
    assert "2013-05-30  flight_delay: promote, not promoted" in shown
    assert "2013-05-31  churn: promote, not promoted" in shown
    assert "…" not in shown


def test_history_of_an_unknown_model_is_an_error(settings):
    assert isinstance(CliRunner().invoke(app, ["history", "nothing"]).exception, ConfigurationError)
