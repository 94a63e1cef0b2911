"""How good a classifier probably is without labels: right where inputs have changed, silent where nothing tells."""

import numpy as np
import pytest

from evergreen.judgement.estimate import estimate
from evergreen.judgement.metrics import Scored
from evergreen.spec import Task

ROWS, DAYS = 6000, np.arange(6000) % 30


def binary(seed, spread=1.0, bias=0.0, turned=False):
    """Return a model whose probabilities are wrong by a bias that is always the same, beside the truth."""
    generator = np.random.default_rng(seed)
    odds = generator.normal(-1, spread, ROWS)
    truth = (generator.random(ROWS) < 1 / (1 + np.exp(odds if turned else -odds))).astype(float)
    return Scored(Task.BINARY, truth, 1 / (1 + np.exp(-(odds + bias))))


@pytest.mark.parametrize("metric", ["auc", "log_loss", "brier", "accuracy", "average_precision"])
@pytest.mark.parametrize("bias", [0.0, 1.5])
def test_the_truth_is_in_the_interval_where_only_inputs_have_moved(metric, bias):
    """The current rows are easier than those with labels; the probabilities are wrong by a constant."""
    known, current = binary(1, 1.0, bias), binary(2, 1.8, bias)
    probably = estimate(metric, known, DAYS, current.prediction, DAYS)
    truth, before = current.metrics()[metric], known.metrics()[metric]
    assert probably.low < truth < probably.high
    assert abs(probably.value - truth) < abs(before - truth) / 3


def test_a_changed_relation_is_what_it_cannot_see():
    """Hence it is compared with the truth when labels come, and proposes nothing by itself."""
    turned = binary(2, turned=True)
    probably = estimate("auc", binary(1), DAYS, turned.prediction, DAYS)
    assert turned.metrics()["auc"] < 0.4 < probably.low


def test_classes_are_estimated_alike():
    generator = np.random.default_rng(3)

    def model(sharpness):
        odds = generator.normal(size=(ROWS, 3)) * sharpness
        shares = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
        truth = (shares.cumsum(axis=1) < generator.random((ROWS, 1))).sum(axis=1).astype(float)
        return Scored(Task.MULTICLASS, truth, shares)

    known, current = model(1.0), model(2.0)
    for metric in ("log_loss", "accuracy", "macro_f1"):
        probably = estimate(metric, known, DAYS, current.prediction, DAYS)
        assert probably.low < current.metrics()[metric] < probably.high
        assert abs(known.metrics()[metric] - current.metrics()[metric]) > probably.high - probably.low


def test_what_cannot_be_told_is_none():
    known = binary(1)
    one_class = known.select(known.truth == 1)
    assert estimate("auc", one_class, DAYS[known.truth == 1], known.prediction, DAYS) is None
    assert estimate("auc", known, DAYS, np.zeros(0), DAYS[:0]) is None
    assert estimate("auc", known.select(DAYS < 3), DAYS[DAYS < 3], known.prediction, DAYS) is None  # three days
    value = Scored(Task.REGRESSION, known.truth, known.prediction)
    assert estimate("rmse", value, DAYS, known.prediction, DAYS) is None
