"""What a look at a rollout finds, on synthetic answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import yaml

from evergreen.judgement.guardrails import judge
from evergreen.settings import PROJECT_ROOT
from evergreen.spec import ModelSpec

T0 = datetime(2026, 1, 5, tzinfo=UTC)
LIMITS = {"slow_rate": 0.05, "graph_ms": 50, "prediction_shift": 0.2, "metric_drop": 0.01}


def spec(**limits: float) -> ModelSpec:
    """Return flight_delay with all guardrails on."""
    content = yaml.safe_load((PROJECT_ROOT / "include/models/flight_delay/model.yaml").read_text())
    content["delivery"] = {"strategy": "ab", "guardrails": {**LIMITS, **limits}}
    return ModelSpec.model_validate(content)


def rows(count: int, *, entities: int = 0, **challenger: Any) -> pd.DataFrame:
    """Return answers of both variants within an hour; the challenger's have other errors, latency, noise or shift."""
    rng = np.random.default_rng(1)
    entity = rng.integers(0, entities, count) if entities else np.arange(count)
    new = rng.random(int(entity.max()) + 1)[entity] < 0.5
    outcome = (rng.random(count) < 0.5).astype(float)
    score = rng.normal(size=count) * np.where(new, challenger.get("noise", 1.0), 1.0) + 1.2 * outcome
    wrong = rng.random(count) < np.where(new, challenger.get("errors", 0.01), 0.01)
    return pd.DataFrame(
        {
            "variant": np.where(new, "challenger", "champion"),
            "entity": entity.astype(str),
            "at": pd.Timestamp(T0) + pd.to_timedelta(np.arange(count) * 3000 / count, unit="s"),
            "status": np.where(wrong, "error", "ok"),
            "graph_ms": 20 * np.exp(rng.normal(0, 0.5, count)) * np.where(new, challenger.get("slower", 1.0), 1.0),
            "outcome": outcome,
            "probability": 1 / (1 + np.exp(-score - challenger.get("shift", 0.0) * new)),
        }
    )


def broken(answers: pd.DataFrame, **limits: float) -> set[str]:
    """Return the guardrails that are broken."""
    return {one.guardrail for one in judge(spec(**limits), answers, [T0]) if one.broken}


def test_a_challenger_that_is_no_worse_breaks_nothing_even_without_a_margin() -> None:
    without = dict.fromkeys(("error_rate", "slow_rate", "prediction_shift", "metric_drop"), 0.0)
    assert broken(rows(4000), **without) == set()
    assert broken(rows(4000, entities=300), **without) == set()


def test_what_is_wrong_is_found_and_nothing_else() -> None:
    assert broken(rows(8000, errors=0.05)) == {"error_rate"}
    assert broken(rows(1000, slower=2.0)) == {"slow_rate"}
    assert "prediction_shift" in broken(rows(3000, shift=1.5))
    assert broken(rows(20_000, noise=1.28)) == {"metric_drop"}


def test_times_in_microseconds_as_files_have_them_are_the_same_times() -> None:
    answers = rows(8000, errors=0.05)
    assert broken(answers.assign(at=answers["at"].astype("datetime64[us, UTC]"))) == {"error_rate"}


def test_an_entity_that_asks_again_and_again_counts_once() -> None:
    found = {one.guardrail: one for one in judge(spec(), rows(8000, entities=20, errors=0.5), [T0])}
    error = found["error_rate"]
    assert error.champion_rows + error.challenger_rows == 20
    assert not error.broken


def test_what_was_answered_before_the_first_step_does_not_count() -> None:
    late = judge(spec(), rows(8000, errors=0.05), [T0 + timedelta(minutes=49)])
    assert not any(one.broken for one in late)
    assert all(one.champion_rows + one.challenger_rows < 500 for one in late)
