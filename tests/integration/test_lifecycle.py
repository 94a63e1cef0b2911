"""From a training set to a champion, through the real steps, Ray and MLflow."""

import json
import pkgutil
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from hashlib import sha256
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from documented import blocks, commands
from evergreen.catalog import load_model
from evergreen.cli import app
from evergreen.contract import (
    ConfigurationError,
    DataError,
    FailureClass,
    Request,
    RunIdentity,
    Status,
    TemporaryError,
    Window,
    utc_now,
)
from evergreen.handover import file_digest, read_bytes
from evergreen.judgement import champions
from evergreen.judgement.audit import append, read_events
from evergreen.judgement.champions import champion_of
from evergreen.judgement.decisions import list_decisions
from evergreen.judgement.events import Event, EventKind, last_move
from evergreen.judgement.evidence import Check, Decision, Verdict
from evergreen.judgement.questions import Answer
from evergreen.runner import build_request, execute
from evergreen.settings import PROJECT_ROOT, get_settings
from evergreen.steps import promote
from evergreen.store import get_store, read_manifest, write_manifest
from evergreen.training.challenger import run_key
from evergreen.training.loading import FILES, load_version
from evergreen.training.registry import by_alias, connect
from evergreen.training.signatures import stated_of_version, verified_files
from evergreen.training.tracking import find_run
from evergreen.trust.documents import store_signed
from evergreen.version import code_version
from lifecycle_kit import PARTITION, Run, evaluation_rows, said, training_rows, write_model

pytestmark = pytest.mark.integration

BEFORE = Window(start=PARTITION - timedelta(days=59), end=PARTITION - timedelta(days=20))


@pytest.fixture
def models(mlflow_settings, tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    get_settings.cache_clear()
    yield tmp_path / "models"
    client = connect()  # the server is shared: the next test starts without models
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_model_of_every_task_becomes_champion(models, task):
    run = Run(write_model(models, task), f"first of {task}")
    earlier = runs_of(run.model)  # of other tests, perhaps: they share the server
    run.assemble()
    trained = run.steps("train")
    gate = run.steps("evaluate", "gate")
    assert gate.facts["decision"] == "first_champion", gate.facts["why"]
    further = {check["subject"]: check for check in gate.facts["checks"] if "rules" in check["rule"]}
    assert list(further) == ["group_difference by site", "flip_rate_missing", "flip_rate_noise", "size_mb"]
    assert 0.01 < further["size_mb"]["value"] < 1
    assert 0 <= further["flip_rate_noise"]["value"] < further["flip_rate_missing"]["value"], further
    assert {check["verdict"] for check in gate.facts["checks"]} == {"passed"}
    behaved = {check["subject"]: check for check in gate.facts["checks"] if check["rule"] == "behaviours"}
    assert list(behaved) == ["the gap is little", "x drives the outcome", "x = 2 in the north"]
    assert behaved["x drives the outcome"]["rows"] == len(evaluation_rows(task))
    (leak,) = (check for check in gate.facts["checks"] if check["rule"] == "gate.leak_threshold")
    assert leak["subject"] == "x alone"
    (late,) = (check for check in gate.facts["checks"] if check["rule"] == "gate.maximum_late_events")
    assert (late["value"], late["rows"]) == (0, len(training_rows(task)) + len(evaluation_rows(task)))
    promoted = run.steps("register", "promote")
    assert promoted.facts == {"version": "1", "previous": None}

    champion = by_alias(run.model, "champion")
    assert champion.number == "1"
    assert (champion.training.start, champion.training.end) == (BEFORE.start, BEFORE.end)
    assert champion.tags["snapshot.examples"] == "4711"
    logged = connect().get_run(trained.facts["run_id"])
    assert logged.data.tags["evergreen.snapshot.examples"] == "4711"
    assert logged.data.tags["evergreen.decision"] == "first_champion"
    assert logged.data.params["epochs"] == "3"
    losses = connect().get_metric_history(trained.facts["run_id"], "train_loss")
    assert [metric.step for metric in losses] == [1, 2, 3]
    assert losses[-1].value < losses[0].value

    raw = pd.DataFrame({"x": [0.3, np.nan], "gap": [np.nan, 1.0], "site": ["north", "never seen"], "hour": [5, None]})
    predicted = load_version(champion).predict(raw)
    expected = {"binary": ["probability"], "multiclass": ["high", "low", "middle"], "regression": ["prediction"]}
    assert list(predicted.columns) == expected[task]
    assert np.isfinite(predicted.to_numpy()).all()

    # again: the same outputs, nothing twice
    manifests = {name: read_manifest(get_store(), run.identity(name)) for name in STEPS}
    for name in STEPS:
        again = run.steps(name)
        for field in ("status", "outputs", "metrics", "facts"):
            assert getattr(again, field) == getattr(manifests[name], field), (name, field)
    assert runs_of(run.model) - earlier == {trained.facts["run_id"]}
    assert len(connect().search_model_versions(f"name = '{run.model}'")) == 1


def runs_of(model: str) -> set[str]:
    experiment = connect().get_experiment_by_name(model)
    found = connect().search_runs([experiment.experiment_id]) if experiment else []
    return {run.info.run_id for run in found}


STEPS = ("train", "evaluate", "gate", "refit", "register", "promote")


@pytest.fixture
def binary(models):
    return write_model(models, "binary")


def judged(model, run_id, frame=None, window=BEFORE, spoil=False, evaluation=None):
    """Train a challenger without Ray and take it through the gate."""
    run = Run(model, run_id)
    run.assemble(evaluation=evaluation)
    run.train_without_ray(training_rows("binary") if frame is None else frame, window, spoil)
    run.steps("evaluate")
    gate = run.step("gate")
    assert gate.failure is None, gate.failure
    return run, gate


def champion(model, **kwargs):
    run, gate = judged(model, "champion", **kwargs)
    assert gate.status is Status.OK, gate.reason
    run.steps("register", "promote")
    return run


def weak():
    """Rows in which x, the better half of the signal, is noise."""
    frame = training_rows("binary")
    return frame.assign(x=np.random.default_rng(3).permutation(frame["x"]))


def shuffled():
    frame = training_rows("binary")
    return frame.assign(outcome=np.random.default_rng(3).permutation(frame["outcome"]))


def test_a_finished_training_is_found_again_by_the_same_code_only(binary, monkeypatch):
    """Cleared as it is, ``train`` returns what there is; cleared after a fix it trains anew."""
    run = Run(binary, "cleared")
    run.assemble()
    window = Window(start=PARTITION, end=PARTITION)
    request = build_request("train", binary, window, run.identity("train"), {"assemble": "assemble"}, {})

    def key():
        return run_key(request, run.spec, request.upstream["assemble"].output("training"))

    finished = run.steps("train").facts["run_id"]
    assert run.steps("train").facts["run_id"] == finished
    assert find_run(binary, key())[0] == finished
    network = run.spec.folder / "network.py"
    before = network.read_text()
    network.write_text(f"{before}# another\n")
    assert find_run(binary, key()) is None
    network.write_text(before)
    assert find_run(binary, key())[0] == finished
    with monkeypatch.context() as patch:
        patch.setattr("evergreen.training.challenger.version", lambda name: "0" if name == "torch" else version(name))
        assert find_run(binary, key()) is None
    assert find_run(binary, key())[0] == finished
    monkeypatch.setenv("EVERGREEN_CODE_VERSION", "fixed")
    get_settings.cache_clear()
    code_version.cache_clear()
    assert find_run(binary, key()) is None
    code_version.cache_clear()


def test_an_identical_challenger_is_not_promoted(binary):
    champion(binary)
    run, gate = judged(binary, "same again")
    assert gate.status is Status.REFUSED
    assert gate.facts["decision"] == "not_justified"
    assert gate.metrics["improvement"] == 0
    assert gate.metrics["challenger_auc"] == gate.metrics["champion_auc"]
    assert run.step("register").status is Status.SKIPPED
    assert by_alias(binary, "champion").number == "1"


def test_a_clearly_better_challenger_is_promoted_once(binary):
    champion(binary, frame=weak())
    run, gate = judged(binary, "better")
    assert gate.facts["decision"] == "promote", gate.facts["why"]
    assert gate.metrics["improvement_low"] > 0
    run.steps("register")
    promoted = run.promote(said("bob", "Reject"))  # nobody was asked: it is no answer
    assert promoted.facts == {"version": "2", "previous": "1"}
    record = list_decisions(get_store(), binary)[-1]
    assert record.answered is None
    assert (record.promoted.by, record.promoted.previous, record.registered.version) == ("better", "1", "2")
    assert gate.facts["decision_key"] == f"audit/{binary}/{record.decided.number}"
    assert {output.name for output in record.judgement.evidence} >= {
        "evaluation",
        "model",
        "champion",
        "training",
        "examples",
    }
    first = read_manifest(get_store(), run.identity("evaluate"))
    assert gate.facts["evaluation_digest"] == first.output("evaluation").digest
    pictures = {"improvement_by_slice", "metric_by_day", "roc_curve", "calibration"}
    assert {output.name for output in first.outputs} == {"evaluation", *pictures}
    logged = connect().list_artifacts(gate.facts["run_id"], "evaluation")
    assert {file.path for file in logged} == {f"evaluation/{name}.png" for name in pictures}
    drawn = {name: sha256(read_bytes(first, name)).hexdigest() for name in pictures}
    assert record.judgement.evaluation.pictures == drawn  # whoever signs the decision signs them too
    # an evaluation that runs again after the promotion still compares with the champion it replaced
    again = run.step("evaluate")
    assert (again.metrics, again.outputs) == (first.metrics, first.outputs)
    assert run.step("promote").facts == promoted.facts
    assert len(list_decisions(get_store(), binary)) == 2


def test_a_winner_is_fitted_again_on_the_days_it_was_judged_on(models, monkeypatch):
    """What is registered has learned from both windows; the decision is about the challenger, and says so."""
    model = write_model(models, "binary", refit=True)
    first = champion(model, frame=weak())
    assert first.steps("refit").outputs == read_manifest(get_store(), first.identity("train")).outputs  # no other yet
    run, gate = judged(model, "better")
    assert gate.status is Status.OK, gate.reason
    challenger = read_manifest(get_store(), run.identity("train")).facts["run_id"]
    fitted = run.steps("refit")
    assert fitted.facts["refit_of"] == challenger != fitted.facts["run_id"]
    assert fitted.facts["rows"] == len(training_rows("binary")) + len(evaluation_rows("binary"))
    assert run.steps("refit").outputs == fitted.outputs  # again: found, and not trained twice
    run.steps("register", "promote")
    serving = by_alias(model, "champion")
    assert (serving.number, serving.run_id, serving.challenger) == ("2", fitted.facts["run_id"], challenger)
    assert (serving.training.start, serving.training.end) == (BEFORE.start, PARTITION)
    again = run.steps("evaluate")  # of what was judged, with the champion of then
    assert again.facts["champion"] == "1"
    assert run.steps("gate", "promote").facts == {"version": "2", "previous": "1"}
    slow = Check(rule="gate.rules[].maximum", subject="latency_ms", verdict=Verdict.FAILED, why="a slower machine")
    monkeypatch.setattr("evergreen.steps.refit.unlabelled_checks", lambda *_: (slow,))
    assert run.steps("refit").outputs == fitted.outputs  # it was asked before it was registered
    assert run.steps("register", "promote").facts == {"version": "2", "previous": "1"}


def with_the_east(frame):
    """Let every tenth row come from a site of which nobody knew before the evaluation window."""
    return frame.assign(site=frame["site"].where(np.arange(len(frame)) % 10 != 0, "east"))


@pytest.mark.parametrize("level", ["blocking", "warning"])
def test_what_is_fitted_again_is_asked_what_needs_no_label(models, level):
    """The challenger knows no east, so it is like any other new site; what is fitted again has learned of it."""
    model = write_model(models, "binary", refit=True)
    test = {"name": "new sites are alike", "where": {"site": "east"}, "set": {"site": "nowhere"}, "level": level}
    (models / model / "behaviours.yaml").write_text(json.dumps({"invariance": [test]}))
    evaluation = with_the_east(evaluation_rows("binary"))
    champion(model, frame=weak(), evaluation=evaluation)
    run, gate = judged(model, "better", evaluation=evaluation)
    assert gate.facts["decision"] == "promote", gate.facts["why"]
    challenger = read_manifest(get_store(), run.identity("train"))
    fitted = run.steps("refit")
    (check,) = (check for check in fitted.facts["checks"] if check["rule"] == "behaviours")
    assert check["verdict"] == ("failed" if level == "blocking" else "warning")
    run.steps("register", "promote")
    serving = by_alias(model, "champion")
    if level == "warning":
        assert (serving.run_id, serving.challenger) == (fitted.facts["run_id"], challenger.facts["run_id"])
        assert "refit_refused" not in {**fitted.facts, **serving.tags}
        return
    assert serving.run_id == challenger.facts["run_id"] != fitted.facts["refused_run_id"]
    assert "behaviours: 'new sites are alike': the answer does not stay in 100.0% of 120 rows" in fitted.reason
    assert serving.tags["refit_refused"] == fitted.reason
    assert fitted.outputs == challenger.outputs


def test_what_a_gate_refuses_is_not_fitted_again(models):
    model = write_model(models, "binary", refit=True)
    champion(model)
    run, gate = judged(model, "the same")
    assert gate.status is Status.REFUSED
    assert run.step("refit").status is Status.SKIPPED


def test_a_person_says_no_then_yes(binary, models):
    path = models / binary / "model.yaml"
    path.write_text(path.read_text() + "approval: {required: true}\n")
    run, _ = judged(binary, "asked")
    run.steps("register")

    def found():
        return list_decisions(get_store(), binary)[0]

    unasked = run.step("promote")
    assert unasked.failure.failure_class is FailureClass.CONFIGURATION
    assert "approval.required: nobody has answered approve about this promotion" in unasked.failure.message
    marked = run.promote([Answer()]).failure  # it is asked, and its task was marked as a success
    assert "approval.required: nobody has answered approve" in marked.message
    assert found().answered is None

    for who, why in (("", "nobody answered in time"), ("bob", "rejected by bob")):
        rejected = run.promote(said(who, "Reject"))
        assert rejected.status is Status.SKIPPED
        assert why in rejected.reason
        assert (found().answered.kind, found().answered.by) == ("rejected", who or None)
        assert by_alias(binary, "champion") is None

    assert run.promote(said("ada")).facts == {"version": "1", "previous": None}
    assert (found().promoted.by, found().answered.kind) == ("ada", "approved")
    assert by_alias(binary, "champion").number == "1"


def test_four_eyes_are_those_of_two_people(binary, models):
    path = models / binary / "model.yaml"
    path.write_text(path.read_text() + "approval: {required: true, four_eyes: true}\n")
    run = Run(binary, "asked")
    where = {"model": binary, "partition": PARTITION, "run": run.identity("assemble"), "training": run.run_id}
    append(get_store(), Event(kind=EventKind.TRAINING_STARTED, at=utc_now(), by="ada", **where))
    judged(binary, "asked")
    run.steps("register")
    for who, why in (("ada", "ada started this training, so another person"), ("", "nobody knows who approved")):
        refused = run.promote(said(who))
        assert refused.status is Status.REFUSED
        assert f"version 1: approval.four_eyes: {why}" in refused.reason
        assert kinds(binary)[-1] == "refused"
        assert by_alias(binary, "champion") is None
    assert run.promote(said("bob")).facts["version"] == "1"


@pytest.fixture
def asked_twice(binary, models):
    """A challenger that two people are asked about; ada has started its training."""
    path = models / binary / "model.yaml"
    path.write_text(path.read_text() + "approval: {required: true, approvers: 2}\n")
    run, _ = judged(binary, "asked")
    where = {"model": binary, "partition": PARTITION, "run": run.identity("assemble"), "training": run.run_id}
    append(get_store(), Event(kind=EventKind.TRAINING_STARTED, at=utc_now(), by="ada", **where))
    run.steps("register")
    return run


def answers_on_record(model):
    found = list_decisions(get_store(), model)[0].answers.items()
    return {question: (one.kind, one.by, one.by_id, one.shown) for question, one in found}


def test_two_people_approve(binary, asked_twice):
    answers = [*said("7", name="eve", shown="d1"), *said("8", name="eve", shown="d2")]  # names may repeat
    assert asked_twice.promote(answers).facts == {"version": "1", "previous": None}
    assert answers_on_record(binary) == {1: ("approved", "eve", "7", "d1"), 2: ("approved", "eve", "8", "d2")}
    assert "approved by eve and eve" in CliRunner().invoke(app, ["history", binary]).output
    assert last_move(read_events(get_store(), binary)).by == "eve and eve"
    before = kinds(binary)
    assert asked_twice.promote(answers).facts["version"] == "1"
    assert kinds(binary) == before


def test_one_person_is_not_two(binary, asked_twice):
    twice = asked_twice.promote([*said("7", name="eve"), *said("7", name="Eve A.")])
    assert twice.status is Status.REFUSED
    assert twice.reason == (
        "version 1: approval.approvers: Eve A. has approved twice, so another person has to approve it: "
        "clear approve_again"
    )
    assert answers_on_record(binary) == {1: ("approved", "eve", "7", "")}
    assert kinds(binary)[-1] == "refused"
    assert by_alias(binary, "champion") is None
    unknown = asked_twice.promote([*said("7"), *said("", name="bob")])
    assert unknown.reason == "version 1: approval.approvers: nobody knows who approved: clear approve_again"
    assert asked_twice.promote([*said("7"), *said("8")]).facts["version"] == "1"


@pytest.mark.parametrize(
    ("second", "why"),
    [(said("bob", "Reject"), "rejected by bob"), (said("", "Reject"), "rejected: nobody answered in time")],
)
@pytest.mark.parametrize("turned", [False, True])
def test_one_no_of_two_is_a_no_and_both_answers_are_on_record(binary, asked_twice, second, why, turned):
    answers = [*second, *said("eve")] if turned else [*said("eve"), *second]
    rejected = asked_twice.promote(answers)
    assert (rejected.status, rejected.reason) == (Status.SKIPPED, f"version 1: {why}; approved by eve")
    assert sorted(kind for kind, *_ in answers_on_record(binary).values()) == ["approved", "rejected"]
    assert by_alias(binary, "champion") is None
    assert asked_twice.promote([*said("eve"), *said("bob")]).facts["version"] == "1"


def test_a_question_that_a_no_has_ended_has_no_answer(binary, asked_twice):
    withdrawn = said("", "Withdrawn")
    rejected = asked_twice.promote([*said("bob", "Reject"), *withdrawn])
    assert (rejected.status, rejected.reason) == (Status.SKIPPED, "version 1: rejected by bob")
    half = asked_twice.promote([*said("bob"), *withdrawn])  # only the first was asked again
    assert half.status is Status.REFUSED
    assert "approve_again was withdrawn when the other approver said no: clear approve_again too" in half.reason
    assert answers_on_record(binary) == {1: ("approved", "bob", "bob", "")}
    assert by_alias(binary, "champion") is None


def test_two_of_whom_one_has_answered_are_not_two(binary, asked_twice):
    alone = asked_twice.promote(said("eve")).failure
    assert alone.failure_class is FailureClass.CONFIGURATION
    assert "approval.approvers: nobody has answered approve_again" in alone.message
    assert answers_on_record(binary) == {}


def test_what_was_trained_again_in_the_same_run_has_no_answers_yet(binary, asked_twice):
    assert "rejected by bob" in asked_twice.promote([*said("eve"), *said("bob", "Reject")]).reason
    run = Run(binary, "asked")
    run.train_without_ray(training_rows("binary", days=39), BEFORE, key="on other days")
    run.steps("evaluate", "gate", "refit", "register")
    record = list_decisions(get_store(), binary)[0]
    assert (record.registered.version, record.answers, record.waiting) == ("2", {}, True)
    refused = run.step("promote")
    assert refused.status is Status.REFUSED
    assert refused.reason.startswith("version 2: approve was answered about version 1: clear approve")
    assert by_alias(binary, "champion") is None
    assert run.promote([*said("eve"), *said("bob")]).facts["version"] == "2"


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({"version": "3"}, "approve was answered about version 3: clear approve"),
        ({"version": ""}, "approve was answered about version unknown: clear approve"),  # of before it was written down
        ({"evaluation": "another"}, "approve was answered about the evaluation another, and "),
    ],
)
def test_an_answer_about_something_else_promotes_nothing(binary, asked_twice, about, why):
    yes = [*said("eve"), *said("bob")]
    refused = asked_twice.promote(yes, **about)
    assert refused.status is Status.REFUSED
    assert refused.reason.startswith(f"version 1: {why}")
    assert answers_on_record(binary) == {}
    assert (kinds(binary)[-1], by_alias(binary, "champion")) == ("refused", None)
    assert asked_twice.promote(yes).facts["version"] == "1"


@pytest.mark.parametrize("answers", [[*said("ada"), *said("bob")], [*said("bob"), *said("ada")]])
def test_of_two_approvers_neither_may_have_started_the_training(binary, models, asked_twice, answers):
    path = models / binary / "model.yaml"
    path.write_text(path.read_text().replace("approvers: 2", "approvers: 2, four_eyes: true"))
    run = Run(binary, "asked")
    refused = run.promote(answers)
    assert refused.status is Status.REFUSED
    assert "approval.four_eyes: ada started this training" in refused.reason
    assert by_alias(binary, "champion") is None
    assert run.promote([*said("bob"), *said("eve")]).facts["version"] == "1"


@pytest.mark.parametrize("with_champion", [True, False])
def test_a_challenger_of_shuffled_labels_is_refused(binary, with_champion):
    if with_champion:
        champion(binary)
    _, gate = judged(binary, "shuffled", frame=shuffled())
    assert gate.status is Status.REFUSED
    assert "below the limit" in gate.reason


def test_a_challenger_that_predicts_nan_is_refused(binary):
    _, gate = judged(binary, "nan", spoil=True)
    assert gate.status is Status.REFUSED
    assert "auc could not be computed" in gate.reason


def test_a_champion_that_has_seen_the_window_is_no_evidence(binary):
    seen = Window(start=BEFORE.start, end=BEFORE.end + timedelta(days=1))
    run = Run(binary, "champion")
    run.assemble(evaluation=evaluation_rows("binary")[60:])  # its own evaluation starts a day later
    run.train_without_ray(weak(), seen)
    run.steps("evaluate", "gate", "register", "promote")
    _, gate = judged(binary, "better")
    assert gate.status is Status.REFUSED
    assert "the champion learned from" in gate.reason
    assert read_manifest(get_store(), Run(binary, "better").identity("evaluate")).facts["champion_saw_window"]


def test_a_challenger_judged_against_a_former_champion_is_not_promoted(binary):
    champion(binary, frame=weak())
    late, _ = judged(binary, "late")
    late.steps("register")
    other, _ = judged(binary, "other")
    other.steps("register", "promote")
    refused = late.step("promote")
    assert refused.status is Status.REFUSED
    assert "now version 3" in refused.reason
    assert by_alias(binary, "champion").number == "3"


REGISTERING = (
    "mlflow.MlflowClient.create_registered_model",
    "mlflow.MlflowClient.create_model_version",
    "evergreen.training.registration.set_tags",
    "evergreen.training.registration.sign_version",
    "evergreen.steps.register.set_alias",
)


def test_a_register_that_is_killed_again_and_again_ends_in_one_version_that_loads(binary, monkeypatch):
    run, gate = judged(binary, "killed")
    for point in REGISTERING:
        with monkeypatch.context() as patch:
            patch.setattr(point, killed_after(pkgutil.resolve_name(point)))
            assert run.step("register").failure.message == "RuntimeError: killed"
        assert (by_alias(binary, "challenger") is not None) == point.endswith("set_alias")
    assert run.steps("register").facts["version"] == "1"
    (version,) = connect().search_model_versions(f"name = '{binary}'")
    assert by_alias(binary, "challenger").number == str(version.version) == "1"
    assert version.tags["evergreen.decision_key"] == gate.facts["decision_key"]
    assert load_version(by_alias(binary, "challenger")).bound.version == "1"


def killed_after(function):
    def call(*arguments, **named):
        function(*arguments, **named)
        raise RuntimeError("killed")

    return call


def test_of_two_registrations_at_once_the_older_version_counts(binary, monkeypatch):
    run, _ = judged(binary, "twice")
    create = MlflowClient.create_model_version

    def second(*arguments, **named):
        create(*arguments, **named)  # another process was faster, by less than the time since this one has looked
        return create(*arguments, **named)

    monkeypatch.setattr(MlflowClient, "create_model_version", second)
    assert run.steps("register").facts["version"] == "1"
    assert run.steps("promote").facts["version"] == "1"


def test_no_alias_points_to_a_version_that_does_not_load(binary, tmp_path):
    broken = tmp_path / "broken"
    with (tmp_path / "models" / binary / "network.py").open("a") as network:
        network.write(f"\n\nbuild_well = build\n\n\ndef build(schema):\n    open({str(broken)!r})\n")
        network.write("    return build_well(schema)\n")
    broken.touch()
    run, _ = judged(binary, "broken")
    broken.unlink()
    failure = run.step("register").failure
    assert failure.failure_class is FailureClass.DATA
    assert f"models:/{binary}/1: it is registered, but does not load" in failure.message
    assert by_alias(binary, "challenger") is None


COUNTING = """

class Counting(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("seen", torch.zeros(1), persistent={persistent})

    def forward(self, numeric, categorical):
        if self.training:
            self.seen += 0.01
        return self.inner(numeric, categorical) + self.seen


build_inner = build


def build(schema):
    return Counting(build_inner(schema))
"""


@pytest.mark.parametrize("persistent", [True, False])
def test_no_alias_points_to_a_version_that_answers_otherwise_than_in_training(binary, models, persistent):
    with (models / binary / "network.py").open("a") as network:
        network.write(COUNTING.format(persistent=persistent))
    run, _ = judged(binary, "counting")
    registered = run.step("register")
    if persistent:
        assert registered.failure is None, registered.failure
        assert by_alias(binary, "challenger").number == "1"
        return
    assert registered.failure.failure_class is FailureClass.DATA
    said = f"models:/{binary}/1: it is registered, but does not answer as it did: row 1 of golden.json: probability:"
    assert said in registered.failure.message
    assert "buffers that are persistent" in registered.failure.hint
    assert by_alias(binary, "challenger") is None


BY_THE_DATA = """

class ByTheData(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, numeric, categorical):
        return self.inner(numeric, categorical) * (1 if float(numeric.sum()) < 1e9 else 2)


build_inner = build


def build(schema):
    return ByTheData(build_inner(schema))
"""


@pytest.mark.parametrize("exportable", [True, False])
def test_a_version_without_a_graph_is_registered_and_its_tags_say_why(binary, models, exportable):
    if not exportable:
        with (models / binary / "network.py").open("a") as network:
            network.write(BY_THE_DATA)
    run, _ = judged(binary, "exported" if exportable else "not exported")
    assert run.step("register").failure is None
    version = by_alias(binary, "challenger")
    with verified_files(stated_of_version(version), version.uri) as folder:
        assert (folder / FILES / "model.onnx").exists() is exportable
    refused = version.tags.get("graph_refused", "")
    assert refused.startswith("GuardOnDataDependentSymNode: ") is not exportable
    assert stated_of_version(version).bound.facts.get("graph_refused", "") == refused


READ = [
    ("train", "assemble", "training"),
    ("evaluate", "assemble", "evaluation"),
    ("evaluate", "train", "model"),
    ("gate", "train", "model"),
    ("gate", "evaluate", "evaluation"),
    ("refit", "train", "model"),
    ("register", "refit", "model"),
    ("promote", "register", "version"),
]


def test_a_changed_manifest_is_refused_by_every_step_that_reads_it(binary):
    run = champion(binary)
    for step, upstream, name in READ:
        before, own = (read_manifest(get_store(), run.identity(task)) for task in (upstream, step))
        right = before.output(name)
        for field, wrong in (("uri", f"{right.uri}0"), ("version", "4711"), ("digest", "0" * 16), ("rows", 4711)):
            changed_manifest_is_refused(run, before, right.model_copy(update={field: wrong}), step, field)
        write_manifest(get_store(), before)
        if own:
            write_manifest(get_store(), own)
    for step in ("evaluate", "gate", "refit", "register", "promote"):  # untouched, all of them pass
        assert run.step(step).failure is None
    evaluation_of_another_training_is_refused(run)


def evaluation_of_another_training_is_refused(run):
    """As when ``train`` was cleared and trained anew, and ``gate`` after it, but not ``evaluate``."""
    evaluated = read_manifest(get_store(), run.identity("evaluate"))
    output = evaluated.output("evaluation")
    content = json.loads(get_store().read(f"{evaluated.run.key}/evaluation.json"))
    content["challenger"]["run_id"] = "an older one"
    uri = get_store().write(f"{evaluated.run.key}/evaluation.json", json.dumps(content).encode())
    digest = file_digest(json.dumps(content).encode())
    other = output.model_copy(update={"uri": uri, "version": digest, "digest": digest})
    write_manifest(get_store(), evaluated.model_copy(update={"outputs": (other,)}))
    message = run.step("gate").failure.message
    assert "it is not what the task 'evaluate' of small_binary.train (champion) has signed" in message
    request = Request(step="evaluate", model=run.model, window=evaluated.window, run=evaluated.run)
    store_signed(request, "evaluation", f"{evaluated.run.key}/evaluation.json", json.dumps(content).encode())
    message = run.step("gate").failure.message
    assert "the evaluation is of MLflow's run 'an older one': run evaluate again too" in message


def changed_manifest_is_refused(run, before, changed, step, field):
    outputs = tuple(changed if output.name == changed.name else output for output in before.outputs)
    write_manifest(get_store(), before.model_copy(update={"outputs": outputs}))
    failure = run.step(step).failure
    assert failure is not None, (step, field)
    assert failure.failure_class is FailureClass.DATA, failure
    assert repr(before.run.task_id) in failure.hint
    message = f"outputs: {changed.name}.{field} is {getattr(changed, field)!r}, but "
    assert message in failure.message or "is gone" in failure.message


@pytest.mark.parametrize("step", ["register", "promote"])
def test_a_backfill_never_moves_an_alias(binary, step):
    run = Run(binary, "history", dag="backfill")
    for name in ("train", "gate", "refit", "register"):
        run.leave(name)
    failed = run.step(step)
    assert failed.failure.failure_class is FailureClass.CONFIGURATION
    assert "never moves a model alias" in failed.failure.message
    assert by_alias(binary, "champion") is None


def test_promote_without_a_decision_is_refused(binary):
    run = Run(binary, "forged")
    run.leave("register", facts={"version": "1"})
    run.leave("gate", facts={"decision_key": f"decisions/{binary}/none.json", "champion": None})
    assert "no decision that lets the challenger of forged pass" in run.step("promote").failure.message


def test_a_decision_that_its_own_evaluation_does_not_justify_is_refused_on_record(binary):
    """Signed even, and with manifests that say yes: the promotion decides again."""
    champion(binary)
    run, gate = judged(binary, "same again")
    assert gate.facts["decision"] == "not_justified"
    judgement = list_decisions(get_store(), binary)[-1].judgement.model_copy(update={"decision": Decision.PROMOTE})
    where = {"model": binary, "partition": PARTITION, "run": run.identity("gate"), "training": run.run_id}
    append(get_store(), Event(kind=EventKind.DECIDED, at=utc_now(), judgement=judgement, **where))
    yes = {"status": Status.OK, "reason": "", "facts": {**gate.facts, "decision": "promote"}}
    write_manifest(get_store(), gate.model_copy(update=yes))
    run.steps("register")
    for _ in range(2):
        refused = run.step("promote")
        assert refused.status is Status.REFUSED
        assert "its evaluation does not justify a promotion: improvement of auc" in refused.reason
    assert by_alias(binary, "champion").number == "1"
    assert kinds(binary).count("refused") == 1
    assert "promote, refused" in CliRunner().invoke(app, ["history", binary]).output


def test_a_decision_that_only_a_newer_version_understands_is_no_yes(binary):
    run, _ = judged(binary, "newer")
    run.steps("register")
    judgement = list_decisions(get_store(), binary)[0].judgement.model_copy(update={"decision": Decision("trial")})
    where = {"model": binary, "partition": PARTITION, "run": run.identity("gate"), "training": run.run_id}
    append(get_store(), Event(kind=EventKind.DECIDED, at=utc_now(), judgement=judgement, **where))
    assert "no decision that lets the challenger of newer pass" in run.step("promote").failure.message
    assert by_alias(binary, "champion") is None


def test_steps_name_what_they_miss(binary):
    run = Run(binary, "alone")
    with pytest.raises(DataError, match="upstream manifest is missing"):
        run.step("train")
    run.leave("assemble")
    assert "no output 'training'" in run.step("train").failure.message
    alone = Request(
        step="train",
        model=binary,
        window=Window(start=PARTITION, end=PARTITION),
        run=run.identity("train"),
        attempt="1",
    )
    assert "needs the manifest of assemble" in execute(alone).failure.message


def test_a_server_that_does_not_answer_is_temporary(mlflow_settings, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    get_settings.cache_clear()
    with pytest.raises(TemporaryError, match="Is the server up"):
        by_alias("small_binary", "champion")


def test_a_champion_keeps_inputs_the_spec_no_longer_names(models):
    """A model loads with its own encoder and network, and is asked for its own inputs."""
    name = write_model(models, "binary")
    champion(name)
    file = models / name / "model.yaml"
    file.write_text(file.read_text().replace("  - gap\n", ""))
    (models / name / "behaviours.yaml").unlink()  # it names gap too
    (models / name / "network.py").write_text("raise RuntimeError('the champion must not load this')\n")
    assert load_model(name).features.numeric == ("x",)
    raw = evaluation_rows("binary")
    assert len(load_version(by_alias(name, "champion")).predict(raw[["x", "gap", "site", "hour"]])) == len(raw)


def kinds(model):
    return [event.kind.value for event in read_events(get_store(), model)]


def better(model):
    champion(model, frame=weak())
    run, gate = judged(model, "better")
    assert gate.facts["decision"] == "promote", gate.facts["why"]
    run.steps("register", "promote")
    return run


def rollback(model, run_id="first rollback", **params):
    return Run(model, run_id, dag="rollback").step("rollback", **{"reason": "wrong in the rain", "by": "ada", **params})


def test_a_rollback_lets_the_champion_before_serve_and_an_old_promotion_does_not_undo_it(binary):
    run = better(binary)
    where = {"model": binary, "partition": PARTITION, "run": run.identity("export"), "training": run.run_id}
    newer = Event(kind=EventKind("exported"), at=utc_now(), version="2", **where)  # of a version ahead of this one
    append(get_store(), newer)
    done = rollback(binary)
    assert done.facts == {"version": "1", "previous": "2", "by": "ada", "why": "wrong in the rain"}
    assert by_alias(binary, "champion").number == "1"
    assert rollback(binary).facts == done.facts  # the same task again: one event
    assert kinds(binary).count("rolled_back") == 1

    again = run.step("promote")
    assert again.status is Status.REFUSED
    assert "version 2 was promoted, and was rolled back by ada (wrong in the rain)" in again.reason
    run.steps("gate", "register")  # nor does judging it again open the way
    assert run.step("promote").status is Status.REFUSED
    assert by_alias(binary, "champion").number == "1"

    back = rollback(binary, "second thoughts", version="2")
    assert back.facts["version"] == by_alias(binary, "champion").number == "2"
    assert "was moved since" in rollback(binary).failure.message
    assert "alias_moved" not in kinds(binary)


def test_the_documented_rollback_asks_or_is_told_and_says_what_it_did(binary):
    better(binary)
    (shown,) = [
        words
        for block, _ in blocks((PROJECT_ROOT / "README.md").read_text())
        for words in commands(block)
        if words[:2] == ["evergreen", "rollback"]
    ]
    typed = [binary if word == "flight_delay" else word for word in shown[1:]]
    declined = CliRunner().invoke(app, typed[:-1], input="n\n")
    assert declined.exit_code == 1
    assert by_alias(binary, "champion").number == "2"
    done = CliRunner().invoke(app, typed)
    assert f"{binary}: version 1 is champion again, instead of 2." in done.output
    assert by_alias(binary, "champion").number == "1"
    assert "late in the rain" in CliRunner().invoke(app, ["history", binary]).output
    assert CliRunner().invoke(app, typed).exit_code == 78, "there is none before version 1"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "had no champion before version 1"),
        ({"version": "1"}, "version 1 of small_binary is champion already"),
        ({"version": "7"}, "small_binary has no version '7'. Name one of those registered: 1, 2."),
        ({"version": "2"}, "version 2 of small_binary was never champion"),
        ({"reason": " "}, "reason: it is missing"),
    ],
)
def test_a_rollback_that_cannot_be_is_refused_with_what_can(binary, params, said):
    champion(binary, frame=weak())
    run, _ = judged(binary, "waiting")
    run.steps("register")
    failed = rollback(binary, **params)
    assert failed.failure.failure_class is FailureClass.CONFIGURATION
    assert said in f"{failed.failure.message} {failed.failure.hint}"
    assert by_alias(binary, "champion").number == "1"
    assert "rolled_back" not in kinds(binary)


def test_a_rollback_without_a_champion_is_refused(binary):
    assert "has no champion" in rollback(binary).failure.message


def test_an_alias_moved_by_hand_is_logged_once_and_followed_by_nobody(binary):
    run = better(binary)
    connect().set_registered_model_alias(binary, "champion", "1")
    with pytest.raises(ConfigurationError, match="was seen at version 1; the audit log has 2") as refused:
        monitor(binary)
    assert f"evergreen rollback {binary}`, with the reason: --to 2 puts it back, --to 1 takes it over" in str(
        refused.value
    )
    other = Run(binary, "next")
    other.assemble()
    other.train_without_ray(training_rows("binary"), BEFORE)
    for step in (run, "promote"), (other, "evaluate"):
        assert "the audit log has 2: somebody has moved it" in step[0].step(step[1]).failure.message
    seen = [event for event in read_events(get_store(), binary) if event.kind.value == "alias_moved"]
    assert [(event.version, event.previous) for event in seen] == [("1", "2")]
    assert by_alias(binary, "champion").number == "1", "nobody moves it back unasked"


@pytest.mark.parametrize("hand", [False, True])
def test_a_champion_that_must_not_serve_gives_way_to_none_and_the_next_is_a_first_one(binary, hand):
    better(binary)
    if hand:
        connect().delete_registered_model_alias(binary, "champion")
        with pytest.raises(ConfigurationError, match="was seen at version none; the audit log has 2"):
            monitor(binary)
    for _ in range(2):  # and again
        assert rollback(binary, version="none").facts["version"] is None
    assert by_alias(binary, "champion") is None
    assert monitor(binary) is None
    assert "rollback: no champion, instead of 2" in CliRunner().invoke(app, ["history", binary]).output
    run, gate = judged(binary, "first again")
    assert gate.facts["decision"] == "first_champion"
    assert run.steps("register", "promote").facts == {"version": "3", "previous": None}


def test_from_none_an_earlier_champion_comes_back(binary):
    better(binary)
    rollback(binary, version="none")
    assert "has no champion, so there is nothing to roll back" in rollback(binary, "second").failure.message
    assert rollback(binary, "third", version="2").facts == {
        **{"version": "2", "previous": None},
        **{"by": "ada", "why": "wrong in the rain"},
    }
    assert monitor(binary).number == "2"


@pytest.mark.parametrize(("hand", "to", "then"), [("1", None, "2"), ("1", "1", "1"), (None, None, "2")])
def test_an_alias_out_of_place_is_put_back_or_taken_over_by_a_rollback(binary, hand, to, then):
    better(binary)
    client = connect()
    client.delete_registered_model_alias(binary, "champion")
    if hand:
        client.set_registered_model_alias(binary, "champion", hand)
    found = rollback(binary, **({"version": to} if to else {}))
    assert (found.facts["version"], found.facts["previous"]) == (then, "2")
    assert monitor(binary).number == then
    assert kinds(binary)[-2:] == ["alias_moved", "rolled_back"]
    client.set_registered_model_alias(binary, "champion", "12"[then == "1"])
    with pytest.raises(ConfigurationError, match=f"the audit log has {then}"):  # again, and nobody is let off
        monitor(binary)


def test_a_version_that_no_gate_has_promoted_serves_only_when_a_person_says_so_on_record(binary):
    champion(binary, frame=weak())
    run, _ = judged(binary, "waiting")
    run.steps("register")
    connect().set_registered_model_alias(binary, "champion", "2")
    late = run.step("promote")
    assert "the audit log has 1: somebody has moved it past the promotion" in late.failure.message
    assert rollback(binary, version="2").facts["previous"] == "1"
    assert monitor(binary).number == "2"
    assert rollback(binary, "second").facts["version"] == "1", "what it replaced comes back"


@pytest.fixture
def two_challengers(binary):
    """Two that passed the gate against version 1, and are registered as 2 and 3."""
    champion(binary, frame=weak())
    runs = [judged(binary, name)[0] for name in ("seventh", "eighth")]
    for run in runs:
        run.steps("register")
    return runs


def test_a_rollback_that_only_puts_the_alias_back_stops_no_challenger(binary, two_challengers):
    connect().set_registered_model_alias(binary, "champion", "3")
    assert rollback(binary).facts["version"] == "1"
    assert two_challengers[0].steps("promote").facts["version"] == "2"


def monitor(model):
    """Look at the champion, as every check of a new partition does."""
    window = Window(start=PARTITION, end=PARTITION)
    identity = RunIdentity(dag_id=f"{model}.monitor", run_id="watching", task_id="check_drift")
    return champion_of(Request(step="check_drift", model=model, window=window, run=identity, attempt="1"))


def test_of_two_promotions_at_once_one_passes_and_the_alias_is_where_the_log_says(binary, two_challengers, monkeypatch):
    together = threading.Barrier(2)

    def ready(*arguments):
        together.wait(60)
        return registered(*arguments)

    registered = promote._registered
    monkeypatch.setattr(promote, "_registered", ready)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda run: run.step("promote"), two_challengers))
    assert sorted(one.status.value for one in done) == ["ok", "refused"]
    (refused,) = [one for one in done if one.status is Status.REFUSED]
    moved = last_move(read_events(get_store(), binary))
    assert f"now version {moved.version}, but the challenger was compared with 1" in refused.reason
    assert by_alias(binary, "champion").number == moved.version
    assert len(list_decisions(get_store(), binary)) == 3
    assert "alias_moved" not in kinds(binary)


def test_a_promotion_that_nobody_finishes_is_told_in_the_end(binary, two_challengers, monkeypatch):
    monkeypatch.setattr(promote, "settle", killed_after(lambda _: None))
    two_challengers[0].step("promote")
    now = utc_now()
    monkeypatch.setattr(champions, "utc_now", lambda: now + timedelta(minutes=9))
    assert monitor(binary).number == "1"
    assert kinds(binary)[-1] == "promoted"
    monkeypatch.setattr(champions, "utc_now", lambda: now + timedelta(minutes=11))
    with pytest.raises(ConfigurationError, match="was seen at version 1; the audit log has 2"):
        monitor(binary)
    assert kinds(binary)[-1] == "alias_moved"
    monkeypatch.setattr(promote, "settle", champions.settle)
    assert two_challengers[0].steps("promote").facts["version"] == "2", "its retry finishes it"


def test_a_person_who_moves_the_alias_during_a_promotion_is_seen_and_not_overruled(
    binary, two_challengers, monkeypatch
):
    write = promote.set_tags

    def person_first(*arguments):
        connect().set_registered_model_alias(binary, "champion", "3")
        write(*arguments)

    monkeypatch.setattr(promote, "set_tags", person_first)
    refused = two_challengers[0].step("promote")
    assert "was seen at version 3; the audit log has 2" in refused.failure.message
    assert by_alias(binary, "champion").number == "3"
    seen = read_events(get_store(), binary)[-1]
    assert (seen.kind.value, seen.version, seen.previous) == ("alias_moved", "3", "2")
    assert "was seen at version 3; the audit log has 2" in two_challengers[1].step("promote").failure.message


def test_a_monitor_that_looks_while_the_alias_moves_raises_no_alarm(binary, two_challengers, monkeypatch):
    move = MlflowClient.set_registered_model_alias
    seen = []

    def watched(client, name, alias, version):
        for step in (lambda: None, lambda: move(client, name, alias, version)):
            step()
            seen.append(monitor(binary).number)

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", watched)
    assert two_challengers[0].step("promote").facts == {"version": "2", "previous": "1"}
    assert rollback(binary).facts["version"] == "1"
    assert seen == ["1", "2", "2", "1"]
    assert "alias_moved" not in kinds(binary)


def test_a_promotion_killed_before_the_alias_is_finished_by_its_retry(binary, two_challengers, monkeypatch):
    run = two_challengers[0]
    with monkeypatch.context() as patch:
        patch.setattr(promote, "settle", killed_after(lambda _: None))
        assert run.step("promote").failure.message == "RuntimeError: killed"
    assert monitor(binary).number == "1"
    assert "becoming champion at this moment" in rollback(binary, version="1").failure.message
    assert kinds(binary)[-1] == "promoted"
    assert run.steps("promote").facts == {"version": "2", "previous": "1"}
    assert monitor(binary).number == "2"
    connect().set_registered_model_alias(binary, "champion", "1")  # back by hand, at once: no part of the promotion
    with pytest.raises(ConfigurationError, match="was seen at version 1; the audit log has 2"):
        monitor(binary)
    assert kinds(binary)[-2:] == ["promoted", "alias_moved"]


def test_a_newer_challenger_supersedes_one_that_waits_for_a_person(binary, models):
    path = models / binary / "model.yaml"
    path.write_text(path.read_text() + "approval: {required: true}\n")
    older, _ = judged(binary, "older")
    older.steps("register")
    newer, _ = judged(binary, "newer")
    newer.steps("register")
    older.steps("register")  # a retry that comes late withdraws nothing
    late = older.promote(said("ada"))
    assert late.status is Status.SKIPPED
    assert late.reason == "version 1: superseded, version 2 came from newer"
    assert by_alias(binary, "champion") is None
    newer.steps("register")
    assert newer.promote(said("ada")).facts["version"] == "2"
    assert kinds(binary).count("superseded") == 1
    assert "approved" not in [event.kind for event in read_events(get_store(), binary) if event.training == "older"]
