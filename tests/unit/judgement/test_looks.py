"""Whole rollouts of synthetic answers: what is no worse is seldom ended, and what is bad nearly always."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from evergreen.contract import DataError
from evergreen.judgement.events import EventKind
from evergreen.judgement.guardrails import entities_needed, judge
from evergreen.judgement.looks import Look, expired, look
from evergreen.judgement.rollouts import Rollout, as_begun
from evergreen.settings import PROJECT_ROOT
from evergreen.spec import Delivery, Guardrails, ModelSpec

T0 = datetime(2026, 1, 5, tzinfo=UTC)
EVERY = {"error_rate": 0.0, "slow_rate": 0.0, "graph_ms": 50, "prediction_shift": 0.0, "metric_drop": 0.0}
CANARY = {"strategy": "canary", "steps": [20, 50], "minimum_requests": 50, "minimum_minutes": 15}


def spec_of(**delivery: Any) -> ModelSpec:
    content = yaml.safe_load((PROJECT_ROOT / "include/models/flight_delay/model.yaml").read_text())
    return ModelSpec.model_validate({**content, "delivery": {**CANARY, **delivery}})


def rollout_of(spec: ModelSpec, **other: Any) -> Rollout:
    stage = spec.delivery.stages[0]
    begun = Rollout(
        *("2-a", spec.delivery.strategy, "1", "2", stage.share, stage.shadow, 0, "s", ("tail",), False),
        *(T0, T0, "train", date(2026, 1, 4), spec.delivery.in_full, 1),
    )
    return replace(begun, **other)


def answers(rng: np.random.Generator, start: datetime, share: float, count: int, **challenger: float) -> pd.DataFrame:
    """Return what is answered in five minutes: the same model on both sides, or a challenger that is worse."""
    new, outcome = rng.random(count) < share, rng.random(count) < 0.4
    noise = np.where(new, challenger.get("noise", 1.0), 1.0)
    score = 1.5 * outcome - 1 + noise * rng.normal(size=count) + challenger.get("shift", 0.0) * new
    wrong = rng.random(count) < np.where(new, challenger.get("errors", 0.02), 0.02)
    return pd.DataFrame(
        {
            "variant": np.where(new, "challenger", "champion"),
            "entity": rng.integers(0, 1 << 40, count),
            "at": pd.Timestamp(start) + pd.to_timedelta(np.sort(rng.random(count)) * 300, unit="s"),
            "status": np.where(wrong, "error", "ok"),
            "graph_ms": 25 * np.exp(0.5 * rng.normal(size=count)) * np.where(new, challenger.get("slower", 1.0), 1.0),
            "outcome": outcome.astype(float),
            "probability": 1 / (1 + np.exp(-score)),
        }
    )


def rolled_out(spec: ModelSpec, seed: int, rows: int, every: int = 5, **challenger: float) -> EventKind | None:
    """Return how a rollout ends that is looked at every so many minutes, or None if it waits after three hours."""
    rng, rollout, starts, parts = np.random.default_rng(seed), rollout_of(spec), [T0], []
    for minutes in range(5, 181, 5):
        now = T0 + timedelta(minutes=minutes)
        parts.append(answers(rng, now - timedelta(minutes=5), rollout.share, rows, **challenger))
        if minutes % every:
            continue
        seen = look(spec, rollout, pd.concat(parts, ignore_index=True), starts, now)
        if seen.change is None:
            continue
        if seen.change.kind is not EventKind.ROLLOUT_MOVED:
            return seen.change.kind
        moved = {name: seen.change.at[name] for name in ("step", "share", "shadow")}
        rollout, starts = replace(rollout, since=now, **moved), [*starts, now]
    return None


def ended(guardrails: dict[str, float], rollouts: int, rows: int, every: int = 5, **challenger: float) -> int:
    """Return how many of some rollouts were ended by a guardrail."""
    spec = spec_of(guardrails=guardrails, minimum_minutes=40)
    return sum(rolled_out(spec, seed, rows, every, **challenger) is EventKind.ROLLOUT_ENDED for seed in range(rollouts))


ALPHA, ROLLOUTS = 0.05, 30
MOST = ALPHA * ROLLOUTS + 3 * (ALPHA * (1 - ALPHA) * ROLLOUTS) ** 0.5
"""Ended by chance: the share that is allowed, and three standard errors of so many rollouts."""


def test_a_challenger_that_is_no_worse_is_ended_no_oftener_than_alpha_says() -> None:
    assert ended({**EVERY, "alpha": ALPHA}, ROLLOUTS, 150, every=10) <= MOST


def test_the_usual_interval_looked_at_again_and_again_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def usual(hits: int, rows: int, alpha: float) -> tuple[float, float]:
        width = 1.645 * (hits * (rows - hits) / rows**3) ** 0.5 / 2**0.5  # of one look, at 5 % on one side
        return hits / rows - width, hits / rows + width

    monkeypatch.setattr("evergreen.judgement.guardrails.bounds_of_rate", usual)
    alone = {"error_rate": 0.0, "prediction_shift": None}
    assert ended(alone, ROLLOUTS, 250) > MOST


@pytest.mark.parametrize("worse", [{"errors": 0.2}, {"slower": 2.5}, {"shift": 2.0}, {"noise": 3.0}], ids=str)
def test_a_challenger_that_is_worse_is_ended_nearly_always(worse: dict[str, float]) -> None:
    limits = {"error_rate": 0.05, "slow_rate": 0.1, "graph_ms": 50, "prediction_shift": 0.2, "metric_drop": 0.02}
    assert ended(limits, 10, 600, **worse) >= 9


def seen(spec: ModelSpec, rollout: Rollout, minutes: int = 20, rows: int = 2000) -> Look:
    """Return a look at a rollout after some minutes in which nothing went wrong."""
    now = T0 + timedelta(minutes=minutes)
    return look(spec, rollout, answers(np.random.default_rng(0), T0, 0.5, rows), [T0], now)


EDITED = [
    {"steps": [20]},
    {"strategy": "direct", "steps": None},
    {"strategy": "ab", "steps": None},
    {"guardrails": {"error_rate": 0.9}, "steps": [20, 30]},
]


@pytest.mark.parametrize("edit", EDITED, ids=str)
def test_a_model_yaml_that_is_edited_changes_no_rollout_that_is_under_way(edit: dict[str, Any]) -> None:
    rollout = rollout_of(spec_of())
    after = {name: value for name, value in {**CANARY, **edit}.items() if value is not None}
    spec = as_begun(spec_of().model_copy(update={"delivery": Delivery.model_validate(after)}), rollout)
    assert spec.delivery == spec_of().delivery
    change = seen(spec, rollout).change
    assert change is not None
    assert (change.kind, change.at["share"]) == (EventKind.ROLLOUT_MOVED, 0.5)


def test_a_section_of_another_release_is_read_as_far_as_it_is_known() -> None:
    spec = spec_of(guardrails={"error_rate": 0.2})
    kept = spec.delivery.in_full
    older = {**kept, "gone": 1, "guardrails": {**dict(kept["guardrails"]), "gone": 2}}  # type: ignore[arg-type]
    assert as_begun(spec_of(), rollout_of(spec, delivery=older)).delivery == spec.delivery
    with pytest.raises(DataError, match=r"the rollout 2-a began with a section delivery that is none now: .*\nsteps"):
        as_begun(spec_of(), rollout_of(spec, delivery={**kept, "steps": "many"}))


def test_a_rollout_whose_section_nobody_kept_goes_on_by_model_yaml_unless_its_strategy_is_another() -> None:
    unkept = rollout_of(spec_of(), delivery={})
    assert seen(as_begun(spec_of(), unkept), unkept).change is not None
    other = spec_of().model_copy(update={"delivery": Delivery()})
    waits = seen(as_begun(other, unkept), unkept, minutes=60, rows=3000)
    assert waits.change is None
    assert waits.missing == ("it began as canary, with steps that nobody kept: roll_back or finish",)


def test_a_rollout_ends_when_its_days_are_over_and_not_before() -> None:
    spec, rollout = spec_of(maximum_days=2), rollout_of(spec_of())
    assert expired(spec, rollout, T0 + timedelta(days=2)) is None
    change = expired(spec, rollout, T0 + timedelta(days=2, seconds=1))
    assert change is not None
    assert "undecided after 2 days" in change.why


def apart(entities: int) -> pd.DataFrame:
    """Return one answer about each entity; the two variants have none in common."""
    rows = answers(np.random.default_rng(0), T0, 0.5, 2 * entities)
    new = np.arange(2 * entities) % 2 == 1
    named = np.where(new, "challenger", "champion")
    return rows.assign(variant=named, status="ok", probability=np.where(new, 0.9, 0.1))


@pytest.mark.parametrize("limit", [0.05, 0.3, 0.6])
def test_a_guardrail_is_told_only_where_it_could_break(limit: float) -> None:
    spec = spec_of(minimum_entities=2, minimum_requests=1, guardrails={"prediction_shift": limit})
    needed = entities_needed(spec.delivery.guardrails, 0, 1)["prediction_shift"]
    (_, short), (_, enough) = (judge(spec, apart(count), [T0]) for count in (needed - 1, needed))
    assert (short.low, short.broken, short.champion_rows) == (None, False, needed - 1)
    assert enough.broken
    waits = look(spec, rollout_of(spec), apart(needed - 1), [T0], T0 + timedelta(minutes=20))
    assert f"the challenger has {needed - 1} of {needed} entities" in waits.missing


def test_the_default_minimum_is_enough_for_the_default_limits() -> None:
    delivery = spec_of(steps=[5, 25, 50]).delivery
    assert max(entities_needed(delivery.guardrails, 2, 1).values()) <= delivery.minimum_entities
    assert entities_needed(Guardrails(prediction_shift=0.6), 2, 1)["prediction_shift"] > delivery.minimum_entities


def test_outcomes_are_waited_for_in_the_last_step_alone() -> None:
    spec = spec_of(minimum_labels=500, guardrails={"metric_drop": 0.1})
    unknown = answers(np.random.default_rng(0), T0, 0.5, 2000).assign(outcome=None)
    first, last = rollout_of(spec), rollout_of(spec, step=1)
    now = T0 + timedelta(minutes=20)
    assert look(spec, first, unknown, [T0], now).missing == ()
    assert "metric_drop cannot be told yet" in look(spec, last, unknown, [T0], now).missing
