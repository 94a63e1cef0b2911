"""The pictures of an evaluation: which there are, how large, and that values of the data are no markup of theirs."""

from __future__ import annotations

import io
from datetime import date, timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from decision_log_kit import evaluation
from evergreen.judgement.evidence import SliceScore
from evergreen.judgement.figures import calibration_error, reliability
from evergreen.judgement.metrics import Scored
from evergreen.judgement.pictures import pictures_of
from evergreen.spec import Task

DAYS = 20
ROWS = 9000
ALWAYS = {"improvement_by_slice", "metric_by_day"}
OF_TASK = {
    Task.BINARY: ("auc", {"roc_curve", "calibration"}),
    Task.REGRESSION: ("rmse", {"predicted_and_true", "residuals"}),
    Task.MULTICLASS: ("log_loss", {"confusion_matrix"}),
}
AWKWARD = ("$\\frac", "a" * 80, "Ünï <b>", "two\nlines", "")


def scores(task: Task, strength: float = 1.0) -> tuple[pd.Series, Scored]:
    """Labels, and predictions of a model that knows them as well as its strength says."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    if task is Task.BINARY:
        truth = (x + rng.normal(size=ROWS) > 0).astype(float)
        return pd.Series(truth.astype(int)), Scored(task, truth, 1 / (1 + np.exp(-strength * x)))
    if task is Task.REGRESSION:
        return pd.Series(x), Scored(task, x, strength * x + rng.normal(size=ROWS))
    names = np.array([f"{name}{number}" for number in range(3) for name in AWKWARD])  # more than are shown
    truth = rng.integers(0, len(names), ROWS)
    shares = rng.random((ROWS, len(names)))
    shares[np.arange(ROWS), truth] += strength
    return pd.Series(names[truth]), Scored(task, truth.astype(float), shares / shares.sum(axis=1, keepdims=True))


def drawn(task: Task, champion: bool = True, change: Scored | None = None, slices: int = 30) -> dict[str, bytes]:
    labels, challenger = scores(task)
    metric, _ = OF_TASK[task]
    days = [str(date(2024, 3, 1) + timedelta(days=row % DAYS)) for row in range(ROWS)]
    bounds = {"improvement": 0.1, "low": -0.1, "high": 0.3}
    parts = [
        SliceScore(column="site", value=f"{AWKWARD[number % 5]}{number}", rows=9, **bounds) for number in range(slices)
    ]
    found = evaluation("3" if champion else None).model_copy(update={"metric": metric, "slices": tuple(parts)})
    if not champion:
        found = found.model_copy(update={"improvement": None})
    spec = SimpleNamespace(
        task=task, gate=SimpleNamespace(metric=metric), features=SimpleNamespace(examples=SimpleNamespace(label="y"))
    )
    rival = scores(task, 0.5)[1] if champion else None
    frame = pd.DataFrame({"ds": days, "y": labels})
    return pictures_of(spec, frame, found, change or challenger, rival)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", list(Task))
def test_every_task_has_its_pictures_small_enough_for_a_page_and_the_same_each_time(task: Task) -> None:
    pictures = drawn(task)
    assert set(pictures) == ALWAYS | OF_TASK[task][1]
    for name, content in pictures.items():
        assert len(content) < 100_000, name
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 200
    assert drawn(task) == pictures


@pytest.mark.parametrize("task", list(Task))
def test_a_first_champion_is_drawn_alone(task: Task) -> None:
    alone = drawn(task, champion=False)
    assert set(alone) == {"metric_by_day"} | OF_TASK[task][1]
    assert alone["metric_by_day"] != drawn(task)["metric_by_day"]


@pytest.mark.parametrize("task", list(Task))
def test_rows_without_a_prediction_are_left_out_and_a_model_without_any(task: Task) -> None:
    _, challenger = scores(task)
    some, none = challenger.prediction.copy(), np.full_like(challenger.prediction, np.nan)
    some[::7] = np.nan
    truth = challenger.truth
    assert set(drawn(task, change=Scored(task, truth, some))) == set(drawn(task))
    assert set(drawn(task, False, Scored(task, truth, none))) == set()


def test_of_one_class_there_is_no_roc_curve() -> None:
    _, challenger = scores(Task.BINARY)
    ones = Scored(Task.BINARY, np.ones(ROWS), challenger.prediction)
    assert set(drawn(Task.BINARY, False, ones)) == {"metric_by_day", "calibration"}


def test_no_slices_no_picture_of_them() -> None:
    assert "improvement_by_slice" not in drawn(Task.BINARY, slices=0)


def test_a_bin_has_its_rows_what_they_were_given_and_what_came_true() -> None:
    given = np.repeat([0.1, 0.9], 50)
    truth = np.r_[np.ones(10), np.zeros(40), np.ones(35), np.zeros(15)]
    model = Scored(Task.BINARY, truth, given)
    rows, said, came_true = reliability(model)
    assert (list(rows), list(said.round(9)), list(came_true)) == ([50, 50], [0.1, 0.9], [0.2, 0.7])
    assert calibration_error(model) == pytest.approx(0.15)
