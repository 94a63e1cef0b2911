"""What a first champion has to beat: the best prediction that needs no model."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evergreen.catalog import load_model
from evergreen.cli import app
from evergreen.contract import RunIdentity, Window
from evergreen.judgement.audit import append
from evergreen.judgement.baseline import best_baseline
from evergreen.judgement.evaluation import evaluation_of
from evergreen.judgement.events import Event, EventKind, Judgement
from evergreen.judgement.evidence import Candidate, Decision
from evergreen.judgement.metrics import Scored
from evergreen.judgement.rules import decide
from evergreen.spec import METRICS, Task
from evergreen.store import get_store

DAYS, ROWS = 30, 100
FIRST = date(2024, 3, 1)
BEFORE = Window(start=FIRST - timedelta(days=40), end=FIRST - timedelta(days=5))
LABEL = "late"


def spec_for(task, metric, delay=0):
    spec = load_model("flight_delay")
    rules = {"metric": metric, "direction": METRICS[metric][1], "limits": {}, "required": (), "slices": ()}
    examples = spec.features.examples.model_copy(update={"label_delay_days": delay})
    return spec.model_copy(
        update={
            "task": task,
            "gate": spec.gate.model_copy(update=rules),
            "features": spec.features.model_copy(update={"examples": examples}),
            "windows": spec.windows.model_copy(update={"minimum_evaluation_rows": 100}),
        }
    )


def frame_of(daily, first=FIRST, rows=ROWS):
    """Return rows whose label is the day's own value."""
    days = np.repeat([str(first + timedelta(days=day)) for day in range(len(daily))], rows)
    return pd.DataFrame({"ds": days, LABEL: np.repeat(np.asarray(daily, dtype=float), rows)})


def level(daily, seed=0):
    """Return labels that scatter around a level for each day."""
    frame = frame_of(daily)
    frame[LABEL] += np.random.default_rng(seed).normal(size=len(frame))
    return frame


def binary(seed=0):
    frame = frame_of(np.zeros(DAYS))
    frame[LABEL] = (np.random.default_rng(seed).random(len(frame)) < 0.2).astype(float)
    return frame


def judged(spec, frame, prediction, earlier=None):
    model = Scored(spec.task, frame[LABEL].to_numpy(), np.asarray(prediction, dtype=float))
    challenger = Candidate(run_id="r", training=BEFORE, metrics=model.metrics())
    earlier = frame.iloc[:0] if earlier is None else earlier
    found = evaluation_of(spec, frame, "d", (challenger, model), None, lambda: earlier)
    return found, decide(found, spec)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [("auc", 0.5), ("average_precision", 0.2), ("brier", 0.16), ("log_loss", 0.5004), ("accuracy", 0.8)],
)
def test_the_constant_of_a_classification(metric, expected):
    frame = frame_of(np.tile([1.0, 0.0, 0.0, 0.0, 0.0], 6))
    found, _ = judged(spec_for(Task.BINARY, metric), frame, np.full(len(frame), 0.3))
    assert found.baseline.name == "constant"
    assert found.baseline.score == pytest.approx(expected, abs=1e-4)


def test_the_constant_of_several_classes_is_their_shares():
    truth = np.tile([0.0, 0.0, 1.0, 2.0], 750)
    model = Scored(Task.MULTICLASS, truth, np.full((3000, 3), 1 / 3))
    name, baseline = best_baseline(spec_for(Task.MULTICLASS, "log_loss"), frame_of(np.zeros(DAYS)), None, model)
    assert name == "constant"
    assert baseline.prediction[0] == pytest.approx([0.5, 0.25, 0.25])
    assert baseline.metrics()["accuracy"] == 0.5


@pytest.mark.parametrize(("metric", "expected"), [("r2", 0.0), ("rmse", 2.0), ("mae", 1.0)])
def test_the_constant_of_a_regression_is_the_mean_or_for_absolute_errors_the_median(metric, expected):
    frame = frame_of(np.tile([0.0, 0.0, 0.0, 0.0, 5.0], 6))
    found, _ = judged(spec_for(Task.REGRESSION, metric), frame, np.zeros(len(frame)))
    assert (found.baseline.name, found.baseline.score) == ("constant", pytest.approx(expected, abs=1e-9))


def test_where_days_are_like_the_last_the_last_value_is_the_baseline():
    """A model that only knows the mean has no merit where yesterday says more."""
    climbing = level(np.arange(DAYS, dtype=float))
    spec = spec_for(Task.REGRESSION, "rmse")
    truth = climbing[LABEL].to_numpy()
    halfway = truth.mean() + 0.5 * (truth - truth.mean())
    earlier = frame_of(np.arange(-10.0, 0.0), FIRST - timedelta(days=10))
    found, verdict = judged(spec, climbing, halfway, earlier)
    assert found.baseline.name == "last day"
    assert not verdict.passed
    assert judged(spec, climbing, truth, earlier)[1].decision is Decision.FIRST_CHAMPION


def test_a_last_value_is_one_whose_label_was_known():
    steps = frame_of(np.arange(DAYS, dtype=float))
    earlier = frame_of(np.arange(-10.0, 0.0), FIRST - timedelta(days=10))
    for delay in (0, 3):
        spec = spec_for(Task.REGRESSION, "mae", delay)
        found, _ = judged(spec, steps, np.zeros(len(steps)), earlier)
        assert (found.baseline.name, found.baseline.score) == ("last day", pytest.approx(1 + delay))


def test_an_auc_of_043_is_no_champion_and_071_is():
    frame, noise = binary(), np.random.default_rng(1).normal(size=DAYS * ROWS)
    spec = spec_for(Task.BINARY, "auc")
    for strength, passes in ((-0.25, False), (0.0, False), (0.8, True)):
        score = 1 / (1 + np.exp(-(strength * frame[LABEL] + noise)))
        found, verdict = judged(spec, frame, score)
        assert verdict.passed is passes, found
        assert found.baseline.score == 0.5
        assert (found.challenger.metrics["auc"] < 0.45) is (strength < 0)


def test_a_champion_is_the_rival_where_there_is_one():
    frame = binary()
    spec = spec_for(Task.BINARY, "auc")
    model = Scored(Task.BINARY, frame[LABEL].to_numpy(), np.random.default_rng(1).random(len(frame)))
    candidate = Candidate(run_id="r", training=BEFORE, metrics=model.metrics())
    found = evaluation_of(spec, frame, "d", (candidate, model), (candidate, model), lambda: frame)
    assert found.baseline is None
    assert found.interval == (0, 0, 0)


def test_history_shows_a_first_champion_s_rival(settings):
    frame = binary()
    found, verdict = judged(spec_for(Task.BINARY, "auc"), frame, 0.1 + 0.8 * frame[LABEL])
    judgement = Judgement(
        decision=verdict.decision,
        why=verdict.why,
        requested_by="ada",
        evaluation=found,
        config_digest="c",
        code_version="v",
    )
    decided = Event(
        kind=EventKind.DECIDED,
        model="flight_delay",
        at=datetime(2024, 4, 1, tzinfo=UTC),
        run=RunIdentity(dag_id="flight_delay.train", run_id="r", task_id="gate"),
        partition=found.window.end,
        training="r",
        judgement=judgement,
    )
    append(get_store(), decided)
    shown = CliRunner().invoke(app, ["history"], env={"COLUMNS": "200"}).output
    assert "auc: baseline 0.5000, challenger 1.0000, +0.5000 [+0.5000, +0.5000]" in shown
