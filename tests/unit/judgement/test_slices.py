"""Slices are judged with their noise: by the same days, at 499 rows as at 5,000."""

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.judgement.evaluation import evaluation_of
from evergreen.judgement.evidence import Candidate
from evergreen.judgement.metrics import Scored
from evergreen.judgement.rules import decide
from evergreen.spec import Task

FIRST = date(2024, 3, 1)
BEFORE = Window(start=FIRST - timedelta(days=40), end=FIRST - timedelta(days=5))
FEW = ("JFK", "LGA", "SWF")


@pytest.fixture(scope="module")
def spec():
    found = load_model("flight_delay")
    return found.model_copy(update={"gate": found.gate.model_copy(update={"required": (), "limits": {}})})


def judged(spec, few, strengths, learned=None):
    """Judge on 30 days of one large origin and three with ``few`` rows; strengths: of champion, challenger on these."""
    generator = np.random.default_rng(0)
    origin = np.concatenate([np.repeat("EWR", 6000), *(np.repeat(name, few) for name in FEW)])
    day = np.concatenate([np.arange(6000) % 30, *(np.arange(few) % 30 for _ in FEW)])
    truth = (generator.random(origin.size) < 0.3).astype(float)
    large, noise = origin == "EWR", generator.normal(size=(2, origin.size))
    predictions = []
    for number, strength in enumerate(strengths):  # on the large origin the challenger is clearly better
        signal = np.where(large, 0.5 + 1.5 * number, strength) * truth
        predictions.append(Scored(Task.BINARY, truth, 1 / (1 + np.exp(-(signal + noise[number])))))
    frame = pd.DataFrame({"ds": [str(FIRST + timedelta(days=int(number))) for number in day], "origin": origin})
    champion, challenger = (
        (Candidate(run_id="r", training=BEFORE, metrics=model.metrics()), model) for model in predictions
    )
    evaluation = evaluation_of(spec, frame, "d", challenger, champion, lambda: frame if learned is None else learned)
    return evaluation, decide(evaluation, spec)


def test_three_origins_that_fall_from_08_to_04_at_499_rows_each_are_a_no(spec):
    evaluation, verdict = judged(spec, 499, (1.2, -0.35))
    fallen = [score for score in evaluation.slices if score.value in FEW]
    assert all(score.champion > 0.7 and score.challenger < 0.5 for score in fallen)
    assert evaluation.interval[1] > 0  # as a whole it is better
    assert not verdict.passed
    for name in FEW:
        assert f"origin={name}: auc worse by" in verdict.why


def test_the_same_origins_unchanged_are_named_and_do_not_object(spec):
    _, verdict = judged(spec, 499, (1.2, 1.2))
    assert verdict.passed
    assert verdict.unjudged == tuple(f"origin={name} (499 rows of 500)" for name in FEW)


def test_with_enough_rows_they_are_judged_and_nothing_is_left_out(spec):
    evaluation, verdict = judged(spec, 2000, (1.2, 1.3))
    assert verdict.passed
    assert verdict.unjudged == ()
    assert all(score.interval and score.partitions == 30 for score in evaluation.slices)


def test_twelve_rows_are_not_enough_to_tell(spec):
    evaluation, verdict = judged(spec, 12, (1.2, 1.2))
    assert verdict.passed
    assert len(verdict.unjudged) == 3
    assert {score.rows for score in evaluation.slices} == {12, 6000}


@pytest.mark.parametrize("required", [False, True])
def test_a_value_without_any_row_is_not_judged_as_one_with_few_is_not(spec, required):
    """Ninety-nine rows of SWF were a no where every origin is required, and none at all were none."""
    rules = tuple(rule.model_copy(update={"required": required}) for rule in spec.gate.slices)
    spec = spec.model_copy(update={"gate": spec.gate.model_copy(update={"slices": rules})})
    evaluation, verdict = judged(spec, 2000, (1.2, 1.3), pd.DataFrame({"origin": ["EWR", *FEW, "TEB", None]}))
    assert verdict.passed is not required
    assert verdict.unjudged == ("origin=TEB (0 rows of 500)", "origin=missing (0 rows of 500)")
    same = judged(spec, 2000, (1.2, 1.3), pd.DataFrame({"origin": ["EWR", *FEW]}))
    assert same[1].passed
    assert same[0].slices == evaluation.slices[:4]  # nor do they make the others' intervals wider
