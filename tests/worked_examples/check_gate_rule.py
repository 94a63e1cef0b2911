"""The gate's rule of the worked example, asked about an improvement that is too good."""

from __future__ import annotations

from datetime import date

import pytest

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.judgement.evidence import Candidate, Evaluation
from evergreen.judgement.rules import decide

SCORES = {"auc": 0.74, "log_loss": 0.5, "brier": 0.15}


@pytest.mark.parametrize(("most", "passed"), [(None, True), (0.5, True), (0.1, False)])
def test_more_than_the_maximum_is_taken_for_a_leak(most: float | None, passed: bool) -> None:
    spec = load_model("flight_delay")
    gate = spec.gate.model_copy(
        update={"maximum_improvement": most, "slices": (), "rule": "confidence", "minimum_improvement": 0.0}
    )
    learned = Window(start=date(2013, 2, 1), end=date(2013, 5, 1))
    evaluation = Evaluation(
        **{"model": "flight_delay", "metric": "auc", "rows": 27000, "partitions": 30, "dataset": "somewhere (1)"},
        **{"window": Window(start=date(2013, 5, 2), end=date(2013, 5, 31)), "confidence": 0.975, "unit": "partition"},
        challenger=Candidate(run_id="new", training=learned, metrics={**SCORES, "auc": 0.95}),
        champion=Candidate(version="3", run_id="old", training=learned, metrics=SCORES),
        **{"improvement": 0.21, "low": 0.19, "high": 0.23},
    )
    verdict = decide(evaluation, spec.model_copy(update={"gate": gate}))
    assert verdict.passed is passed
    assert ("gate.maximum_improvement takes for a leak" in verdict.why) is not passed
