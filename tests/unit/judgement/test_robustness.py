"""How easily an answer changes: a model that leans on one input is told from one that does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.judgement.evidence import Candidate, Evaluation, Figure, GateResult
from evergreen.judgement.robustness import flips_of
from evergreen.judgement.rules import decide
from evergreen.spec import GateRule, ModelSpec, Task
from evergreen.training.scorer import Scorer
from evergreen.trust.statement import Bound

ROWS = 4000
GENERATOR = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "x": GENERATOR.normal(size=ROWS),
        "y": GENERATOR.normal(size=ROWS),
        "site": GENERATOR.choice(["a", "b"], ROWS),
        "label": GENERATOR.normal(size=ROWS),
    }
)


def model(signal: Callable[[pd.DataFrame], Any], task: Task = Task.BINARY) -> Scorer:
    """Return a model of three inputs that answers by a formula; what is missing counts as 0."""

    def answer(rows: pd.DataFrame) -> pd.DataFrame:
        said = np.asarray(signal(rows.assign(x=rows["x"].fillna(0), y=rows["y"].fillna(0))), dtype=np.float64)
        if task is Task.REGRESSION:
            return pd.DataFrame({"value": said})
        share = 1 / (1 + np.exp(-said))
        return pd.DataFrame({"1": share} if task is Task.BINARY else {"no": 1 - share, "yes": share})

    encoder = SimpleNamespace(mean={"x": 0.0, "y": 0.0}, vocabulary={"site": ("a", "b")})
    return Scorer("a model", encoder, answer, Bound(model="m", run_id="r", logged_model="l"))


def spec_with(*rules: dict[str, Any], task: Task = Task.BINARY) -> ModelSpec:
    found = load_model("flight_delay")
    asked = tuple(GateRule.model_validate(rule) for rule in rules)
    examples = found.features.examples.model_copy(update={"label": "label"})
    gate = found.gate.model_copy(update={"rules": asked})
    features = found.features.model_copy(update={"examples": examples})
    return found.model_copy(update={"task": task, "gate": gate, "features": features})


def flips(metric: str, signal: Callable[[pd.DataFrame], Any], task: Task = Task.BINARY) -> Figure:
    (figure,) = flips_of(spec_with({"metric": metric, "maximum": 1}, task=task), FRAME, model(signal, task), None)
    return figure


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS])
def test_the_input_that_is_missed_most_is_named(task: Task) -> None:
    figure = flips("flip_rate_missing", lambda rows: 3 * rows["x"] + rows["y"], task)
    without = (3 * FRAME["x"] + FRAME["y"] > 0) != (FRAME["y"] > 0)
    assert figure.challenger == pytest.approx(without.mean())
    assert (figure.detail, figure.rows, figure.champion) == ("without x", ROWS, None)


def test_a_category_goes_missing_too() -> None:
    figure = flips("flip_rate_missing", lambda rows: np.where(rows["site"] == "a", 1.0, -1.0) + 0.01 * rows["x"])
    assert figure.challenger == pytest.approx((FRAME["site"] == "a").mean())
    assert figure.detail == "without site"


def test_a_model_that_is_nervous_flips_on_noise_and_a_calm_one_does_not() -> None:
    nervous, calm = (
        flips("flip_rate_noise", signal) for signal in (lambda rows: np.sin(300 * rows["x"]), lambda rows: rows["x"])
    )
    assert nervous.challenger > 0.3
    assert 0 < calm.challenger < 0.01
    assert flips("flip_rate_noise", lambda rows: np.sin(300 * rows["x"])) == nervous, "it is always the same noise"


def test_the_number_whose_shift_changes_most_is_named_with_its_way() -> None:
    """An answer that falls off a cliff at the mean of x: half of its spread decides for many, as many as lie there."""
    figure = flips("flip_rate_shift", lambda rows: rows["x"] + 0.1 * rows["y"])
    spread = FRAME["x"].std(ddof=0)
    signal = FRAME["x"] + 0.1 * FRAME["y"]
    shares = {
        way: ((signal > 0) != (signal + by > 0)).mean() for way, by in (("higher", spread / 2), ("lower", -spread / 2))
    }
    way = max(shares, key=lambda one: shares[one])
    assert (figure.challenger, figure.detail) == (pytest.approx(shares[way], abs=1e-3), f"x {way}")
    assert flips("flip_rate_shift", lambda rows: 5 + 0.1 * rows["x"]).challenger == 0


def test_a_shift_stays_within_the_column_s_bounds() -> None:
    """Beyond the largest x lies what no row has ever had, so nobody asks what the model says there."""
    assert flips("flip_rate_shift", lambda rows: np.where(rows["x"] > FRAME["x"].max(), 1, -1)).challenger == 0


def test_a_nudge_of_any_one_number_that_flips_a_row_counts_the_row_once() -> None:
    def corner(rows: pd.DataFrame) -> Any:
        return np.where((rows["x"] > 1) | (rows["y"] > 1), 1.0, -1.0)

    figure = flips("flip_rate_nudge", corner)
    inside = (FRAME["x"] <= 1) & (FRAME["y"] <= 1)
    reach = {name: FRAME[name] + 0.1 * FRAME[name].std(ddof=0) for name in ("x", "y")}
    back = {name: FRAME[name] - 0.1 * FRAME[name].std(ddof=0) <= 1 for name in ("x", "y")}
    comes = inside & ((reach["x"] > 1) | (reach["y"] > 1))
    goes = ((FRAME["x"] > 1) & back["x"] & (FRAME["y"] <= 1)) | ((FRAME["y"] > 1) & back["y"] & (FRAME["x"] <= 1))
    assert figure.challenger == pytest.approx((comes | goes).mean())
    assert figure.challenger > flips("flip_rate_noise", corner).challenger
    assert flips("flip_rate_nudge", lambda rows: 5 + 0.1 * rows["x"]).challenger == 0


def test_without_any_number_nothing_can_be_moved_and_without_a_finite_answer_nothing_is_known() -> None:
    words = Scorer(
        "words",
        SimpleNamespace(mean={}, vocabulary={"site": ("a", "b")}),
        lambda rows: pd.DataFrame({"1": np.full(len(rows), 0.7)}),
        Bound(model="m", run_id="r", logged_model="l"),
    )
    for metric in ("flip_rate_noise", "flip_rate_nudge", "flip_rate_shift"):
        (figure,) = flips_of(spec_with({"metric": metric, "maximum": 1}), FRAME, words, None)
        assert figure.challenger == 0
    broken = flips("flip_rate_shift", lambda rows: np.where(rows["x"].mean() > 0.3, np.nan, rows["x"]))
    assert (broken.challenger, broken.detail) == (None, "x higher")


def test_a_regression_has_changed_when_it_moves_by_a_tenth_of_the_label_s_spread() -> None:
    for scale, share in ((0.05, 0.05), (1.0, 0.92)):
        found = flips("flip_rate_missing", lambda rows, scale=scale: 5 + scale * rows["x"], Task.REGRESSION)
        assert found.challenger == pytest.approx(share, abs=0.03)
    assert flips("flip_rate_noise", lambda rows: 5 + rows["x"], Task.REGRESSION).challenger == 0


def judged(spec: ModelSpec, challenger: Scorer, champion: Scorer) -> GateResult:
    window, before = (Window(start=date(2024, month, 1), end=date(2024, month, 30)) for month in (3, 1))
    known = {"auc": 0.8, "log_loss": 0.5, "brier": 0.1}
    ours, theirs = (Candidate(run_id=one, training=before, metrics=known) for one in ("new", "old"))
    found = Evaluation(
        **{"model": "m", "metric": "auc", "window": window, "rows": ROWS, "partitions": 30, "dataset": "d"},
        **{"challenger": ours, "champion": theirs, "improvement": 0.05, "low": 0.03, "high": 0.07},
        **{"gain": 0.05, "harm": 0.0, "chance_of_harm": 0.0, "confidence": 0.95},
        figures=tuple(flips_of(spec, FRAME, challenger, champion)),
    )
    return decide(found, spec.model_copy(update={"gate": spec.gate.model_copy(update={"slices": ()})}))


def test_a_rule_forbids_a_model_that_is_more_fragile_than_the_champion() -> None:
    steady, fragile = model(lambda rows: rows["x"] + rows["y"]), model(lambda rows: rows["x"] + 0.1 * rows["y"])
    spec = spec_with({"metric": "flip_rate_missing", "maximum_drop": 0.05})
    assert judged(spec, steady, fragile).passed
    verdict = judged(spec, fragile, steady)
    assert not verdict.passed
    assert "flip_rate_missing is worse than the champion's by 0.2" in verdict.why


def test_a_model_that_fails_without_an_input_breaks_every_rule_and_the_input_is_named() -> None:
    failing = model(lambda rows: np.where(rows["site"].isna(), np.nan, rows["x"]))
    verdict = judged(spec_with({"metric": "flip_rate_missing", "maximum": 1}), failing, failing)
    assert "flip_rate_missing could not be computed (without site)" in verdict.why
    assert not verdict.passed


def test_no_model_is_asked_where_no_rule_asks() -> None:
    def never(rows: pd.DataFrame) -> Any:
        raise AssertionError

    assert list(flips_of(spec_with({"metric": "ece", "maximum": 1}), FRAME, model(never), None)) == []
    with pytest.raises(AssertionError):
        flips("flip_rate_noise", never)


def test_a_rule_that_asks_for_many_rows_gets_them() -> None:
    large = pd.concat([FRAME] * 6, ignore_index=True)
    for least, rows in ((500, 6000), (20_000, 24_000)):
        spec = spec_with({"metric": "flip_rate_noise", "maximum": 1, "minimum_rows": least})
        (figure,) = flips_of(spec, large, model(lambda rows: rows["x"]), None)
        assert figure.rows == rows
