"""What was served is what drift and performance are measured in, where a server's log tells enough of it."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from evergreen.catalog import load_model
from evergreen.contract import Manifest, RunIdentity, Window
from evergreen.data.lake import get_lake
from evergreen.data.served import FEEDBACK
from evergreen.handover import key_of
from evergreen.monitoring.proposal import DriftDocument, PerformanceDocument, proposal_of
from evergreen.runner import build_request, execute
from evergreen.serving.log_files import feedback_schema
from evergreen.settings import PROJECT_ROOT, Settings, get_settings
from evergreen.store import get_store
from evergreen.training.loading import load_version
from evergreen.training.registry import Version, by_alias, connect
from lifecycle_kit import PARTITION, Run, evaluation_rows, leave_examples, rows, training_rows, write_model
from served_kit import leave_served

pytestmark = pytest.mark.integration
BEFORE = Window(start=PARTITION - timedelta(days=59), end=PARTITION - timedelta(days=20))
NEWEST = PARTITION + timedelta(days=20)


@pytest.fixture
def champion(lake_settings: Settings, mlflow_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model with a champion that learned from the first 40 days, and 20 days of examples after them."""
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("EVERGREEN_MLFLOW_TRACKING_URI", mlflow_server)
    get_settings.cache_clear()
    name = write_model(tmp_path / "models", "binary")
    leave_examples(name, pd.concat([training_rows("binary"), evaluation_rows("binary")]))
    run = Run(name, "champion")
    run.assemble()
    run.train_without_ray(training_rows("binary"), BEFORE)
    run.steps("evaluate", "gate", "register", "promote")
    yield name
    connect().delete_registered_model(name)


def newest(**changes: Any) -> pd.DataFrame:
    """Rows of the window that is monitored."""
    return rows("binary", PARTITION + timedelta(days=1), 20, seed=9).assign(**changes)


def moved(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(x=frame["x"] + 2)


def champion_of(model: str) -> Version:
    version = by_alias(model, "champion")
    assert version is not None
    return version


def answers_to(model: str, frame: pd.DataFrame) -> np.ndarray:
    """What the champion says of rows."""
    scorer = load_version(champion_of(model))
    return scorer.predict(frame[list(scorer.inputs)]).iloc[:, 0].to_numpy()


def serve(model: str, frame: pd.DataFrame, **columns: Any) -> None:
    """Leave the champion's answers to rows."""
    said = {"output_probability": answers_to(model, frame), "version": champion_of(model).number}
    leave_served(model, frame, **{**said, **columns})


def monitor(model: str, step: str, partition: date = NEWEST) -> Manifest:
    run, window = RunIdentity(dag_id="m", run_id="r", task_id=step), Window(start=partition, end=partition)
    manifest = execute(build_request(step, model, window, run, {}, {}))
    assert manifest.failure is None, manifest.failure
    return manifest


def change_model(model: str, **sections: Any) -> None:
    path = load_model(model).folder / "model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | sections))


def test_requests_that_moved_are_drift_though_the_offline_rows_did_not(champion: str) -> None:
    leave_examples(champion, newest())
    unserved = monitor(champion, "check_drift")
    assert unserved.facts["verdict"] == "stable"
    assert unserved.facts["evidence"]["source"] == "offline"
    assert unserved.facts["evidence"]["why"] == "no prediction log was ingested"
    serve(champion, moved(newest()))
    drift = monitor(champion, "check_drift")
    assert (drift.facts["verdict"], drift.facts["drifted_columns"]) == ("drift", ["x", "prediction"])
    assert drift.facts["evidence"] == {
        "source": "served",
        "rows": 1200,
        "window": f"{PARTITION + timedelta(days=1)}..{NEWEST}",
        "offline": [],
        "why": "",
    }
    assert "served" in {table.name for table in drift.inputs}
    assert drift.facts["report_id"] != unserved.facts["report_id"]
    document = DriftDocument.parse(get_store().read(key_of(drift.output("drift_report").uri)) or b"")
    assert document.evidence is not None
    assert document.evidence.source == "served"
    assert (
        f"1200 served answers of {PARTITION + timedelta(days=1)}..{NEWEST}"
        in proposal_of(drift, None).evidence["check_drift"]
    )


def test_what_was_served_as_it_was_learned_is_stable_though_the_offline_rows_moved(champion: str) -> None:
    leave_examples(champion, moved(newest()))
    serve(champion, newest())
    facts = monitor(champion, "check_drift").facts
    assert (facts["verdict"], facts["evidence"]["source"]) == ("stable", "served")


def test_too_few_answers_are_no_evidence(champion: str) -> None:
    leave_examples(champion, newest())
    serve(champion, moved(newest()).head(499))
    facts = monitor(champion, "check_drift").facts
    assert (facts["verdict"], facts["evidence"]["source"]) == ("stable", "offline")
    assert facts["evidence"]["why"] == "499 answers in the prediction log, 500 are needed"


def test_the_few_that_a_challenger_answers_are_no_drift_of_predictions(champion: str) -> None:
    frame = newest()
    of_challenger = np.arange(len(frame)) % 10 == 0
    said = np.where(of_challenger, 0.999, answers_to(champion, frame))
    version = champion_of(champion).number
    variants = np.where(of_challenger, "challenger", "champion")
    leave_examples(champion, frame)
    serve(
        champion,
        frame,
        output_probability=said,
        variant=variants,
        version=np.where(of_challenger, "99", version),
    )
    facts = monitor(champion, "check_drift").facts
    assert (facts["verdict"], facts["evidence"]["rows"]) == ("stable", 1200)
    serve(champion, frame, output_probability=said)  # the same said by the champion is drift
    assert monitor(champion, "check_drift").facts["drifted_columns"] == ["prediction"]


def test_shadows_and_refusals_are_no_requests(champion: str) -> None:
    frame = newest()
    leave_examples(champion, frame)
    odd = moved(frame.iloc[::2])
    both = pd.concat([frame, odd, odd]).sort_values("ds", kind="stable")
    marks = pd.concat([frame.assign(m="ok"), odd.assign(m="shadow"), odd.assign(m="refused")])
    marks = marks.sort_values("ds", kind="stable")["m"].to_numpy()
    status = np.where(marks == "refused", "refused", "ok")
    serve(champion, both, shadow=marks == "shadow", status=status)
    facts = monitor(champion, "check_drift").facts
    assert (facts["verdict"], facts["evidence"]["rows"]) == ("stable", 1200)
    serve(champion, both)
    assert monitor(champion, "check_drift").facts["verdict"] == "drift"


def test_a_masked_column_is_compared_offline_and_where_that_is_too_little_it_is_said(champion: str) -> None:
    leave_examples(champion, moved(newest()))
    change_model(champion, serving={"masked": ["x"]})
    serve(champion, newest(), request_x="a digest")
    facts = monitor(champion, "check_drift").facts
    assert (facts["drifted_columns"], facts["evidence"]["offline"]) == (["x"], ["x"])
    leave_examples(champion, moved(newest()).groupby("ds").head(20))
    silent = monitor(champion, "check_drift").facts
    assert (silent["verdict"], silent["evidence"]["offline"]) == ("stable", [])
    assert "not told by the prediction log, and only 400 offline rows, so no index: x" in silent["why"]


def test_the_answers_of_an_earlier_champion_are_not_this_ones(champion: str) -> None:
    leave_examples(champion, newest())
    serve(champion, newest(), version="77", output_probability=0.999)
    facts = monitor(champion, "check_drift").facts
    assert (facts["verdict"], facts["evidence"]["offline"]) == ("stable", ["prediction"])
    assert "0 answers of version" in facts["evidence"]["why"]


def performance(model: str) -> tuple[Manifest, PerformanceDocument]:
    manifest = monitor(model, "check_performance")
    content = get_store().read(key_of(manifest.output("performance_report").uri)) or b""
    return manifest, PerformanceDocument.parse(content)


def tell(model: str, frame: pd.DataFrame, outcomes: np.ndarray) -> None:
    """Leave feedback on the answers to a frame's rows."""
    table = pd.DataFrame(
        {
            "ds": frame["ds"].to_numpy(),
            "prediction_id": [f"p{place}" for place in range(len(frame))],
            "outcome": [str(outcome) for outcome in outcomes],
            "at": pd.to_datetime(frame["ds"], utc=True).astype("datetime64[us, UTC]").to_numpy(),
            "client": "tests",
        }
    )
    table["at"] = table["at"].dt.tz_localize("UTC") if table["at"].dt.tz is None else table["at"]
    schema = pa.schema([("ds", pa.string()), *feedback_schema()])
    window = Window(start=PARTITION + timedelta(days=1), end=NEWEST)
    get_lake().write(model, FEEDBACK, pa.Table.from_pandas(table, schema, preserve_index=False), window)


def test_the_champion_is_measured_in_what_it_answered_and_each_variant_by_itself(champion: str) -> None:
    frame = newest()
    leave_examples(champion, frame)
    half = np.arange(len(frame)) % 2 == 0
    said = np.where(half, answers_to(champion, frame), 1 - answers_to(champion, frame))
    number = champion_of(champion).number
    roles = {"variant": np.where(half, "champion", "challenger"), "version": np.where(half, number, "99")}
    serve(champion, frame, output_probability=said, **roles)
    tell(champion, frame, frame["outcome"].to_numpy())
    manifest, document = performance(champion)
    assert document.evidence is not None
    assert (document.evidence.source, document.evidence.rows) == ("served", 600)
    assert document.served is not None
    assert (document.served.answers, document.served.outcomes, document.served.disagreements) == (1200, 1200, 0)
    one, other = document.served.variants
    assert (one.variant, one.version, one.answers, one.outcomes) == ("champion", number, 600, 600)
    assert (other.variant, other.version) == ("challenger", "99")
    assert one.value is not None
    assert other.value is not None
    assert one.value > 0.8 > 0.2 > other.value
    assert one.low is not None
    assert one.low < one.value
    assert manifest.metrics["auc"] == one.value
    assert manifest.facts["proposal"] is False
    assert {"served", "feedback"} <= {table.name for table in manifest.inputs}


def test_answers_that_were_wrong_propose_though_the_offline_predictions_are_right(champion: str) -> None:
    frame = newest()
    leave_examples(champion, frame)
    offline, _ = performance(champion)
    assert offline.facts["proposal"] is False
    serve(champion, frame, output_probability=1 - answers_to(champion, frame))
    tell(champion, frame, frame["outcome"].to_numpy())
    manifest, _ = performance(champion)
    assert manifest.facts["proposal"] is True
    assert manifest.facts["report_id"] != offline.facts["report_id"]
    drift = monitor(champion, "check_drift")
    said = proposal_of(drift, manifest).evidence["check_performance"]
    assert said == f"1200 served answers of {PARTITION + timedelta(days=1)}..{NEWEST}"


def test_too_few_outcomes_leave_it_to_the_offline_predictions(champion: str) -> None:
    frame = newest()
    leave_examples(champion, frame)
    serve(champion, frame, output_probability=1 - answers_to(champion, frame))
    tell(champion, frame.head(99), frame["outcome"].head(99).to_numpy())
    manifest, document = performance(champion)
    assert manifest.metrics["auc"] > 0.8
    assert document.evidence is not None
    assert (document.evidence.source, document.evidence.rows) == ("offline", 1200)
    number = champion_of(champion).number
    assert document.evidence.why == f"99 answers of version {number} with a known outcome, 100 are needed"
    assert document.served is not None
    assert document.served.outcomes == 99


def test_feedback_alone_is_enough_where_no_example_has_a_label(champion: str) -> None:
    frame = newest()
    leave_examples(champion, frame.assign(outcome=np.nan))
    serve(champion, frame)
    tell(champion, frame, np.where(np.arange(len(frame)) < 3, "perhaps", frame["outcome"].astype(str)))
    manifest, document = performance(champion)
    assert manifest.metrics["auc"] > 0.8
    assert document.served is not None
    assert (document.served.outcomes, document.served.unreadable) == (1197, 3)
    assert manifest.facts["concept"] == "insufficient"


DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, ValueType
from feast.types import Float64, String
from evergreen.features.feast_lake import LakeSource

site = Entity(name="site", value_type=ValueType.STRING)
of_site = FeatureView(
    name="small_binary_of_site",
    entities=[site],
    schema=[Field(name="site", dtype=String), Field(name="visits", dtype=Float64)],
    source=LakeSource(model="small_binary", table="of_site"),
    ttl=timedelta(days=3),
)
"""


@pytest.fixture
def viewed(champion: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model with a view whose row of each site is known two hours before each day of the window."""
    repository = tmp_path / "feature_repo"
    repository.mkdir()
    settings = (PROJECT_ROOT / "feature_repo/feature_store.yaml").read_text()
    (repository / "feature_store.yaml").write_text(settings)
    (repository / f"{champion}.py").write_text(DEFINITIONS)
    monkeypatch.setenv("EVERGREEN_FEATURE_REPO", str(repository))
    get_settings.cache_clear()
    content = yaml.safe_load((load_model(champion).folder / "model.yaml").read_text())
    view = {"name": "of_site", "sql": "of_site.sql", "entities": ["site"], "features": ["visits"]}
    features = {**content["features"], "views": [view], "numeric": ["x", "gap", "visits"]}
    change_model(champion, features=features)
    days = [PARTITION + timedelta(days=number) for number in range(20)]
    known = pd.DataFrame([(day, site) for day in days for site in ("north", "south", "west")], columns=["day", "site"])
    at = pd.to_datetime(known["day"], utc=True) + pd.Timedelta(hours=22)
    rows = known.assign(ds=known["day"].astype(str), event_timestamp=at, visits=visits_on(at)).drop(columns="day")
    rows["event_timestamp"] = rows["event_timestamp"].astype("datetime64[us, UTC]")
    table = pa.Table.from_pandas(rows, preserve_index=False)
    get_lake().write(champion, "of_site", table, Window(start=days[0], end=days[-1]))
    return champion


def visits_on(at: pd.Series) -> np.ndarray:
    """What a site's row of a day says."""
    return (at - pd.Timestamp(PARTITION, tz="UTC")).dt.days.to_numpy().astype(float) + 1


def visits_of(frame: pd.DataFrame) -> np.ndarray:
    """What the row in force at an answer says, which is that of the day before."""
    return visits_on(pd.to_datetime(frame["ds"], utc=True)) - 1


def test_one_feature_that_is_served_otherwise_is_skew_and_proposes_nothing(viewed: str) -> None:
    frame = newest()
    leave_examples(viewed, frame)
    right = {"feature_visits": visits_of(frame), "age_of_site": 7200.0}
    serve(viewed, frame, **right)
    equal = monitor(viewed, "check_drift")
    assert equal.facts["skew"] == "equal", equal.facts["skew_why"]
    odd = np.where(np.arange(len(frame)) % 4 == 0, -1.0, visits_of(frame))
    serve(viewed, frame, **{**right, "feature_visits": odd})
    skewed = monitor(viewed, "check_drift")
    assert (skewed.facts["skew"], skewed.facts["verdict"]) == ("skewed", "stable")
    assert "visits in 25.0%" in str(skewed.facts["skew_why"])
    assert not proposal_of(skewed, None).retrain
    document = DriftDocument.parse(get_store().read(key_of(skewed.output("drift_report").uri)) or b"")
    assert document.skew is not None
    assert list(document.skew.columns) == ["visits", "age_of_site"]
    assert "served -1.0, offline" in document.skew.columns["visits"].examples[0]


def test_online_rows_of_the_day_before_are_skew(viewed: str) -> None:
    frame = newest()
    leave_examples(viewed, frame)
    serve(viewed, frame, feature_visits=visits_of(frame) - 1, age_of_site=7200.0 + 86_400)
    assert "age_of_site in 100.0%" in str(monitor(viewed, "check_drift").facts["skew_why"])


def test_a_masked_key_makes_skew_unknown_and_a_masked_input_does_not(viewed: str) -> None:
    frame = newest()
    leave_examples(viewed, frame)
    change_model(viewed, serving={"masked": ["site"]})
    right = {"feature_visits": visits_of(frame), "age_of_site": 7200.0}
    serve(viewed, frame, request_site="a digest", **right)
    facts = monitor(viewed, "check_drift").facts
    assert (facts["skew"], facts["skew_why"]) == ("insufficient", "the log does not tell the keys: site")
    change_model(viewed, serving={"masked": ["hour", "x"]})
    get_lake().catalog.drop_table((viewed, "served"))
    serve(viewed, frame, request_x="a digest", request_hour="another", **right)
    assert monitor(viewed, "check_drift").facts["skew"] == "equal"
