"""The section ``delivery`` of model.yaml: what each strategy comes to, and what contradicts itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_spec import FLIGHTS, refusal

from evergreen.settings import Settings
from evergreen.spec import Delivery, ModelSpec, Stage, Strategy


@pytest.mark.parametrize(
    ("written", "stages"),
    [
        ({}, ()),
        ({"strategy": "canary", "steps": [1, 50]}, (Stage(share=0.01), Stage(share=0.5))),
        ({"strategy": "ab", "share": 20}, (Stage(share=0.2),)),
        ({"strategy": "shadow"}, (Stage(share=0, shadow=True),)),
        ({"strategy": "blue_green"}, (Stage(share=0, shadow=True),)),
    ],
)
def test_a_strategy_is_its_stages(written: dict[str, Any], stages: tuple[Stage, ...]) -> None:
    assert Delivery.model_validate(written).stages == stages


def test_without_the_section_a_promotion_is_direct() -> None:
    assert Delivery().strategy is Strategy.DIRECT


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"strategy": "shadow", "steps": [5]}, "steps: only the strategy canary has any, and this is shadow"),
        ({"strategy": "canary", "share": 5}, "share: only the strategy ab has any, and this is canary"),
        ({"strategy": "canary", "steps": [50, 5]}, "a rollout goes up: write 5, 50"),
        ({"strategy": "canary", "minimum_labels": 9}, "set guardrails.metric_drop"),
        (
            {"strategy": "blue_green", "minimum_labels": 9, "guardrails": {"metric_drop": 0.1}},
            "the warm-up of blue_green waits for none",
        ),
        (
            {"strategy": "canary", "minimum_minutes": 480, "maximum_days": 1},
            "maximum_days: 1 days end before 3 steps of 480 minutes can",
        ),
        ({"guardrails": {"slow_rate": 0.1}}, "slow_rate and graph_ms need each other"),
        ({"guardrails": {"error_rate": None, "prediction_shift": None}}, "none is on"),
        ({"strategy": "canary", "split_by": ["nonsense"]}, "delivery.split_by: 'nonsense' is not part of a request"),
    ],
)
def test_a_contradiction_is_refused_with_its_field(written: dict[str, Any], said: str, settings: Settings) -> None:
    message = refusal({**FLIGHTS, "delivery": written}, settings)
    assert said in message
    assert "delivery" in message


@pytest.mark.parametrize(("kept", "longest", "refused"), [(13, 14, True), (14, 14, False), (5, 4, False)])
def test_the_log_of_a_whole_rollout_is_kept(kept: int, longest: int, refused: bool, settings: Settings) -> None:
    delivery = {"strategy": "canary", "maximum_days": longest}
    model = {**FLIGHTS, "serving": {"log_retention_days": kept}}
    if refused:
        message = refusal({**model, "delivery": delivery}, settings)
        assert "model.yaml" in message
        assert "serving.log_retention_days: 13 days, and a rollout is judged by 14 days of the log" in message
    else:
        assert ModelSpec.model_validate({**model, "delivery": delivery}).delivery.maximum_days == longest
    assert ModelSpec.model_validate(model | {"delivery": {"maximum_days": longest}})  # direct: nothing is judged


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"strategy": "canary", "steps": [1, 50], "split_by": ["origin"]},
        {"strategy": "ab", "share": 20, "guardrails": {"slow_rate": 0.1, "graph_ms": 5, "alpha": 0.01}},
        {"strategy": "shadow", "minimum_labels": 9, "guardrails": {"metric_drop": 0.1, "error_rate": None}},
    ],
)
def test_a_section_written_in_full_says_the_same(written: dict[str, Any]) -> None:
    delivery = Delivery.model_validate(written)
    told = json.loads(json.dumps(delivery.in_full))
    assert {"minimum_entities", "guardrails"} <= told.keys()
    assert Delivery.model_validate(told) == delivery


@pytest.mark.parametrize("serving", [{"enabled": False}, {"log": False}])
def test_a_rollout_needs_the_log_that_judges_it(serving: dict[str, bool], settings: Settings) -> None:
    message = refusal({**FLIGHTS, "serving": serving, "delivery": {"strategy": "canary"}}, settings)
    assert (
        f"delivery.strategy: canary is judged by what is answered, and serving.{next(iter(serving))} is false"
        in message
    )
