"""The gate of docs/judgement.md, written into a model's folder: what it asks, and what it says of three challengers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from evergreen.authoring.checks import check_model
from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.judgement.behaviours import behaviour_results
from evergreen.judgement.costs import costs_of
from evergreen.judgement.evaluation import evaluation_of, score
from evergreen.judgement.evidence import Candidate, GateResult, Verdict
from evergreen.judgement.robustness import flips_of
from evergreen.judgement.rules import decide
from evergreen.judgement.unlabelled import unlabelled_checks
from evergreen.settings import PROJECT_ROOT, Settings, get_settings
from evergreen.spec import ModelSpec
from evergreen.training.scorer import Scorer
from evergreen.trust.statement import Bound

ROWS, FIRST = 9000, date(2024, 3, 1)
GENERATOR = np.random.default_rng(0)
EVENING = GENERATOR.random(ROWS) < 0.5
SHARE = 1 / (1 + np.exp(1.2 - 2 * EVENING - 0.5 * GENERATOR.normal(size=ROWS)))


@pytest.fixture
def spec(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """The flights' model with the gate and the tests of behaviour that the page shows."""
    models = tmp_path / "models"
    shutil.copytree(PROJECT_ROOT / "include/models/flight_delay", models / "flight_delay")
    monkeypatch.setenv("EVERGREEN_MODELS_DIR", str(models))
    get_settings.cache_clear()
    page = (PROJECT_ROOT / "docs/judgement.md").read_text(encoding="utf-8")
    section = page[page.index("## How to write a gate") : page.index("## What proposes a training")]
    gate, behaviours = re.findall(r"```yaml\n(.*?)```", section, flags=re.S)
    path = models / "flight_delay/model.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | yaml.safe_load(gate)))
    (models / "flight_delay/behaviours.yaml").write_text(behaviours)
    assert check_model("flight_delay") == []
    return load_model("flight_delay")


def flights(spec: ModelSpec) -> pd.DataFrame:
    """Return flights that are late in the evening, on thirty days."""
    days = [str(FIRST + timedelta(days=number % 30)) for number in range(ROWS)]
    frame = pd.DataFrame({"ds": sorted(days), **dict.fromkeys(spec.features.numeric, 1.0)})
    frame = frame.assign(**dict.fromkeys(spec.features.categorical, "a"))
    frame = frame.assign(distance=SHARE, origin=["EWR", "JFK"] * 4500, departure_hour=np.where(EVENING, "19", "07"))
    return frame.assign(late=(GENERATOR.random(ROWS) < SHARE).astype(float))


def model(spec: ModelSpec, answer: Callable[[pd.DataFrame], Any], size: int = 1_000_000) -> Scorer:
    vocabulary = dict.fromkeys(spec.features.categorical, ())
    encoder = SimpleNamespace(mean=dict.fromkeys(spec.features.numeric, 0.0), vocabulary=vocabulary)

    def probability(rows: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"probability": np.asarray(answer(rows), dtype=float)}, index=rows.index)

    return Scorer("m", encoder, probability, Bound(model="flight_delay", run_id="r", logged_model="l"), size)


def by_evening(rows: pd.DataFrame) -> Any:
    known = rows["distance"].astype(float).fillna(0.4)
    return 0.6 * known + 0.4 * np.where(rows["departure_hour"] == "19", 0.7, 0.1)


def by_distance(rows: pd.DataFrame) -> Any:
    """It is as good, and takes the evening for the better time."""
    return rows["distance"].astype(float).fillna(0.4) - 0.001 * (rows["departure_hour"] == "19")


def constant(rows: pd.DataFrame) -> Any:
    return np.where(rows["departure_minute"].isna(), 0.3, 0.4) + 0.0001 * np.arange(len(rows)) / len(rows)


def judged(spec: ModelSpec, challenger: Scorer) -> GateResult:
    frame, champion = flights(spec), model(spec, constant)
    before = Window(start=FIRST - timedelta(days=40), end=FIRST - timedelta(days=5))
    scores = score(spec, frame, [challenger, champion])
    ours, theirs = ((Candidate(run_id="r", training=before, metrics=each.metrics()), each) for each in scores)
    evaluation = evaluation_of(spec, frame, "made up", ours, theirs, lambda: frame)
    figures = (*flips_of(spec, frame, challenger, champion), *costs_of(spec, frame, challenger, champion))
    further = {
        "figures": (*evaluation.figures, *figures),
        "behaviours": tuple(behaviour_results(spec, frame, challenger)),
    }
    return decide(evaluation.model_copy(update=further), spec)


def test_a_good_challenger_passes_and_every_line_of_the_gate_is_in_the_decision(spec: ModelSpec) -> None:
    verdict = judged(spec, model(spec, by_evening))
    assert verdict.passed, verdict.why
    subjects = {check.subject for check in verdict.checks}
    assert subjects >= {"ece", "flip_rate_noise", "size_mb", "latency_ms", "origin=EWR", "auc", "log_loss"}
    assert subjects >= {test.name for _, test in spec.behaviours.tests}


@pytest.mark.parametrize(
    ("answer", "size", "why"),
    [
        (by_distance, 1_000_000, "'flights of the evening are late more often than those of the morning': the answer"),
        (by_evening, 6_000_000, "the challenger's size_mb of 6.0000 is above the maximum 5"),
    ],
)
def test_a_better_challenger_that_breaks_a_line_is_a_no(
    spec: ModelSpec, answer: Callable[[pd.DataFrame], Any], size: int, why: str
) -> None:
    verdict = judged(spec, model(spec, answer, size))
    assert not verdict.passed
    (failed,) = (check for check in verdict.checks if check.verdict is Verdict.FAILED)
    assert why in failed.why
    asked = unlabelled_checks(spec, flights(spec), model(spec, answer, size), model(spec, constant))
    assert failed in asked, "so it is for a model that has learned from all labels there are"


def test_what_needs_no_label_is_asked_without_one(spec: ModelSpec) -> None:
    frame = flights(spec).drop(columns="late")
    checks = unlabelled_checks(spec, frame, model(spec, by_evening), model(spec, constant))
    assert {check.verdict for check in checks} == {Verdict.PASSED}
    tests = [test.name for _, test in spec.behaviours.tests]
    assert [check.subject for check in checks] == ["flip_rate_noise", "size_mb", "latency_ms", *tests]
    of_the_champion = spec.gate.rules[-1].model_copy(update={"metric": "size_mb", "maximum_drop": 0.5})
    gate = spec.gate.model_copy(update={"rules": (of_the_champion,)})
    larger = model(spec, by_evening, 2_000_000)
    asked = spec.model_copy(update={"gate": gate})
    for champion, verdicts in ((model(spec, constant), ["failed"]), (None, [])):
        found = unlabelled_checks(asked, frame, larger, champion)
        assert [check.verdict for check in found if check.rule != "behaviours"] == verdicts
