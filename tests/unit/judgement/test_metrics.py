"""The metrics against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as reference

from evergreen.judgement.metrics import Scored, scored
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
def test_agrees_with_scikit_learn_under_weights(model, name, expected):
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
