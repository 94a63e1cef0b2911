"""What the step says about what it has built."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
import pytest

from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.steps.build_features import _facts

DAY = Window(start=date(2013, 3, 1), end=date(2013, 3, 1))


@pytest.mark.parametrize(
    ("labels", "known"),
    [
        (pa.array([1.0, 0.0, None, float("nan")]), 2),
        (pa.array([1, 0, None, 1]), 3),
        (pa.array(["yes", None, None, "no"]), 2),
        (pa.array([None] * 4, pa.bool_()), 0),
    ],
)
def test_a_label_is_known_if_a_training_would_take_it(labels: pa.Array, known: int) -> None:
    later = pa.table({"ds": ["2013-03-02"], "late": labels.slice(0, 1)})
    examples = pa.concat_tables([pa.table({"ds": ["2013-03-01"] * 4, "late": labels}), later])
    facts = _facts(load_model("flight_delay"), {"examples": examples}, DAY, {})
    assert (facts["labelled"], facts["rows"]) == (known, {"examples": 4})


def test_a_day_without_examples_has_no_label() -> None:
    examples = pa.schema([("ds", pa.string()), ("late", pa.float64())]).empty_table()
    assert _facts(load_model("flight_delay"), {"examples": examples}, DAY, {})["labelled"] == 0
