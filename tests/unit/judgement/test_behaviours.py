"""Tests of behaviour: a model that does what is asked is told from one that does not, and the gate says which."""

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
from evergreen.judgement.behaviours import behaviour_results, behaviours_kept
from evergreen.judgement.evidence import Candidate, Check, Evaluation, Verdict
from evergreen.judgement.rules import decide
from evergreen.spec import Behaviours, ModelSpec, Task
from evergreen.training.scorer import Scorer
from evergreen.trust.statement import Bound

ROWS = 4000
GENERATOR = np.random.default_rng(0)
X = np.where(np.arange(ROWS) % 10 == 0, np.nan, GENERATOR.normal(size=ROWS))
FRAME = pd.DataFrame({"x": X, "site": np.where(np.arange(ROWS) < 20, "tiny", "a"), "hour": np.arange(ROWS) % 24})
DAY = Window(start=date(2013, 5, 1), end=date(2013, 5, 30))
SITES = {"a": 0.0, "b": 1.0, "tiny": 0.0}


def model(signal: Callable[[pd.DataFrame], Any], task: Task = Task.BINARY) -> Scorer:
    """Return a model of three inputs that answers by a formula; what is missing counts as 0."""

    def answer(rows: pd.DataFrame) -> pd.DataFrame:
        said = np.asarray(signal(rows.assign(x=rows["x"].astype(float).fillna(0))), dtype=np.float64)
        if task is Task.REGRESSION:
            return pd.DataFrame({"prediction": said}, index=rows.index)
        share = 1 / (1 + np.exp(-said))
        by_task = {"probability": share} if task is Task.BINARY else {"no": 1 - share, "yes": share}
        return pd.DataFrame(by_task, index=rows.index)

    encoder = SimpleNamespace(mean={"x": 0.0}, vocabulary={"site": ("a", "b"), "hour": ()})
    return Scorer("a model", encoder, answer, Bound(model="m", run_id="r", logged_model="l"))


def by_x(rows: pd.DataFrame) -> Any:
    return rows["x"]


def by_site(rows: pd.DataFrame) -> Any:
    return rows["site"].map(SITES).fillna(0.0)


def spec_with(task: Task = Task.BINARY, **tests: list[dict[str, Any]]) -> ModelSpec:
    spec = load_model("flight_delay").model_copy(update={"task": task})
    spec._behaviours = Behaviours.model_validate(tests)
    return spec


def evaluated(spec: ModelSpec, challenger: Scorer, frame: pd.DataFrame = FRAME) -> Evaluation:
    evaluation = Evaluation(
        **{"model": "m", "metric": "auc", "window": DAY, "rows": ROWS, "partitions": 30, "dataset": "d"},
        challenger=Candidate(run_id="r", training=DAY),
        confidence=0.975,
        behaviours=tuple(behaviour_results(spec, frame, challenger)),
    )
    return Evaluation.parse(evaluation.model_dump_json())


def asked(spec: ModelSpec, challenger: Scorer, frame: pd.DataFrame = FRAME) -> Check:
    (check,) = behaviours_kept(evaluated(spec, challenger, frame), spec)
    return check


UP = {"name": "more x, more likely", "shift": {"x": 1}, "goes": "up"}
STAYS = {"name": "the site is nothing", "set": {"site": "b"}}


def test_an_answer_that_stays_passes_and_one_that_moves_is_a_no_with_the_row() -> None:
    spec = spec_with(invariance=[STAYS])
    passed = asked(spec, model(by_x))
    assert (passed.rule, passed.subject, passed.verdict) == ("behaviours", STAYS["name"], Verdict.PASSED)
    assert (passed.value, passed.limit, passed.rows) == (0.0, 0.0, ROWS)
    failed = asked(spec, model(by_site))
    assert (failed.value, failed.verdict) == (1.0, Verdict.FAILED)
    assert "the answer does not stay in 100.0% of 4000 rows (site tiny to b: 0.5000 to 0.7311)" in failed.why
    assert failed.why in decide(evaluated(spec, model(by_site)), spec).why


def test_a_warning_is_told_and_decides_nothing() -> None:
    warned = spec_with(invariance=[{**STAYS, "level": "warning"}])
    assert asked(warned, model(by_site)).verdict is Verdict.WARNING
    assert "; warnings: behaviours: 'the site is nothing'" in decide(evaluated(warned, model(by_site)), warned).why


@pytest.mark.parametrize(("tolerance", "share", "passed"), [(0.24, 0.0, True), (0.22, 0.0, False), (0.0, 0.99, False)])
def test_an_answer_may_move_by_the_tolerance(tolerance: float, share: float, passed: bool) -> None:
    spec = spec_with(invariance=[{**STAYS, "tolerance": tolerance, "maximum_share": share}])
    assert (asked(spec, model(by_site)).verdict is Verdict.PASSED) is passed


def test_a_share_of_the_rows_may_go_the_other_way() -> None:
    """The answer falls with x where x is above its upper quarter."""
    high = float(np.nanquantile(X, 0.75))
    bent = model(lambda rows: np.where(rows["x"] > high, -rows["x"], rows["x"] - 20))
    found = asked(spec_with(direction=[{**UP, "maximum_share": 0.3}]), bent)
    assert found.verdict is Verdict.PASSED
    assert found.value == pytest.approx(0.25, abs=0.01)
    assert asked(spec_with(direction=[{**UP, "maximum_share": 0.2}]), bent).verdict is Verdict.FAILED


@pytest.mark.parametrize("task", [Task.BINARY, Task.REGRESSION])
def test_a_direction_is_the_one_that_was_named(task: Task) -> None:
    up, down = spec_with(task, direction=[UP]), spec_with(task, direction=[{**UP, "goes": "down"}])
    rising, falling = model(by_x, task), model(lambda rows: -rows["x"], task)
    assert asked(up, rising).verdict is asked(down, falling).verdict is Verdict.PASSED
    for spec, other, way in ((up, falling, "goes down"), (down, rising, "goes up")):
        found = asked(spec, other)
        assert found.verdict is Verdict.FAILED
        assert f"the answer {way} in 100.0% of 3600 rows" in found.why
    assert asked(up, model(by_site, task)).verdict is Verdict.PASSED, "what stays goes no other way"


def test_of_several_classes_one_is_named() -> None:
    rising = model(by_x, Task.MULTICLASS)
    for of, verdict in (("yes", Verdict.PASSED), ("no", Verdict.FAILED)):
        assert asked(spec_with(Task.MULTICLASS, direction=[{**UP, "of": of}]), rising).verdict is verdict
    unknown = asked(spec_with(Task.MULTICLASS, direction=[{**UP, "of": "maybe"}]), rising)
    assert unknown.verdict is Verdict.FAILED
    why = "missing evidence: it could not be evaluated: it knows no class 'maybe'"
    assert why in unknown.why
    request = {"name": "known", "inputs": {"x": 7}, "between": [0, 0.3]}
    for of, verdict in (("no", Verdict.PASSED), ("yes", Verdict.FAILED), ("maybe", Verdict.FAILED)):
        found = asked(spec_with(Task.MULTICLASS, request=[{**request, "of": of}]), rising)
        assert (found.verdict, why in found.why) == (verdict, of == "maybe")


def test_rows_that_a_change_leaves_as_they_are_say_nothing() -> None:
    """A tenth has no x to be moved; of rows that are all of site b none can be set to it."""
    (moved,) = evaluated(spec_with(direction=[UP]), model(by_x)).behaviours
    assert moved.rows == FRAME["x"].notna().sum()
    none = asked(spec_with(invariance=[STAYS]), model(by_site), FRAME.assign(site="b"))
    assert (none.verdict, none.why) == (Verdict.NOT_JUDGED, "'the site is nothing' (0 rows of 30)")


def test_a_change_may_be_asked_of_some_rows_and_too_few_are_not_judged() -> None:
    of_an_hour = {**STAYS, "where": {"hour": 5, "site": "a"}}
    (found,) = evaluated(spec_with(invariance=[of_an_hour]), model(by_x)).behaviours
    assert found.rows == ((FRAME["hour"] == 5) & (FRAME["site"] == "a")).sum()
    tiny = {**STAYS, "where": {"site": "tiny"}}
    few = asked(spec_with(invariance=[tiny]), model(by_site))
    assert (few.verdict, few.rows, few.why) == (Verdict.NOT_JUDGED, 20, "'the site is nothing' (20 rows of 30)")
    assert asked(spec_with(invariance=[{**tiny, "minimum_rows": 20}]), model(by_site)).verdict is Verdict.FAILED


def test_an_input_may_be_taken_away() -> None:
    away = {"name": "without x", "take_away": ["x"], "tolerance": 0.01}
    assert asked(spec_with(invariance=[away]), model(by_site)).verdict is Verdict.PASSED
    why = asked(spec_with(invariance=[away]), model(by_x)).why
    assert "to missing: " in why


def test_large_windows_are_sampled_after_the_rows_are_chosen() -> None:
    frame = pd.concat([FRAME] * 6, ignore_index=True)
    (all_rows,) = evaluated(spec_with(invariance=[STAYS]), model(by_x), frame).behaviours
    (tiny,) = evaluated(spec_with(invariance=[{**STAYS, "where": {"site": "tiny"}}]), model(by_x), frame).behaviours
    assert 5000 <= all_rows.rows < 10_000
    assert tiny.rows == 120


def test_a_test_that_asks_for_many_rows_gets_them() -> None:
    """Of 24,000 rows the change touches 12,000: as many must be asked, or a blocking test would pass everybody."""
    frame = pd.concat([FRAME.assign(site=np.where(np.arange(ROWS) % 2, "b", "a"))] * 6, ignore_index=True)
    for least, rows, verdict in ((12_000, 12_000, Verdict.FAILED), (12_001, 12_000, Verdict.NOT_JUDGED)):
        found = asked(spec_with(invariance=[{**STAYS, "minimum_rows": least}]), model(by_site), frame)
        assert (found.rows, found.verdict) == (rows, verdict)


@pytest.mark.parametrize(
    ("request_", "task", "signal", "why"),
    [
        ({"inputs": {"x": 2}, "between": [0.8, 0.9]}, Task.BINARY, by_x, ""),
        ({"inputs": {"x": 2}, "between": [0, 0.8]}, Task.BINARY, by_x, "the answer is 0.8808, not 0 to 0.8"),
        ({"inputs": {"x": 2}, "answer": 1}, Task.BINARY, by_x, ""),
        ({"inputs": {"x": 2}, "answer": 0}, Task.BINARY, by_x, "the answer is 1 (0.8808), not 0"),
        ({"inputs": {"site": "b"}, "answer": "yes"}, Task.MULTICLASS, by_site, ""),
        ({"inputs": {"site": "b"}, "answer": "no"}, Task.MULTICLASS, by_site, "the answer is yes (0.7311), not no"),
        ({"inputs": {"site": "b"}, "between": [0.2, 0.3], "of": "no"}, Task.MULTICLASS, by_site, ""),
        ({"inputs": {"x": 7}, "between": [6, 6.5]}, Task.REGRESSION, by_x, "the answer is 7.0000, not 6 to 6.5"),
        ({"inputs": {"x": 7}, "between": [6.5, 7]}, Task.REGRESSION, by_x, ""),
    ],
)
def test_a_request_is_answered_as_a_person_has_said(
    request_: dict[str, Any], task: Task, signal: Callable[[pd.DataFrame], Any], why: str
) -> None:
    found = asked(spec_with(task, request=[{"name": "known", **request_}]), model(signal, task))
    assert found.verdict is (Verdict.FAILED if why else Verdict.PASSED)
    assert found.why == (f"behaviours: 'known': {why}" if why else "")
    assert found.rows == 1


@pytest.mark.parametrize("written", [1, 1.0, "1"])
def test_a_class_of_a_binary_model_is_compared_however_it_may_be_written(written: object) -> None:
    request = {"name": "known", "inputs": {"x": 2}, "answer": written}
    spec = spec_with(request=[request])
    assert list(spec.behaviours.problems(Task.BINARY, spec.features)) == [
        "request, entry 1, inputs: 'x' is not an input of the model; use one of "
        + ", ".join(spec.features.inputs[:12])
        + " and 4 more"
    ]
    assert asked(spec, model(by_x)).verdict is Verdict.PASSED
    assert asked(spec, model(lambda rows: -rows["x"])).verdict is Verdict.FAILED


def test_answers_that_are_not_finite_are_missing_evidence() -> None:
    spec = spec_with(direction=[UP], request=[{"name": "known", "inputs": {"x": 1}, "between": [0, 1]}])
    checks = list(behaviours_kept(evaluated(spec, model(lambda rows: rows["x"] * np.nan)), spec))
    assert [check.verdict for check in checks] == [Verdict.FAILED] * 2
    assert all("missing evidence: it could not be evaluated" in check.why for check in checks)


def test_a_model_that_does_not_know_an_input_cannot_be_asked() -> None:
    found = asked(spec_with(invariance=[{"name": "new", "shift": {"y": 1}}]), model(by_x))
    assert "could not be evaluated: it does not know y" in found.why


@pytest.mark.parametrize("change", [{"shift": {"x": 2}}, {"goes": "down"}, {"tolerance": 0.1}, {"where": {"hour": 1}}])
def test_an_answer_to_something_else_is_no_evidence(change: dict[str, Any]) -> None:
    """Who loosens a test after it was evaluated has not made it pass."""
    evaluation = evaluated(spec_with(direction=[UP]), model(by_x))
    (check,) = behaviours_kept(evaluation, spec_with(direction=[{**UP, **change}]))
    assert check.verdict is Verdict.FAILED
    assert "was not evaluated" in check.why
    for limits in ({"maximum_share": 0.5}, {"level": "warning"}):  # these are the gate's to apply
        (check,) = behaviours_kept(evaluation, spec_with(direction=[{**UP, **limits}]))
        assert check.verdict is Verdict.PASSED


def test_an_evaluation_of_before_has_answered_nothing() -> None:
    evaluation, spec = evaluated(spec_with(), model(by_x)), spec_with(invariance=[STAYS])
    assert "missing evidence: it was not evaluated" in decide(evaluation, spec).why
    assert "behaviours" not in decide(evaluation, spec_with()).why
