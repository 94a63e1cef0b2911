"""Answers and what became of them: feedback, labels, and what is said where they differ."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from evergreen.catalog import load_model
from evergreen.contract import DataError, Window
from evergreen.data.lake import get_lake
from evergreen.data.served import FEEDBACK, SERVED, Outcomes, served_with_outcomes
from evergreen.serving.log_files import feedback_schema
from evergreen.settings import Settings
from evergreen.spec import FeatureView, ModelSpec, Task

pytestmark = pytest.mark.integration
DAY = date(2024, 3, 10)
WINDOW = Window(start=DAY, end=DAY)
NOON = datetime(2024, 3, 10, 12, tzinfo=UTC)
MOMENT = pa.timestamp("us", tz="UTC")


def spec_of(
    task: Task = Task.BINARY, masked: tuple[str, ...] = (), keys: tuple[str, ...] = ("user", "shop")
) -> ModelSpec:
    spec = load_model("flight_delay")
    views = (FeatureView(name="of_user", sql="features/v.sql", entities=keys, features=("visits",)),) if keys else ()
    examples = spec.features.examples.model_copy(update={"label": "late"})
    features = spec.features.model_copy(update={"views": views, "examples": examples})
    serving = spec.serving.model_copy(update={"masked": masked})
    return spec.model_copy(update={"name": "m", "task": task, "features": features, "serving": serving})


def leave_served(*users: int | None, **other: list[Any]) -> None:
    """Leave an answer for each user, all asked at noon."""
    count = len(users)
    columns = {
        "ds": pa.array([str(DAY)] * count),
        "prediction_id": pa.array([f"p{place}" for place in range(count)]),
        "status": pa.array(["ok"] * count),
        "request_user": pa.array(users, pa.int64()),
        "request_shop": pa.array(["a"] * count),
        "event_timestamp": pa.array([NOON] * count, MOMENT),
    }
    columns |= {name: pa.array(column) for name, column in other.items()}
    get_lake().write("m", SERVED, pa.table(columns), WINDOW)


def leave_feedback(*said: tuple[str, str], day: date = DAY) -> None:
    """Leave feedback, each a second after the one before."""
    start = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    rows = [
        {"ds": str(day), "prediction_id": one, "outcome": outcome, "at": start + timedelta(seconds=second)}
        for second, (one, outcome) in enumerate(said)
    ]
    schema = pa.schema([("ds", pa.string()), *feedback_schema()])
    get_lake().write("m", FEEDBACK, pa.Table.from_pylist(rows, schema), Window(start=day, end=day))


def leave_examples(*known: tuple[int, float | None], day: date = DAY, at: datetime = NOON) -> None:
    columns = {
        "ds": pa.array([str(day)] * len(known)),
        "user": pa.array([user for user, _ in known], pa.int64()),
        "shop": pa.array(["a"] * len(known)),
        "event_timestamp": pa.array([at] * len(known), MOMENT),
        "late": pa.array([label for _, label in known], pa.float64()),
    }
    get_lake().write("m", "examples", pa.table(columns), Window(start=day, end=day))


def told(found: Outcomes) -> list[tuple[Any, ...]]:
    rows = found.rows.sort_values("prediction_id")
    pairs = zip(rows["outcome"], rows["outcome_from"], strict=True)
    return [tuple(None if pd.isna(value) else value for value in pair) for pair in pairs]


def test_without_a_log_the_missing_table_is_named(lake_settings: Settings) -> None:
    with pytest.raises(DataError, match=r"no table m\.served"):
        served_with_outcomes(spec_of(), WINDOW)


def test_nothing_is_known_at_first(lake_settings: Settings) -> None:
    leave_served(1, 2)
    found = served_with_outcomes(spec_of(), WINDOW)
    assert told(found) == [(None, None), (None, None)]
    assert (found.disagreements, found.ambiguous, found.unreadable) == (0, 0, 0)


def test_feedback_wins_over_the_label_and_a_difference_is_counted(lake_settings: Settings) -> None:
    leave_served(1, 2, 3, 4)
    leave_examples((1, 1.0), (2, 1.0), (3, 0.0))
    leave_feedback(("p0", "1"), ("p1", "0"))
    found = served_with_outcomes(spec_of(), WINDOW)
    assert told(found) == [(1.0, "feedback"), (0.0, "feedback"), (0.0, "label"), (None, None)]
    assert found.disagreements == 1


def test_the_newest_feedback_counts_whenever_it_came(lake_settings: Settings) -> None:
    leave_served(1, 2)
    leave_feedback(("p0", "1"), ("p1", "true"), ("p0", "0"), ("unknown", "1"))
    assert told(served_with_outcomes(spec_of(), WINDOW)) == [(0.0, "feedback"), (1.0, "feedback")]
    leave_feedback(("p1", "1"), ("p1", "false"), day=DAY + timedelta(days=40))
    assert told(served_with_outcomes(spec_of(), WINDOW)) == [(0.0, "feedback"), (0.0, "feedback")]


def test_feedback_that_is_no_number_is_counted_and_leaves_it_to_the_label(lake_settings: Settings) -> None:
    leave_served(1)
    leave_examples((1, 1.0))
    leave_feedback(("p0", "perhaps"))
    found = served_with_outcomes(spec_of(), WINDOW)
    assert told(found) == [(1.0, "label")]
    assert found.unreadable == 1


def test_only_the_very_entity_at_the_very_moment_is_meant(lake_settings: Settings) -> None:
    leave_served(1)
    leave_examples((1, 1.0), at=NOON + timedelta(microseconds=1))
    assert told(served_with_outcomes(spec_of(), WINDOW)) == [(None, None)]
    leave_examples((2, 1.0))
    assert told(served_with_outcomes(spec_of(), WINDOW)) == [(None, None)]
    leave_examples((1, 1.0), day=DAY + timedelta(days=1))  # in a time zone where it is the next day already
    assert told(served_with_outcomes(spec_of(), WINDOW)) == [(1.0, "label")]


def test_labels_that_differ_for_one_answer_count_as_none(lake_settings: Settings) -> None:
    leave_served(1, 2)
    leave_examples((1, 1.0), (1, 0.0), (2, 1.0), (2, 1.0), (2, None))
    found = served_with_outcomes(spec_of(), WINDOW)
    assert told(found) == [(None, None), (1.0, "label")]
    assert found.ambiguous == 1


def test_what_was_refused_is_no_answer(lake_settings: Settings) -> None:
    leave_served(1, None, status=["ok", "refused"])
    leave_examples((1, 1.0))
    found = served_with_outcomes(spec_of(), WINDOW)
    assert found.rows["prediction_id"].tolist() == ["p0"]
    assert told(found) == [(1.0, "label")]


def test_classes_are_text_whatever_type_the_label_has(lake_settings: Settings) -> None:
    leave_served(1, 2)
    leave_examples((1, 5.0), (2, 6.0))
    leave_feedback(("p1", "high"))
    found = served_with_outcomes(spec_of(Task.MULTICLASS), WINDOW)
    assert told(found) == [("5", "label"), ("high", "feedback")]
    assert found.disagreements == 1


@pytest.mark.parametrize("without", [{"masked": ("user",)}, {"keys": ()}], ids=["masked", "without keys"])
def test_a_key_that_nobody_knows_finds_no_label(lake_settings: Settings, without: dict[str, tuple[str, ...]]) -> None:
    leave_served(1)
    leave_examples((1, 1.0))
    assert told(served_with_outcomes(spec_of(**without), WINDOW)) == [(None, None)]  # type: ignore[arg-type]
