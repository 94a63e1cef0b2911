"""From a gate's yes to a champion by way of the traffic: real steps, PostgreSQL and MLflow, and a synthetic log."""

from __future__ import annotations

import io
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from test_lifecycle import BEFORE, judged
from typer.testing import CliRunner

from evergreen.catalog import load_model
from evergreen.cli import app
from evergreen.contract import Status, TemporaryError, utc_now
from evergreen.judgement import champions
from evergreen.judgement.audit import log_of, read_events
from evergreen.judgement.notices import is_rollout_told
from evergreen.judgement.rollouts import rollout_of
from evergreen.serving.engine import Engine
from evergreen.serving.following import Follower
from evergreen.serving.log_files import log_key, log_schema
from evergreen.serving.online_features import OnlineFeatures
from evergreen.settings import get_settings
from evergreen.store import get_store
from evergreen.training.registry import REPLACED, by_alias, connect
from evergreen_airflow.alerts.findings import found_in
from lifecycle_kit import PARTITION, Run, evaluation_rows, training_rows, write_model

pytestmark = pytest.mark.integration

DELIVERY = {
    "strategy": "canary",
    "steps": [20, 50],
    "split_by": ["x"],
    "minimum_requests": 200,
    "minimum_minutes": 0,
    "guardrails": {"prediction_shift": 0.5},
}


@pytest.fixture
def model(mlflow_settings, tmp_path, monkeypatch):
    """A small model with a weak champion, whose next promotion is a canary."""
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    get_settings.cache_clear()
    name = write_model(tmp_path / "models", "binary")
    frame = training_rows("binary")
    weak = frame.assign(x=np.random.default_rng(3).permutation(frame["x"]))
    run, _ = judged(name, "champion", weak)
    run.steps("register", "promote")
    path = tmp_path / "models" / name / "model.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "delivery": DELIVERY}))
    yield name
    client = connect()  # the server is shared: the next test starts without models
    for registered in client.search_registered_models():
        client.delete_registered_model(registered.name)


def begun(model, run_id="better"):
    """Take a better challenger to where its rollout begins; returns the run and promote's manifest."""
    run, _ = judged(model, run_id)
    return run, run.steps("register", "promote")


def deliver(model, run_id, action="check", **params):
    return Run(model, run_id, dag="deliver").step("rollout", action=action, **params)


def under_way(model):
    return rollout_of(read_events(get_store(), model))


def kinds(model):
    return [event.kind.value for event in read_events(get_store(), model)]


def answer(model, challenger_errors=0, rows=400, seed=0):
    """Leave a file of the prediction log, as servers do: half of its rows of each variant."""
    rollout, rng, now = under_way(model), np.random.default_rng(seed), utc_now()
    wrong = {"champion": 0, "challenger": challenger_errors}
    lines = [
        {
            "prediction_id": f"{seed}-{number}",
            "variant": variant,
            "version": getattr(rollout, variant),
            "status": "error" if number // 2 < wrong[variant] else "ok",
            "experiment": rollout.experiment,
            "shadow": False,
            "served_at": now,
            "event_timestamp": now,
            "latency_ms": 5.0,
            "graph_ms": 1.0,
            "request_x": rng.normal(),
            "output_probability": rng.random(),
        }
        for number in range(rows)
        for variant in [("champion", "challenger")[number % 2]]
    ]
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(lines, log_schema(load_model(model), (), ("probability",))), content)
    get_store().write(log_key(model, rollout.experiment, now.date(), f"file-{seed}"), content.getvalue())


def test_a_canary_that_does_well_becomes_champion_step_by_step(model):
    run, promoted = begun(model)
    assert promoted.facts["strategy"] == "canary"
    assert promoted.outputs == ()
    assert "has begun" in found_in(promoted).what
    assert run.step("promote").facts == promoted.facts  # again: the same rollout
    assert by_alias(model, "champion").number == "1"
    assert is_rollout_told(get_store(), model)
    waits = deliver(model, "too early")
    assert waits.facts["event"] is None
    assert "the challenger has 0 of 200 requests" in waits.facts["waits_for"]
    answer(model)
    moved = deliver(model, "first step")
    assert moved.facts["event"] == "rollout_moved", moved.facts
    assert (under_way(model).share, under_way(model).step) == (0.5, 1)
    assert deliver(model, "second step, too early").facts["event"] is None
    answer(model, seed=1)
    done = deliver(model, "second step")
    assert (done.facts["event"], done.facts["outcome"]) == ("promoted", "finished")
    assert "version 2 is champion now" in found_in(done).what
    assert by_alias(model, "champion").number == "2"
    assert deliver(model, "second step").facts["event"] == "promoted"  # again: nothing twice
    assert kinds(model)[-3:] == ["rollout_started", "rollout_moved", "promoted"]
    assert not is_rollout_told(get_store(), model)
    assert deliver(model, "afterwards").status is Status.SKIPPED
    assert log_of(get_store(), model).audit()[1] == []
    history = CliRunner().invoke(app, ["history", model], env={"COLUMNS": "200"}).output
    assert "promote: version 2" in history


def test_a_canary_of_errors_is_rolled_back_within_one_check_and_told(model):
    run, _ = begun(model)
    answer(model, challenger_errors=100)
    ended = deliver(model, "check")
    assert (ended.facts["event"], ended.facts["outcome"]) == ("rollout_ended", "rolled_back")
    assert "error_rate: 0.5 against 0" in found_in(ended).what
    assert under_way(model) is None
    last = read_events(get_store(), model)[-1]
    assert last.recorded
    assert next(one for one in last.rollout.evidence if one.broken).challenger_rows == 200
    assert by_alias(model, "champion").number == "1"
    again = run.step("promote")
    assert again.status is Status.REFUSED
    assert "was rolled out, and that has ended (error_rate" in again.reason
    history = CliRunner().invoke(app, ["history", model], env={"COLUMNS": "200"}).output
    assert "rolled back: version 1 stays champion" in history
    assert "promote, refused" in history


def test_a_person_pauses_resumes_and_finishes(model):
    begun(model)
    said = {"reason": "a holiday", "by": "ada"}
    assert "reason: it is missing" in deliver(model, "no reason", "pause").failure.message
    assert "action: 'stop' is none" in deliver(model, "no action", "stop", **said).failure.message
    assert deliver(model, "a", "pause", **said).facts["by"] == "ada"
    assert deliver(model, "b", "pause", **said).status is Status.SKIPPED
    answer(model)
    assert deliver(model, "c").facts["why"] == "paused"
    assert (under_way(model).paused, under_way(model).share) == (True, 0.2)
    deliver(model, "d", "resume", **said)
    assert not under_way(model).paused
    assert deliver(model, "e", "finish", **said).facts["event"] == "promoted"
    assert by_alias(model, "champion").number == "2"
    assert "no rollout of" in deliver(model, "f", "roll_back", **said).failure.message


def test_a_guardrail_that_breaks_ends_a_paused_rollout(model):
    begun(model)
    deliver(model, "a", "pause", reason="lunch", by="ada")
    answer(model, challenger_errors=100)
    assert deliver(model, "b").facts["outcome"] == "rolled_back"


@pytest.mark.parametrize("version", ["", "1"])
def test_a_rollback_ends_a_rollout_and_the_next_is_another(model, version):
    begun(model)
    first = under_way(model)
    back = Run(model, "back", dag="rollback").step("rollback", reason="odd", by="ada", version=version)
    assert back.facts["version"] == "1", back.failure
    assert under_way(model) is None
    begun(model, "better still")
    second = under_way(model)
    assert (first.challenger, second.challenger) == ("2", "3")
    assert second.experiment != first.experiment
    assert second.salt != first.salt


def test_a_newer_challenger_ends_the_rollout_before_it(model):
    older, _ = begun(model)
    begun(model, "better still")
    assert under_way(model).challenger == "3"
    assert older.step("promote").status is Status.REFUSED


def test_an_undecided_rollout_ends_and_says_what_it_lacked(model, monkeypatch):
    begun(model)
    monkeypatch.setattr("evergreen.steps.rollout.utc_now", lambda: utc_now() + timedelta(days=15))
    ended = deliver(model, "late")
    assert ended.facts["outcome"] == "expired"
    assert "undecided after 14 days" in ended.facts["why"]


def test_a_registry_that_is_away_after_the_record_is_settled_by_the_next_check(model, monkeypatch):
    begun(model)

    def away(*_):
        raise TemporaryError("the registry is away")

    with monkeypatch.context() as patch:
        patch.setattr(champions, "set_alias", away)
        assert deliver(model, "a", "finish", reason="good", by="ada").failure is not None
    assert kinds(model)[-1] == "promoted"
    assert by_alias(model, "champion").number == "1"
    assert deliver(model, "next").status is Status.SKIPPED
    assert by_alias(model, "champion").number == "2"
    assert kinds(model).count("promoted") == 2
    assert BEFORE.end < PARTITION


def test_a_check_that_looked_before_a_pause_changes_nothing(model, monkeypatch):
    begun(model)
    answer(model)
    from evergreen.steps import rollout as step

    look = step.look

    def paused_meanwhile(*arguments):
        deliver(model, "a person", "pause", reason="wait", by="ada")
        return look(*arguments)

    monkeypatch.setattr(step, "look", paused_meanwhile)
    late = deliver(model, "check")
    assert late.facts["event"] is None
    assert "was changed at this moment" in late.facts["why"]
    assert under_way(model).paused


@pytest.mark.parametrize("delivery", [{"strategy": "direct"}, {**DELIVERY, "steps": [20]}], ids=str)
def test_a_rollout_goes_on_by_what_it_began_with(model, tmp_path, delivery):
    begun(model)
    path = tmp_path / "models" / model / "model.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "delivery": delivery}))
    assert "the challenger has 0 of 200 requests" in deliver(model, "too early").facts["waits_for"]
    answer(model)
    moved = deliver(model, "first step")
    assert moved.facts["event"] == "rollout_moved", moved.facts
    assert (under_way(model).share, under_way(model).delivery["steps"]) == (0.5, [20.0, 50.0])


def test_what_could_not_be_read_is_on_record_with_the_decision(model):
    begun(model)
    answer(model)
    rollout = under_way(model)
    get_store().write(log_key(model, rollout.experiment, utc_now().date(), "torn"), b"PAR1")
    assert deliver(model, "check").facts["unreadable_files"] == 1
    last = read_events(get_store(), model)[-1]
    assert (last.kind.value, last.rollout.unreadable_files) == ("rollout_moved", 1)


def test_neither_a_person_nor_the_end_of_the_days_waits_for_the_log(model, monkeypatch):
    from evergreen.steps import rollout as step

    def unread(*_):
        raise TemporaryError("the artifact store is slow")

    monkeypatch.setattr(step, "answers_of", unread)
    begun(model)
    said = {"reason": "odd", "by": "ada"}
    assert deliver(model, "check").failure is not None
    assert deliver(model, "a", "pause", **said).facts["event"] == "rollout_paused"
    assert deliver(model, "b", "resume", **said).facts["event"] == "rollout_resumed"
    monkeypatch.setattr(step, "utc_now", lambda: utc_now() + timedelta(days=15))
    assert deliver(model, "late").facts["outcome"] == "expired"


def test_a_server_that_lacks_a_column_of_the_challenger_goes_on_with_the_champion(model, tmp_path):
    engine = Engine(load_model(model), OnlineFeatures(load_model(model)))  # as it was started
    follower = Follower({model: engine}, seconds=60)
    assert follower.look() == {}
    path = tmp_path / "models" / model / "model.yaml"
    content = yaml.safe_load(path.read_text())
    content["features"]["numeric"].append("extra")
    path.write_text(yaml.safe_dump(content))
    training, evaluation = (make("binary").assign(extra=0.5) for make in (training_rows, evaluation_rows))
    run = Run(model, "wider")
    run.assemble(training, evaluation)
    run.train_without_ray(training, BEFORE)
    run.steps("evaluate", "gate", "register", "promote")
    try:
        assert "version 2 of small_binary asks for extra, and this server has no such column" in follower.look()[model]
        assert engine.versions == ["1"]
        newer = Engine(load_model(model), OnlineFeatures(load_model(model)))
        assert Follower({model: newer}, seconds=60).look() == {}
        assert newer.versions == ["1", "2"]
        newer.close()
    finally:
        engine.close()


def test_an_older_training_does_not_end_the_rollout_of_a_newer_one(model):
    older = Run(model, "older", partition=PARTITION - timedelta(days=1))
    older.assemble()
    older.train_without_ray(training_rows("binary"), BEFORE, spoil=False)
    older.steps("evaluate", "gate", "register")
    begun(model)
    newer = under_way(model)
    refused = older.step("promote")
    assert refused.status is Status.REFUSED
    assert f"version {newer.challenger}, which learned from newer days" in refused.reason
    assert under_way(model) == newer


def test_a_rollback_that_comes_after_the_end_of_a_rollout_takes_nothing_away_unless_told(model):
    begun(model)
    answer(model, challenger_errors=100)
    assert deliver(model, "a").facts["outcome"] == "rolled_back"
    late = Run(model, "late", dag="rollback")
    failure = late.step("rollback", reason="it answers with errors", by="ada").failure
    assert "the rollout of version 2" in failure.message
    assert "version 1, the champion, answers everything" in failure.message
    assert "--to none" in failure.hint
    assert by_alias(model, "champion").number == "1"
    told = Run(model, "told", dag="rollback").step("rollback", reason="it is bad too", by="ada", version="none")
    assert told.failure is None
    assert by_alias(model, "champion") is None


def test_a_rollout_that_begins_while_none_is_told_is_told(model, monkeypatch):
    tell = champions.tell_rollout

    def told_and_begun(store, name, *, under_way):
        tell(store, name, under_way=under_way)
        if not under_way and rollout_of(read_events(store, name)) is None:
            begun(name)

    monkeypatch.setattr(champions, "tell_rollout", told_and_begun)
    champions.tell_whether_rolled_out(get_store(), model)
    assert under_way(model) is not None
    assert is_rollout_told(get_store(), model)


def test_what_a_promotion_replaced_is_kept_when_the_registry_was_away(model, monkeypatch):
    begun(model)

    def away(*_):
        raise TemporaryError("the registry is away")

    with monkeypatch.context() as patch:
        patch.setattr(champions, "set_tags", away)
        assert deliver(model, "a", "finish", reason="good", by="ada").failure is not None
    assert by_alias(model, "champion").number == "1"
    assert deliver(model, "next").status is Status.SKIPPED
    champion = by_alias(model, "champion")
    assert (champion.number, champion.tags[REPLACED]) == ("2", "1")
