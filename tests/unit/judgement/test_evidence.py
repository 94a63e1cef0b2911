"""What justifies a promotion, and that anything missing does not."""

from datetime import date

import pytest

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.judgement.evidence import Candidate, Decision, Evaluation, SliceScore, decide

WINDOW = Window(start=date(2013, 5, 2), end=date(2013, 5, 31))
BEFORE = Window(start=date(2013, 2, 1), end=date(2013, 5, 1))
GOOD = {"auc": 0.74, "log_loss": 0.5, "brier": 0.15}
SLICES = tuple(
    SliceScore(column="origin", value=value, rows=9000, champion=0.70, challenger=0.74)
    for value in ("EWR", "JFK", "LGA")
)


@pytest.fixture(scope="module")
def spec():
    return load_model("flight_delay")


def evaluation(**changes):
    fields = {
        "model": "flight_delay",
        "metric": "auc",
        "window": WINDOW,
        "rows": 27000,
        "dataset": "somewhere (1)",
        "challenger": Candidate(run_id="new", training=BEFORE, metrics=GOOD),
        "champion": Candidate(version="3", run_id="old", training=BEFORE, metrics={**GOOD, "auc": 0.70}),
        "improvement": 0.04,
        "low": 0.03,
        "high": 0.05,
        "confidence": 0.95,
        "unit": "partition",
        "slices": SLICES,
    }
    return Evaluation(**{**fields, **changes})


def challenger(**metrics):
    return Candidate(run_id="new", training=BEFORE, metrics={**GOOD, **metrics})


def test_better_beyond_noise_is_promoted(spec):
    verdict = decide(evaluation(), spec)
    assert verdict.decision is Decision.PROMOTE
    assert verdict.passed
    assert "+0.0400" in verdict.why


def test_without_a_champion_a_sound_challenger_is_the_first(spec):
    alone = evaluation(champion=None, improvement=None, low=None, high=None)
    assert decide(alone, spec).decision is Decision.FIRST_CHAMPION
    for slices in ((), SLICES):  # nothing to compare slices with
        assert decide(alone.model_copy(update={"slices": slices}), spec).passed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"low": 0.0}, "beyond noise"),
        ({"improvement": -0.01, "low": -0.02, "high": 0.0}, "beyond noise"),
        ({"improvement": None, "low": None, "high": None}, "no confidence interval"),
        ({"low": float("nan")}, "no confidence interval"),
        ({"rows": 2999}, "3000 are needed"),
        ({"challenger": challenger(auc=0.59)}, "below the limit"),
        ({"challenger": challenger(auc=float("nan"))}, "auc could not be computed"),
        ({"challenger": challenger(brier=float("inf"))}, "brier could not be computed"),
        ({"challenger": Candidate(run_id="new", training=BEFORE, metrics={"auc": 0.74, "brier": 0.1})}, "log_loss"),
        (
            {"challenger": Candidate(run_id="n", training=Window(start=BEFORE.start, end=WINDOW.start), metrics=GOOD)},
            "the challenger learned from",
        ),
        (
            {"champion": Candidate(run_id="o", training=Window(start=BEFORE.start, end=WINDOW.end), metrics=GOOD)},
            "the champion learned from",
        ),
        ({"slices": ()}, "no scores by origin"),
        ({"slices": (SLICES[0].model_copy(update={"challenger": 0.67}), *SLICES[1:])}, "origin=EWR: auc worse by 0.03"),
        ({"slices": (SLICES[0].model_copy(update={"challenger": None}), *SLICES[1:])}, "auc for origin=EWR"),
    ],
)
def test_anything_else_is_not_justified(spec, changes, words):
    verdict = decide(evaluation(**changes), spec)
    assert verdict.decision is Decision.NOT_JUSTIFIED
    assert not verdict.passed
    assert words in verdict.why


@pytest.mark.parametrize("champion", [True, False])
def test_missing_metrics_mean_no_with_or_without_a_champion(spec, champion):
    changes = {} if champion else {"champion": None}
    assert not decide(evaluation(challenger=challenger(auc=float("nan")), **changes), spec).passed


def test_a_small_slice_or_a_small_regression_does_not_object(spec):
    small = SLICES[0].model_copy(update={"challenger": 0.5, "rows": 499})
    slight = SLICES[1].model_copy(update={"challenger": 0.69})
    assert decide(evaluation(slices=(small, slight, SLICES[2])), spec).passed


def test_minimized_metrics_turn_limits_and_slices_around(spec):
    gate = spec.gate.model_copy(
        update={"metric": "log_loss", "direction": "minimize", "limits": {"log_loss": 0.6}, "required": ()}
    )
    other = spec.model_copy(update={"gate": gate})
    better = tuple(s.model_copy(update={"champion": 0.55, "challenger": 0.5}) for s in SLICES)
    assert decide(evaluation(metric="log_loss", slices=better), other).passed
    worse = (better[0].model_copy(update={"challenger": 0.58}), *better[1:])
    assert "worse by 0.03" in decide(evaluation(metric="log_loss", slices=worse), other).why
    assert "above the limit" in decide(evaluation(challenger=challenger(log_loss=0.61), slices=better), other).why


def test_every_objection_is_named(spec):
    why = decide(evaluation(rows=1, low=-1.0, challenger=challenger(auc=0.1)), spec).why
    assert why.count(";") == 2
