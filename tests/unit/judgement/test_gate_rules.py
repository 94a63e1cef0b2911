"""Rules that forbid or warn: what they compare, what they leave out, and that they make no challenger better."""

from __future__ import annotations

import re
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError, Window
from evergreen.judgement.evaluation import evaluation_of
from evergreen.judgement.evidence import Candidate, Check, Evaluation, GateResult, Verdict
from evergreen.judgement.figures import calibration_error
from evergreen.judgement.metrics import Scored
from evergreen.judgement.rules import decide
from evergreen.settings import PROJECT_ROOT
from evergreen.spec import FORBIDDING, GateRule, ModelSpec, Task

ROWS, DAYS, FIRST = 9000, 30, date(2024, 3, 1)
BEFORE = Window(start=FIRST - timedelta(days=40), end=FIRST - timedelta(days=5))
GENERATOR = np.random.default_rng(0)
KNOWN = GENERATOR.normal(size=ROWS)
SHARE = 1 / (1 + np.exp(-2 * KNOWN))
LATE = (GENERATOR.random(ROWS) < SHARE).astype(float)
SITE = np.where(np.arange(ROWS) < 4800, "north", np.where(np.arange(ROWS) < 8970, "south", "tiny"))
NAMES = np.array([str(FIRST + timedelta(days=number)) for number in range(DAYS)])
FRAME = pd.DataFrame({"ds": NAMES[np.arange(ROWS) % DAYS], "late": LATE, "origin": SITE})
WORSE = Scored(Task.BINARY, LATE, 1 / (1 + np.exp(-(KNOWN + 1.5 * GENERATOR.normal(size=ROWS)))))
EXACT = Scored(Task.BINARY, LATE, SHARE)
BOLD = Scored(Task.BINARY, LATE, 1 / (1 + np.exp(-8 * KNOWN)))
"""It ranks as the exact one does, and is far too sure."""


def spec_with(*rules: dict[str, Any], sensitive: tuple[str, ...] = ()) -> ModelSpec:
    found = load_model("flight_delay")
    asked = tuple(GateRule.model_validate(rule) for rule in rules)
    changes = {"rules": asked, "sensitive": sensitive, "slices": (), "limits": {}, "required": (), "rule": "confidence"}
    return found.model_copy(update={"gate": found.gate.model_copy(update=changes)})


def judged(
    spec: ModelSpec, challenger: Scored = EXACT, champion: Scored | None = WORSE, frame: pd.DataFrame = FRAME
) -> tuple[Evaluation, GateResult]:
    ours, theirs = (
        (Candidate(run_id="r", training=BEFORE, metrics=model.metrics()), model) if model else None
        for model in (challenger, champion)
    )
    assert ours
    evaluation = evaluation_of(spec, frame, "d", ours, theirs, lambda: frame)
    stored = Evaluation.parse(evaluation.model_dump_json().encode())
    return evaluation, decide(stored, spec)


def asked(verdict: GateResult) -> list[Check]:
    return [check for check in verdict.checks if check.rule.startswith("gate.rules")]


def test_a_rule_that_is_kept_says_its_value_limit_and_rows() -> None:
    evaluation, verdict = judged(spec_with({"metric": "ece", "maximum": 0.05}))
    assert verdict.passed
    (check,) = asked(verdict)
    assert (check.rule, check.subject, check.limit, check.rows) == ("gate.rules[].maximum", "ece", 0.05, ROWS)
    assert check.value == evaluation.figures[0].challenger
    assert check.verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"metric": "ece", "maximum": 0.05}, "the challenger's ece of 0.1"),
        ({"metric": "log_loss", "maximum_drop": 0.01}, "log_loss is worse than the champion's by 0."),
        ({"metric": "accuracy", "minimum": 0.9}, "is below the minimum 0.9"),
    ],
)
def test_a_better_model_that_breaks_a_blocking_rule_is_a_no_and_a_warning_only_says_so(
    rule: dict[str, Any], why: str
) -> None:
    assert judged(spec_with(), BOLD)[1].passed, "by the deciding metric it is better"
    blocked, warned = (judged(spec_with({**rule, "level": level}), BOLD)[1] for level in ("blocking", "warning"))
    assert not blocked.passed
    assert why in blocked.why
    assert warned.passed
    assert "; warnings: " in warned.why
    assert why in warned.why
    assert [check.verdict for check in asked(warned)] == [Verdict.WARNING]


def test_no_rule_makes_a_worse_model_a_champion() -> None:
    _, verdict = judged(spec_with({"metric": "ece", "maximum": 1}), WORSE, EXACT)
    assert asked(verdict)[0].verdict is Verdict.PASSED
    assert not verdict.passed


def test_a_drop_is_measured_the_way_the_metric_gets_better() -> None:
    for metric in ("auc", "brier"):  # of the one more is better, of the other less
        spec = spec_with({"metric": metric, "maximum_drop": 0.0})
        assert asked(judged(spec, EXACT, WORSE)[1])[0].value < 0
        assert asked(judged(spec, WORSE, EXACT)[1])[0].value > 0


def test_without_a_champion_nothing_has_dropped() -> None:
    rule = {"metric": "log_loss", "maximum_drop": 0.0, "maximum": 0.9}
    assert [check.rule for check in asked(judged(spec_with(rule), EXACT, None)[1])] == ["gate.rules[].maximum"]


def test_every_value_of_a_slice_is_held_to_the_rule_and_small_ones_are_named() -> None:
    rule = {"metric": "auc", "slice": "origin", "minimum": 0.7}
    evaluation, verdict = judged(spec_with(rule))
    assert verdict.passed
    assert verdict.unjudged == ("auc, origin=tiny (30 rows of 500)",)
    assert evaluation.figures[0].challenger == EXACT.metrics(SITE == "north")["auc"]
    bad = Scored(Task.BINARY, LATE, np.where(SITE == "tiny", 1 - SHARE, SHARE))
    assert judged(spec_with(rule), bad)[1].passed
    strict = judged(spec_with({**rule, "minimum_rows": 30}), bad)[1]
    assert "the challenger's auc, origin=tiny of 0." in strict.why
    assert not strict.passed


def test_what_cannot_be_computed_breaks_the_rule() -> None:
    """Without a single late flight an origin has no AUC."""
    never = np.where(SITE == "south", 0.0, LATE)
    challenger, champion = (Scored(Task.BINARY, never, model.prediction) for model in (EXACT, WORSE))
    rule = {"metric": "auc", "slice": "origin", "minimum": 0.5}
    verdict = judged(spec_with(rule), challenger, champion)[1]
    assert not verdict.passed
    assert "missing evidence: the challenger's auc, origin=south could not be computed" in verdict.why
    assert judged(spec_with({**rule, "level": "warning"}), challenger, champion)[1].passed


def test_a_rule_that_was_not_evaluated_is_missing_evidence() -> None:
    """The evidence is older than the rule."""
    evaluation, _ = judged(spec_with({"metric": "ece", "maximum": 0.5}))
    for rule in ({"metric": "brier", "maximum": 0.5}, {"metric": "ece", "maximum": 0.5, "slice": "origin"}):
        verdict = decide(evaluation, spec_with(rule))
        assert not verdict.passed
        assert "was not evaluated" in verdict.why
        assert decide(evaluation, spec_with({**rule, "level": "warning"})).passed


def test_a_sensitive_column_that_the_data_set_lacks_is_named() -> None:
    spec = spec_with({"metric": "group_difference", "maximum": 1}, sensitive=("route",))
    with pytest.raises(ConfigurationError, match=r"gate\.sensitive: the data set has no column 'route'"):
        judged(spec)


def test_the_calibration_error_of_exact_probabilities_is_small_and_sampling_alone() -> None:
    """docs/judgement.md says how much a sample makes of nothing."""
    for rows, least, most in ((500, 0.03, 0.065), (10_000, 0.006, 0.015)):
        errors = []
        for seed in range(50):
            generator = np.random.default_rng(seed)
            share = generator.random(rows)
            errors.append(calibration_error(Scored(Task.BINARY, (generator.random(rows) < share).astype(float), share)))
        assert least < np.mean(errors) < most


def test_the_calibration_error_is_the_distance_by_which_all_are_wrong() -> None:
    share = np.linspace(0.2, 0.6, 20_000)
    truth = (np.random.default_rng(1).random(share.size) < share).astype(float)
    assert calibration_error(Scored(Task.BINARY, truth, share + 0.25)) == pytest.approx(0.25, abs=0.01)


def test_equal_probabilities_are_one_bin_in_whatever_order_they_come() -> None:
    truth = np.r_[np.zeros(700), np.ones(300)]
    for seed in range(3):
        shuffled = np.random.default_rng(seed).permutation(truth)
        assert calibration_error(Scored(Task.BINARY, shuffled, np.full(1000, 0.3))) == pytest.approx(0, abs=1e-12)
        assert calibration_error(Scored(Task.BINARY, shuffled, np.full(1000, 0.5))) == pytest.approx(0.2)


def test_of_several_classes_the_chosen_one_s_probability_is_judged() -> None:
    truth, sure = np.arange(3000) % 3.0, np.full((3000, 3), 0.1)
    sure[:, 0] = 0.8  # it always says the first class, which is right in a third
    assert calibration_error(Scored(Task.MULTICLASS, truth, sure)) == pytest.approx(0.8 - 1 / 3)


FAIR = ("demographic_parity_difference", "equalized_odds_difference")


@pytest.mark.parametrize("metric", FAIR)
def test_a_model_that_is_harder_on_one_group_is_a_no_and_one_that_is_not_passes(metric: str) -> None:
    spec = spec_with({"metric": metric, "maximum": 0.1}, sensitive=("origin",))
    assert judged(spec)[1].passed
    harder = Scored(Task.BINARY, LATE, np.where(SITE == "south", SHARE**0.4, SHARE))
    verdict = judged(spec, harder)[1]
    assert not verdict.passed
    assert f"the challenger's {metric} by origin of 0." in verdict.why
    assert "(north 0." in verdict.why
    assert verdict.unjudged == (f"{metric}, origin=tiny (30 rows of 500)",)


def test_the_deciding_metric_may_be_compared_between_groups() -> None:
    spec = spec_with({"metric": "group_difference", "maximum": 0.05}, sensitive=("origin",))
    assert judged(spec)[1].passed
    noise = np.random.default_rng(2).random(ROWS)
    blind = Scored(Task.BINARY, LATE, np.where(SITE == "south", 0.5 + 0.4 * (SHARE - 0.5) + 0.3 * (noise - 0.5), SHARE))
    evaluation, verdict = judged(spec, blind)
    aucs = [blind.metrics(name == SITE)["auc"] for name in ("north", "south")]
    assert evaluation.figures[-1].challenger == pytest.approx(aucs[0] - aucs[1])
    assert "group_difference by origin" in verdict.why


def test_with_one_group_large_enough_there_is_nothing_to_compare() -> None:
    spec = spec_with({"metric": FAIR[0], "maximum": 0.0, "minimum_rows": 4500}, sensitive=("origin",))
    verdict = judged(spec)[1]
    assert verdict.passed
    assert f"{FAIR[0]} by origin (fewer than two groups have 4500 rows)" in verdict.unjudged


def test_a_group_in_which_a_rate_is_not_defined_breaks_the_rule() -> None:
    never = np.where(SITE == "south", 0.0, LATE)
    challenger, champion = (Scored(Task.BINARY, never, model.prediction) for model in (EXACT, WORSE))
    why = judged(spec_with({"metric": FAIR[1], "maximum": 1}, sensitive=("origin",)), challenger, champion)[1].why
    assert f"{FAIR[1]} by origin could not be computed (not defined for south)" in why


def test_rows_without_a_value_are_a_group() -> None:
    frame = FRAME.assign(origin=np.where(SITE == "south", None, SITE))
    spec = spec_with({"metric": FAIR[0], "maximum": 0.0}, sensitive=("origin",))
    assert "missing 0." in judged(spec, frame=frame)[1].why


@pytest.mark.parametrize("seed", range(5))
def test_the_differences_are_fairlearn_s(seed: int) -> None:
    from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

    generator = np.random.default_rng(seed)
    truth, group = generator.integers(0, 2, ROWS).astype(float), generator.choice(["a", "b", "c"], ROWS)
    model = Scored(Task.BINARY, truth, generator.random(ROWS))
    theirs = {FAIR[0]: demographic_parity_difference, FAIR[1]: equalized_odds_difference}
    spec = spec_with(*({"metric": name, "maximum": 1} for name in FAIR), sensitive=("origin",))
    evaluation, _ = judged(spec, model, None, FRAME.assign(origin=group))
    for figure in evaluation.figures:
        expected = theirs[figure.metric](truth, model.prediction > 0.5, sensitive_features=group)
        assert figure.challenger == pytest.approx(expected, abs=1e-12)


def test_the_documented_rules_are_right() -> None:
    page = (PROJECT_ROOT / "docs/judgement.md").read_text(encoding="utf-8")
    block, _ = re.findall(r"```yaml\n(gate:\n.*?)```", page, flags=re.S)  # the other: test_written_gate.py
    content = yaml.safe_load((PROJECT_ROOT / "include/models/flight_delay/model.yaml").read_text())
    content["gate"] |= yaml.safe_load(block)["gate"]
    assert len(ModelSpec.model_validate(content).gate.rules) == 4


def test_every_metric_of_rules_alone_is_explained() -> None:
    page = (PROJECT_ROOT / "docs/judgement.md").read_text(encoding="utf-8")
    assert [name for name in FORBIDDING if not re.search(rf"^\| `{name}` \(", page, flags=re.M)] == []
