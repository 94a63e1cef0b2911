"""Suites: what they refuse, what they mark, and that every day is judged on its own."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.contract import ConfigurationError
from evergreen.data.expectations import judge, load_suite
from evergreen.spec import ModelSpec, Source

SOURCE = Source(
    name="things", reader="s.py:r", key=("a",), columns={"a": "double", "b": "string"}, expectations="e.yaml"
)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    spec = load_model("flight_delay").model_copy()
    spec._folder = tmp_path
    return spec


def _suite(spec: ModelSpec, text: str):
    (spec.folder / "e.yaml").write_text(text)
    return load_suite(SOURCE, spec)


def _frame(*days: list[float | None]) -> pd.DataFrame:
    rows = [(f"2013-03-{day:02}", value) for day, values in enumerate(days, start=1) for value in values]
    return pd.DataFrame(rows, columns=["ds", "a"]).assign(b="x")


BETWEEN = (
    "- {type: expect_column_values_to_be_between, severity: %s, kwargs: {column: a, min_value: 0, max_value: 10%s}}\n"
)


def test_a_warning_marks_exactly_the_rows_that_fail(spec: ModelSpec) -> None:
    verdicts, marked = judge(_suite(spec, BETWEEN % ("warning", "")), _frame([1, 11, None], [5], [-1]))
    assert list(marked) == [1, 4]
    assert marked[1] == ["expect_column_values_to_be_between(a)"]
    (verdict,) = verdicts
    assert (verdict.severity, verdict.failed_days, verdict.unexpected) == ("warning", ("2013-03-01", "2013-03-03"), 2)
    assert verdict.sample == ("11.0", "-1.0")


@pytest.mark.parametrize("severity", ["critical", "info"])
def test_other_severities_mark_no_rows(spec: ModelSpec, severity: str) -> None:
    verdicts, marked = judge(_suite(spec, BETWEEN % (severity, "")), _frame([11]))
    assert marked == {}
    assert verdicts[0].failed_days == ("2013-03-01",)


def test_mostly_is_meant_for_each_day(spec: ModelSpec) -> None:
    # 2 of 12 fail over both days, but 2 of 4 on the second, and nulls do not count
    frame = _frame([1] * 8, [1, 1, 11, 12, None, None])
    verdicts, marked = judge(_suite(spec, BETWEEN % ("warning", ", mostly: 0.6")), frame)
    assert verdicts[0].failed_days == ("2013-03-02",)
    assert list(marked) == [10, 11]


def test_a_window_is_judged_like_its_days_one_by_one(spec: ModelSpec) -> None:
    suite = _suite(
        spec,
        BETWEEN % ("warning", ", mostly: 0.7")
        + "- {type: expect_column_values_to_not_be_null, severity: warning, kwargs: {column: a, mostly: 0.5}}\n"
        + "- {type: expect_column_values_to_be_unique, severity: warning, kwargs: {column: a}}\n"
        + "- {type: expect_table_row_count_to_be_between, severity: critical, kwargs: {min_value: 3}}\n",
    )
    frame = _frame([1, 2, 11], [None, None, 1], [4, 4, 99, 5], [7])
    verdicts, marked = judge(suite, frame)
    each = [judge(suite, rows) for _, rows in frame.groupby("ds")]
    assert marked == {row: reasons for _, of_day in each for row, reasons in of_day.items()}
    for number, verdict in enumerate(verdicts):
        assert list(verdict.failed_days) == [day for of_day, _ in each for day in of_day[number].failed_days]
    assert [verdict.failed_days for verdict in verdicts] == [
        ("2013-03-01",),
        ("2013-03-02",),
        ("2013-03-03",),
        ("2013-03-04",),
    ]


def test_verdicts_stand_in_the_order_of_the_file(spec: ModelSpec) -> None:
    suite = _suite(
        spec,
        BETWEEN % ("info", "")
        + "- {type: expect_table_row_count_to_be_between, severity: info, kwargs: {min_value: 1}}\n"
        + "- {type: expect_column_values_to_not_be_null, severity: info, kwargs: {column: b}}\n"
        + "- {type: expect_column_values_to_not_be_null, severity: info, kwargs: {column: a}}\n",
    )
    verdicts, _ = judge(suite, _frame([11, None]))
    assert [(verdict.expectation.removeprefix("expect_"), verdict.target) for verdict in verdicts] == [
        ("column_values_to_be_between", "a"),
        ("table_row_count_to_be_between", ""),
        ("column_values_to_not_be_null", "b"),
        ("column_values_to_not_be_null", "a"),
    ]
    assert [bool(verdict.failed_days) for verdict in verdicts] == [True, False, False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {type: expect_nothing, severity: info}", "entry 1.*expect_nothing not found"),
        (BETWEEN % ("hard", ""), "entry 1.*Invalid severity"),
        ("- {type: expect_column_values_to_not_be_null, severity: info, kwargs: {column: zz}}", "zz is not a column"),
        ("- {type: expect_column_values_to_not_be_null, kwargs: {column: a}}", "give type, kwargs and severity"),
        ("- {type: expect_column_values_to_be_between, severity: info, kwargs: {column: a, min: 1}}", "extra fields"),
        ("{}", "expected a list"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_named_with_the_entry(spec: ModelSpec, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"(?s)e\.yaml.*{message}"):
        _suite(spec, text)


def test_a_missing_file_is_named(spec: ModelSpec) -> None:
    with pytest.raises(ConfigurationError, match=r"e\.yaml: there is no such file"):
        load_suite(SOURCE, spec)


def test_an_expectation_that_cannot_be_evaluated_is_the_files_fault(spec: ModelSpec) -> None:
    suite = _suite(
        spec, "- {type: expect_column_values_to_match_regex, severity: info, kwargs: {column: b, regex: '('}}"
    )
    with pytest.raises(ConfigurationError, match="expect_column_values_to_match_regex"):
        judge(suite, _frame([1]))


def test_the_suites_of_flight_delay_load() -> None:
    spec = load_model("flight_delay")
    for source in spec.sources:
        assert len(load_suite(source, spec)) > 5
