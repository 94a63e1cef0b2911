"""What a model costs: measured where a rule asks, of both models alike, and held to the rule's limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import date
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.judgement.costs import REQUESTS, costs_of
from evergreen.judgement.declared import declared_rules
from evergreen.judgement.evidence import Candidate, Check, Evaluation, Figure, Verdict
from evergreen.spec import GateRule, ModelSpec
from evergreen.training.scorer import Scorer
from evergreen.trust.statement import Bound

FRAME = pd.DataFrame({"x": [float(number) for number in range(1000)], "y": 1.0})
WINDOW = Window(start=date(2024, 3, 1), end=date(2024, 3, 30))


def model(answer: Callable[[pd.DataFrame], Any] = lambda rows: rows["x"], size: int = 0) -> Scorer:
    bound = Bound(model="m", run_id="r", logged_model="l")
    encoder = SimpleNamespace(mean={"x": 0.0}, vocabulary={})
    return Scorer("m", encoder, lambda rows: pd.DataFrame({"prediction": answer(rows)}), bound, size)


def spec_with(*rules: dict[str, Any]) -> ModelSpec:
    found = load_model("flight_delay")
    asked = tuple(GateRule.model_validate(rule) for rule in rules)
    return found.model_copy(update={"gate": found.gate.model_copy(update={"rules": asked})})


def checks(spec: ModelSpec, *figures: Figure, champion: bool = True) -> list[Check]:
    known = Candidate(run_id="r", training=WINDOW)
    evaluation = Evaluation(
        **{"model": "m", "metric": "auc", "window": WINDOW, "rows": 1000, "dataset": "d", "confidence": 0.95},
        **{"challenger": known, "champion": known if champion else None, "figures": figures},
    )
    return list(declared_rules(Evaluation.parse(evaluation.model_dump_json()), spec))


def test_nothing_is_measured_where_no_rule_asks() -> None:
    def never(rows: pd.DataFrame) -> Any:
        raise AssertionError

    assert list(costs_of(spec_with({"metric": "ece", "maximum": 1}), FRAME, model(never), None)) == []
    (size,) = costs_of(spec_with({"metric": "size_mb", "maximum": 1}), FRAME, model(never, 2_500_000), None)
    assert (size.challenger, size.champion, size.rows) == (2.5, None, 0)
    with pytest.raises(AssertionError):
        list(costs_of(spec_with({"metric": "latency_ms", "maximum": 1}), FRAME, model(never), None))


def test_both_models_are_asked_the_same_single_rows_in_turns() -> None:
    asked: list[tuple[str, float]] = []

    def noting(name: str) -> Callable[[pd.DataFrame], Any]:
        def answer(rows: pd.DataFrame) -> Any:
            assert len(rows) == 1
            asked.append((name, float(rows["x"].iloc[0])))
            return rows["x"]

        return answer

    spec = spec_with({"metric": "latency_ms", "maximum": 1}, {"metric": "latency_ms", "maximum_drop": 1})
    (figure,) = costs_of(spec, FRAME, model(noting("new")), model(noting("old")))
    assert figure.rows == REQUESTS
    assert all(math.isfinite(value) and value > 0 for value in (figure.challenger, figure.champion))
    pairs = list(zip(asked[::2], asked[1::2], strict=True))
    assert len(pairs) > REQUESTS
    assert all({first[0], second[0]} == {"new", "old"} and first[1] == second[1] for first, second in pairs)
    assert {first for (first, _), _ in pairs} == {"new", "old"}, "nobody is always the first"


def test_a_slow_model_is_told_from_a_quick_one() -> None:
    def slow(rows: pd.DataFrame) -> Any:
        time.sleep(0.02)
        return rows["x"]

    spec = spec_with({"metric": "latency_ms", "maximum_drop": 10})
    (worse,) = checks(spec, *costs_of(spec, FRAME, model(slow), model()))
    assert worse.verdict is Verdict.FAILED
    assert "latency_ms is worse than the champion's by " in worse.why
    (better,) = checks(spec, *costs_of(spec, FRAME, model(), model(slow)))
    assert better.verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"maximum": 3}, ""),
        ({"maximum": 2}, "the challenger's size_mb of 2.5000 is above the maximum 2"),
        ({"maximum_drop": 0.6}, ""),
        ({"maximum_drop": 0.4}, "size_mb is worse than the champion's by 0.5000, more than the allowed 0.4"),
        ({"minimum": 3}, "is below the minimum 3"),
    ],
)
def test_a_size_is_held_to_the_limits_whatever_the_rows(rule: dict[str, float], why: str) -> None:
    found = Figure(metric="size_mb", minimum_rows=500, rows=0, challenger=2.5, champion=2.0)
    (check,) = checks(spec_with({"metric": "size_mb", **rule}), found)
    assert check.verdict is (Verdict.FAILED if why else Verdict.PASSED)
    assert check.rows is None
    assert why in check.why


def test_two_hundred_requests_are_enough_and_a_size_that_is_not_known_is_not() -> None:
    latency = Figure(metric="latency_ms", minimum_rows=500, rows=REQUESTS, challenger=1.5, champion=1.4)
    (check,) = checks(spec_with({"metric": "latency_ms", "maximum": 2}), latency)
    assert (check.verdict, check.value, check.rows) == (Verdict.PASSED, 1.5, REQUESTS)
    spec = spec_with({"metric": "size_mb", "maximum": 2})
    (check,) = checks(spec, *costs_of(spec, FRAME, model(), None))
    assert check.verdict is Verdict.FAILED
    assert "missing evidence: the challenger's size_mb could not be computed" in check.why


def test_without_a_champion_nothing_has_grown() -> None:
    found = Figure(metric="size_mb", minimum_rows=500, rows=0, challenger=2.5)
    assert checks(spec_with({"metric": "size_mb", "maximum_drop": 0.1}), found, champion=False) == []
