"""Features as they were served against the offline ones: values, ages, tolerance, and what is not told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.monitoring.skew import Skew, compare_features
from evergreen.spec import FeatureView, ModelSpec

ROWS = 200
AT = pd.date_range("2024-03-10", periods=ROWS, freq="min", tz="UTC")
BUILT = pd.Timestamp("2024-03-09 06:00", tz="UTC")


def spec_of(**serving: Any) -> ModelSpec:
    spec = load_model("flight_delay")
    views = (FeatureView(name="of_user", sql="features/v.sql", entities=("user",), features=("visits", "tier")),)
    changes = {"views": views, "numeric": ("visits",), "categorical": ("tier",)}
    features = spec.features.model_copy(update=changes)
    return spec.model_copy(
        update={"name": "m", "features": features, "serving": spec.serving.model_copy(update=serving)}
    )


def offline() -> pd.DataFrame:
    visits = np.where(np.arange(ROWS) % 10 == 0, np.nan, np.arange(ROWS) / 3)
    return pd.DataFrame({"user": range(ROWS), "event_timestamp": AT, "visits": visits, "tier": "gold"})


def served(**changes: Any) -> pd.DataFrame:
    rows = offline()
    columns = {"feature_visits": rows["visits"], "feature_tier": rows["tier"]}
    columns |= {"age_of_user": (AT - BUILT).total_seconds(), "event_timestamp": AT, "request_user": rows["user"]}
    return pd.DataFrame(columns).assign(**changes)


def compare(rows: pd.DataFrame, spec: ModelSpec | None = None) -> Skew:
    known = pd.Series([BUILT] * ROWS)
    return compare_features(spec or spec_of(), rows, offline().head(len(rows)), {"of_user": known.head(len(rows))})


def in_the_first(count: int, column: str, value: Any) -> pd.DataFrame:
    rows = served()
    return rows.assign(**{column: rows[column].mask(np.arange(ROWS) < count, value)})


def test_what_is_equal_is_equal_and_so_is_nothing() -> None:
    found = compare(served())
    assert (found.verdict, found.rows) == ("equal", ROWS)
    assert {name: column.share for name, column in found.columns.items()} == {
        "visits": 0,
        "tier": 0,
        "age_of_user": 0,
    }


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [("feature_visits", 99.5, "visits"), ("feature_visits", None, "visits"), ("feature_tier", "silver", "tier")],
)
def test_one_column_that_differs_is_named_with_keys_and_values(column: str, value: Any, name: str) -> None:
    found = compare(in_the_first(40, column, value))
    assert found.verdict == "skewed"
    assert next(iter(found.columns)) == name
    assert [one for one, of in found.columns.items() if of.share] == [name]
    assert "user=1 at 2024-03-10T00:01:00+00:00: served" in " ".join(found.columns[name].examples)
    assert len(found.columns[name].examples) == 3


def test_the_limit_is_a_share_of_the_answers() -> None:
    few = in_the_first(10, "feature_tier", "silver")
    assert (compare(few).verdict, compare(few).columns["tier"].share) == ("equal", 0.05)
    assert compare(in_the_first(11, "feature_tier", "silver")).verdict == "skewed"
    assert compare(few, spec_of(maximum_skew=0.04)).verdict == "skewed"


def test_the_last_digits_of_a_float32_are_no_difference() -> None:
    rows = served()
    assert (
        compare(rows.assign(feature_visits=rows["feature_visits"].astype("float32").astype(float))).verdict == "equal"
    )
    assert compare(rows.assign(feature_visits=rows["feature_visits"] * 1.0001)).verdict == "skewed"


def test_an_online_row_that_was_older_is_skew_though_its_values_are_equal() -> None:
    rows = served()
    older = compare(rows.assign(age_of_user=rows["age_of_user"] + 86_400))
    assert (older.verdict, older.columns["age_of_user"].share) == ("skewed", 1.0)
    assert "age_of_user in 100.0%" in older.why
    assert compare(rows.assign(age_of_user=None)).columns["age_of_user"].share == 1.0
    assert compare(rows.assign(age_of_user=rows["age_of_user"] + 0.5)).verdict == "equal"
    assert compare(rows.assign(age_of_user=rows["age_of_user"] - 60)).verdict == "equal"


def test_what_is_masked_is_said_not_to_be_compared() -> None:
    found = compare(served(feature_visits="a digest"), spec_of(masked=("visits",)))
    assert (found.verdict, found.masked) == ("equal", ("visits",))
    assert "not compared, as the log does not tell them: visits" in found.why


def test_too_few_answers_say_nothing() -> None:
    found = compare(in_the_first(90, "feature_tier", "silver").head(99))
    assert (found.verdict, found.why) == ("insufficient", "99 answers to compare, 100 are needed")
