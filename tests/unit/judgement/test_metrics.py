"""The metrics against scikit-learn, and the bootstrap against what it must cover."""

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as reference

from evergreen.judgement.metrics import Scored, improvement, scored
from evergreen.spec import METRICS, Task

RNG = np.random.default_rng(5)
TRUTH = (RNG.random(400) < 0.3).astype(float)
PROBABILITY = np.round(np.clip(RNG.normal(0.3 + 0.2 * TRUTH, 0.2), 0.01, 0.99), 2)  # rounded: with ties
WEIGHTS = RNG.integers(0, 4, 400)
CLASSES = RNG.integers(0, 3, 400).astype(float)
PROBABILITIES = RNG.dirichlet(np.ones(3), 400)
VALUES = 1000 + RNG.normal(size=400)
GUESSES = VALUES + RNG.normal(size=400)

BINARY = Scored(Task.BINARY, TRUTH, PROBABILITY)
MULTICLASS = Scored(Task.MULTICLASS, CLASSES, PROBABILITIES)
REGRESSION = Scored(Task.REGRESSION, VALUES, GUESSES)
CHOICES = PROBABILITIES.argmax(axis=1)

EXPECTED = [
    (BINARY, "auc", lambda w: reference.roc_auc_score(TRUTH, PROBABILITY, sample_weight=w)),
    (BINARY, "average_precision", lambda w: reference.average_precision_score(TRUTH, PROBABILITY, sample_weight=w)),
    (BINARY, "brier", lambda w: reference.brier_score_loss(TRUTH, PROBABILITY, sample_weight=w)),
    (BINARY, "log_loss", lambda w: reference.log_loss(TRUTH, PROBABILITY, sample_weight=w)),
    (BINARY, "accuracy", lambda w: reference.accuracy_score(TRUTH, PROBABILITY > 0.5, sample_weight=w)),
    (MULTICLASS, "log_loss", lambda w: reference.log_loss(CLASSES, PROBABILITIES, sample_weight=w)),
    (MULTICLASS, "accuracy", lambda w: reference.accuracy_score(CLASSES, CHOICES, sample_weight=w)),
    (MULTICLASS, "macro_f1", lambda w: reference.f1_score(CLASSES, CHOICES, average="macro", sample_weight=w)),
    (REGRESSION, "rmse", lambda w: reference.root_mean_squared_error(VALUES, GUESSES, sample_weight=w)),
    (REGRESSION, "mae", lambda w: reference.mean_absolute_error(VALUES, GUESSES, sample_weight=w)),
    (REGRESSION, "r2", lambda w: reference.r2_score(VALUES, GUESSES, sample_weight=w)),
]


@pytest.mark.parametrize(
    ("model", "name", "expected"), EXPECTED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_agrees_with_scikit_learn_on_a_resample(model, name, expected):
    weights = np.stack([np.ones(400), WEIGHTS]).astype(float)
    assert model.metric(name, weights) == pytest.approx([expected(None), expected(WEIGHTS)], rel=1e-9)


def test_every_declared_metric_is_checked_above():
    assert {name for _, name, _ in EXPECTED} == set(METRICS)
    assert all(model.task in METRICS[name][0] for model, name, _ in EXPECTED)


def test_what_is_not_defined_is_left_out():
    only_negatives = Scored(Task.BINARY, np.zeros(5), np.linspace(0, 1, 5))
    assert set(only_negatives.metrics()) == {"brier", "log_loss", "accuracy"}
    assert Scored(Task.BINARY, TRUTH, np.full(400, np.nan)).metrics() == {}
    assert BINARY.metrics(np.zeros(400, dtype=bool)) == {}
    constant = Scored(Task.REGRESSION, np.ones(5), np.zeros(5))
    assert "r2" not in constant.metrics()


def test_a_class_that_one_model_does_not_know_has_probability_zero():
    labels = pd.Series(["a", "b", "c"])
    known = pd.DataFrame({"a": [0.8, 0.1, 0.2], "b": [0.2, 0.9, 0.8]})
    full = pd.DataFrame({"c": [0.0, 0.1, 0.9], "a": [0.9, 0.1, 0.0], "b": [0.1, 0.8, 0.1]})
    one, other = scored(Task.MULTICLASS, labels, [known, full])
    assert one.metrics()["accuracy"] == pytest.approx(2 / 3)
    assert other.metrics()["accuracy"] == 1
    assert np.isfinite(one.metrics()["log_loss"])


def interval(champion, challenger, metric, clusters, seed=0):
    return improvement(champion, challenger, metric, clusters, confidence=0.9, resamples=200, seed=seed)


def test_an_identical_model_improves_by_exactly_nothing():
    result = interval(BINARY, BINARY, "auc", np.arange(400) % 20)
    assert (result.improvement, result.low, result.high) == (0, 0, 0)
    assert result.unit == "partition"


def test_improvement_is_positive_when_better_whichever_the_direction():
    worse = Scored(Task.REGRESSION, VALUES, GUESSES + 3)
    for metric in ("rmse", "mae", "r2"):
        better = interval(worse, REGRESSION, metric, np.arange(400) % 20)
        assert 0 < better.low < better.improvement < better.high
        assert interval(REGRESSION, worse, metric, np.arange(400) % 20).high < 0


def test_the_same_seed_gives_the_same_interval():
    other = Scored(Task.BINARY, TRUTH, RNG.random(400))
    few = np.zeros(400, dtype=int)
    assert interval(BINARY, other, "auc", few) == interval(BINARY, other, "auc", few)
    assert interval(BINARY, other, "auc", few) != interval(BINARY, other, "auc", few, seed=1)
    assert interval(BINARY, other, "auc", few).unit == "row"


def test_undefined_means_none():
    negatives = Scored(Task.BINARY, np.zeros(40), RNG.random(40))
    assert interval(negatives, negatives, "auc", np.zeros(40, dtype=int)) is None
    nothing = Scored(Task.BINARY, np.zeros(0), np.zeros(0))
    assert interval(nothing, nothing, "auc", np.zeros(0, dtype=int)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("model", "name"), [(model, name) for model, name, _ in EXPECTED])
def test_one_prediction_that_is_not_finite_is_no_evidence(model, name, value):
    broken = Scored(model.task, model.truth, model.prediction.copy())
    broken.prediction[3] = value
    days = np.arange(400) % 20
    assert interval(model, model, name, days) is not None
    assert interval(broken, model, name, days) is None
    assert interval(model, broken, name, days) is None


def test_the_interval_covers_the_truth_when_days_move_together():
    """Errors share a part per day: rows look like a lot of evidence, days are the evidence there is."""
    days, per_day, true_improvement = 40, 50, 0.5
    clusters = np.repeat(np.arange(days), per_day)
    covered = {"partition": 0, "row": 0}
    for trial in range(100):
        rng = np.random.default_rng(trial)
        # losses of champion and challenger differ by 0.5 on average, and by a shared amount each day
        difference = np.repeat(rng.normal(true_improvement, 1, days), per_day) + rng.normal(size=days * per_day)
        truth = np.zeros(days * per_day)
        champion = Scored(Task.REGRESSION, truth, np.full(days * per_day, 10.0))
        challenger = Scored(Task.REGRESSION, truth, 10.0 - difference)
        for unit, groups in (("partition", clusters), ("row", np.zeros_like(clusters))):
            result = interval(champion, challenger, "mae", groups, seed=trial)
            assert result.unit == unit
            covered[unit] += result.low <= true_improvement <= result.high
    assert 80 <= covered["partition"] <= 98  # nominal: 90
    assert covered["row"] < 50  # why rows are not resampled
