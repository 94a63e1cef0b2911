"""Evaluations that are hard to judge: models that fail on some rows, windows with little or nothing in them."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.judgement.evaluation import evaluation_of
from evergreen.judgement.evidence import Candidate, Decision, Evaluation, GateResult
from evergreen.judgement.metrics import Scored
from evergreen.judgement.rules import decide
from evergreen.spec import METRICS, ModelSpec, Task

DAYS, ROWS = 30, 100
FIRST = date(2024, 3, 1)
BEFORE = Window(start=FIRST - timedelta(days=40), end=FIRST - timedelta(days=5))
NAMES = np.array([str(FIRST + timedelta(days=day)) for day in range(DAYS)])
DAY = np.repeat(np.arange(DAYS), ROWS)
GENERATOR = np.random.default_rng(0)
KNOWN = GENERATOR.normal(size=DAY.size)
LATE = (GENERATOR.random(DAY.size) < 1 / (1 + np.exp(1 - 2 * KNOWN))).astype(float)
AMOUNT = KNOWN + GENERATOR.normal(size=DAY.size)
TRUTHS = {Task.BINARY: LATE, Task.REGRESSION: AMOUNT, Task.MULTICLASS: LATE}
METRIC = {Task.BINARY: "auc", Task.REGRESSION: "rmse", Task.MULTICLASS: "log_loss"}
SOME = np.arange(DAY.size) % 10 == 0
"""A tenth of the rows, on every day."""


def spec_for(metric: str, task: Task) -> ModelSpec:
    spec = load_model("flight_delay")
    rules = {"metric": metric, "direction": METRICS[metric][1], "limits": {}, "required": (), "slices": ()}
    rules |= {"rule": "confidence", "minimum_improvement": 0.0}
    examples = spec.features.examples.model_copy(update={"label": "label"})
    return spec.model_copy(
        update={
            "task": task,
            "gate": spec.gate.model_copy(update=rules),
            "features": spec.features.model_copy(update={"examples": examples}),
            "windows": spec.windows.model_copy(update={"minimum_evaluation_rows": 1}),
        }
    )


def model(task: Task, strength: float, seed: int = 1, truth: np.ndarray | None = None) -> Scored:
    """Return a model that knows what can be known, with noise of its own the smaller its strength."""
    said = strength * KNOWN + (1 - strength) * np.random.default_rng(seed).normal(size=DAY.size)
    share = 1 / (1 + np.exp(1 - 2 * said))
    prediction = {Task.BINARY: share, Task.REGRESSION: said, Task.MULTICLASS: np.stack([1 - share, share], axis=1)}
    return Scored(task, TRUTHS[task] if truth is None else truth, prediction[task])


def failing(found: Scored, rows: np.ndarray, value: float = np.nan) -> Scored:
    """Return a model that says nothing on some rows."""
    prediction = found.prediction.copy()
    prediction[rows] = value
    return Scored(found.task, found.truth, prediction)


def judged(
    challenger: Scored, champion: Scored | None, metric: str = "", day: np.ndarray = DAY
) -> tuple[Evaluation, GateResult]:
    spec = spec_for(metric or METRIC[challenger.task], challenger.task)
    frame = pd.DataFrame({"ds": NAMES[day], "label": challenger.truth})
    ours, theirs = (
        (Candidate(run_id="r", training=BEFORE, metrics=one.metrics()), one) if one else None
        for one in (challenger, champion)
    )
    assert ours
    evaluation = evaluation_of(spec, frame, "d", ours, theirs, lambda: frame.iloc[:0])
    return evaluation, decide(evaluation, spec)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("task", list(TRUTHS))
def test_a_champion_that_fails_on_some_rows_gives_way_to_a_better_model(task: Task, value: float) -> None:
    """It once blocked every challenger until a person moved the alias."""
    champion = failing(model(task, 0.6), SOME, value)
    evaluation, verdict = judged(model(task, 0.9, seed=2), champion)
    assert verdict.decision is Decision.PROMOTE
    name = "last day" if evaluation.baseline and evaluation.baseline.name == "last day" else "constant"
    assert (
        f"over a champion without a finite prediction for 300 of 3000 rows, where the baseline ({name}" in verdict.why
    )
    assert evaluation.unscored == 300
    assert evaluation.champion is not None
    assert evaluation.champion.metrics == {}


@pytest.mark.parametrize("task", list(TRUTHS))
def test_a_champion_that_fails_on_some_rows_is_still_better_than_a_worse_model(task: Task) -> None:
    """What it does say counts: a challenger that beats the baseline alone would replace a good model by a bad one."""
    champion, worse = failing(model(task, 0.9), SOME), model(task, 0.6, seed=2)
    evaluation, verdict = judged(worse, champion)
    assert not verdict.passed
    assert "over a champion without a finite prediction for 300 of 3000 rows" in verdict.why
    assert evaluation.baseline is not None
    assert evaluation.baseline.interval is not None
    assert evaluation.baseline.interval[1] > 0, "better than without a model"


@pytest.mark.parametrize("task", list(TRUTHS))
def test_of_a_champion_that_says_nothing_the_baseline_is_left(task: Task) -> None:
    nothing = failing(model(task, 0.9), np.ones(DAY.size, dtype=bool))
    evaluation, verdict = judged(model(task, 0.8, seed=2), nothing)
    assert verdict.decision is Decision.PROMOTE
    assert evaluation.baseline is not None
    assert evaluation.interval == evaluation.baseline.interval
    assert not judged(model(task, 0.0, seed=2), nothing)[1].passed
    assert not judged(failing(model(task, 0.9), SOME), nothing)[1].passed, "two that fail"


def test_slices_of_a_champion_that_fails_are_compared_too() -> None:
    found = spec_for("auc", Task.BINARY)
    rule = load_model("flight_delay").gate.slices[0]
    spec = found.model_copy(update={"gate": found.gate.model_copy(update={"slices": (rule,)})})
    frame = pd.DataFrame({"ds": NAMES[DAY], "label": LATE, rule.column: np.where(KNOWN > 0, "a", "b")})
    ours, theirs = (
        (Candidate(run_id="r", training=BEFORE), one)
        for one in (model(Task.BINARY, 0.9), failing(model(Task.BINARY, 0.6), SOME))
    )
    evaluation = evaluation_of(spec, frame, "d", ours, theirs, lambda: frame)
    assert all(score.interval and score.champion for score in evaluation.slices)
    assert len(evaluation.slices) == 2


def test_the_training_window_is_read_only_where_a_baseline_is_needed() -> None:
    spec, frame = spec_for("auc", Task.BINARY), pd.DataFrame({"ds": NAMES[DAY], "label": LATE})
    candidate = Candidate(run_id="r", training=BEFORE)

    def read() -> pd.DataFrame:
        raise AssertionError

    sound = (candidate, model(Task.BINARY, 0.5))
    assert evaluation_of(spec, frame, "d", sound, sound, read).baseline is None
    with pytest.raises(AssertionError):
        evaluation_of(spec, frame, "d", sound, None, read)


@pytest.mark.parametrize("task", list(TRUTHS))
def test_an_identical_model_is_not_promoted(task: Task) -> None:
    """No day has a share in nothing: a spread of zero is no certainty."""
    evaluation, verdict = judged(model(task, 0.7), model(task, 0.7))
    assert evaluation.interval == (0, 0, 0)
    assert not verdict.passed


@pytest.mark.parametrize("metric", ["rmse", "mae", "r2"])
@pytest.mark.parametrize("error", [0.0, 1e-9, 0.5])
def test_where_every_label_is_equal_there_is_no_first_champion(metric: str, error: float) -> None:
    """The constant is exact: nothing can be better, and what is no worse is not better."""
    truth = np.full(DAY.size, 5.0)
    noise = error * np.random.default_rng(0).normal(size=DAY.size)
    _, verdict = judged(Scored(Task.REGRESSION, truth, truth + noise), None, metric)
    assert not verdict.passed


@pytest.mark.parametrize("metric", ["auc", "average_precision", "log_loss", "brier", "accuracy"])
@pytest.mark.parametrize("only", [0.0, 1.0])
def test_where_there_is_one_class_there_is_no_first_champion_and_no_promotion(metric: str, only: float) -> None:
    truth = np.full(DAY.size, only)
    right = Scored(Task.BINARY, truth, np.abs(only - 0.001 * np.random.default_rng(0).random(DAY.size)))
    assert not judged(right, None, metric)[1].passed
    if metric in {"auc", "average_precision"}:
        assert not judged(right, model(Task.BINARY, 0.1, truth=truth), metric)[1].passed


@pytest.mark.parametrize("metric", ["auc", "average_precision"])
def test_positives_on_a_single_day_are_no_evidence(metric: str) -> None:
    """Without that day the metric is not defined: one day says everything."""
    truth = ((DAY == 7) & (KNOWN > 0)).astype(float)
    good, bad = Scored(Task.BINARY, truth, 0.1 + 0.8 * truth), Scored(Task.BINARY, truth, 0.9 - 0.8 * truth)
    for champion in (bad, None):
        evaluation, verdict = judged(good, champion, metric)
        assert not verdict.passed
        assert "missing evidence" in verdict.why
        assert evaluation.interval is None


@pytest.mark.parametrize("task", list(TRUTHS))
def test_days_with_a_single_row_are_days(task: Task) -> None:
    """Ten days of which nine have a row each are one day with company: worth about two, and no evidence."""
    keep = (DAY == 0) | ((DAY < 10) & (np.arange(DAY.size) % ROWS == 0))
    ours, theirs = model(task, 0.9).select(keep), model(task, 0.3, seed=2).select(keep)
    evaluation, verdict = judged(ours, theirs, day=DAY[keep])
    assert (evaluation.rows, evaluation.partitions) == (109, 10)
    assert not verdict.passed


@pytest.mark.parametrize("task", list(TRUTHS))
def test_one_day_of_thirty_with_a_single_row_changes_little(task: Task) -> None:
    keep = (DAY != 3) | (np.arange(DAY.size) % ROWS == 0)
    ours, theirs = model(task, 0.9), model(task, 0.3, seed=2)
    whole = judged(ours, theirs)[0].interval
    assert whole
    evaluation, verdict = judged(ours.select(keep), theirs.select(keep), day=DAY[keep])
    assert verdict.passed
    assert evaluation.interval == pytest.approx(whole, abs=0.05)
