"""Suites: what they refuse, what they mark, and that every day is judged on its own."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from evergreen.catalog import load_function, load_model
from evergreen.contract import ConfigurationError
from evergreen.data.expectations import _validate, judge, load_suite, warnings_in
from evergreen.spec import ModelSpec, Source

SOURCE = Source(
    name="things",
    reader="s.py:r",
    key=("a",),
    columns={"a": "double", "b": "string", "c": "double"},
    expectations="e.yaml",
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


def test_two_warnings_of_one_name_are_told_apart_by_what_they_ask(spec: ModelSpec) -> None:
    """Nor is one whose limit has changed the same: a row that was released from it then is not released from it now."""
    wide, narrow = BETWEEN % ("warning", ""), BETWEEN.replace("10", "9") % ("warning", "")
    name = "expect_column_values_to_be_between(a)"
    asked = {text: warnings_in(_suite(spec, text)) for text in (wide, narrow, wide + wide)}
    assert all(list(found) == [name] for found in asked.values())
    assert asked[wide] == asked[wide + wide] == warnings_in(_suite(spec, wide.replace("warning", "critical") + wide))
    assert asked[wide] != asked[narrow]
    suite = _suite(spec, wide + narrow)
    both = warnings_in(suite)
    digests = [asked[text][name] for text in (wide, narrow)]
    assert both == {f"{name} #{digest[:8]}": digest for digest in digests}
    verdicts, marked = judge(suite, _frame([9.5, 11, 1]))
    assert marked == {0: [list(both)[1]], 1: list(both)}
    assert {verdict.name: verdict.asked for verdict in verdicts} == both, "whether it has judged or not"


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


NULLS_AND_MOSTLY = pd.DataFrame(
    [("2013-03-01", a, c) for a, c in [(0, 1)] * 5 + [(9, 1)] * 5 + [(None, None)] * 90]  # half of the pairs are wrong
    + [("2013-03-02", a, c) for a, c in [(1, 0)] * 5 + [(None, None)] * 95]  # one value in twenty
    + [("2013-03-03", a, c) for a, c in [(11, 0), (1, 5), (1, 5), (1, 5)]]  # one value in four
    + [("2013-03-04", a, c) for a, c in [(1, 0)] * 79 + [(11, 0)] * 316],  # exactly the fifth that is asked for
    columns=["ds", "a", "c"],
).assign(b="x")


@pytest.mark.parametrize(
    ("kind", "kwargs", "failed"),
    [
        ("column_pair_values_a_to_be_greater_than_b", "column_A: a, column_B: c, mostly: 0.9", "1 3"),
        ("multicolumn_sum_to_equal", "column_list: [a, c], sum_total: 1, mostly: 0.9", "1 3 4"),
        ("column_values_to_be_null", "column: a, mostly: 0.9", "3 4"),
        ("column_values_to_be_between", "column: a, max_value: 10, mostly: 0.7, row_condition: c>1", ""),
        ("column_values_to_be_between", "column: a, max_value: 10, mostly: 0.7, row_condition: c<1", "3 4"),
        ("column_values_to_be_between", "column: a, max_value: 10, mostly: 0.2", ""),
        ("column_values_to_be_of_type", "column: a, type_: int64", "1 2 3 4"),
        ("column_value_z_scores_to_be_less_than", "column: a, threshold: 1.3, double_sided: true", "3 4"),
    ],
)
def test_a_day_fails_where_great_expectations_says_so(spec: ModelSpec, kind: str, kwargs: str, failed: str) -> None:
    parser = ", condition_parser: pandas" if "row_condition" in kwargs else ""
    suite = _suite(spec, f"- {{type: expect_{kind}, severity: critical, kwargs: {{{kwargs}{parser}}}}}")
    (verdict,), _ = judge(suite, NULLS_AND_MOSTLY)
    theirs = {day: _validate(suite, rows)[0].success for day, rows in NULLS_AND_MOSTLY.groupby("ds")}
    assert set(verdict.failed_days) == {day for day, success in theirs.items() if not success}
    assert verdict.failed_days == tuple(f"2013-03-0{day}" for day in failed.split())


ROWS = pd.DataFrame(
    {
        "ds": ["2013-03-01"] * 4 + ["2013-03-02"] * 4,
        "a": [1.0, 1.0, 2.0, None, 5.0, 4.0, 6.0, 6.0],
        "b": ["x", "yy", None, "{}", "2013-01-01", "x", "3", "w w"],
        "c": [1.0, 2.0, 2.0, None, 1.0, 4.0, 6.0, 6.0],
    }
)


@pytest.mark.parametrize(
    ("kind", "kwargs", "marked"),
    [
        ("column_pair_values_a_to_be_greater_than_b", "column_A: a, column_B: c, or_equal: true", [1]),
        ("column_pair_values_to_be_equal", "column_A: a, column_B: c", [1, 4]),
        ("column_pair_values_to_be_equal", "column_A: a, column_B: c, row_condition: a>4", [4]),
        (
            "column_pair_values_to_be_in_set",
            "column_A: a, column_B: c, value_pairs_set: [[1, 1], [4, 4]]",
            [1, 2, 4, 6, 7],
        ),
        ("compound_columns_to_be_unique", "column_list: [a, c]", [6, 7]),
        ("compound_columns_to_be_unique", "column_list: [a, c], row_condition: a<6", []),
        ("multicolumn_sum_to_equal", "column_list: [a, c], sum_total: 4", [0, 1, 4, 5, 6, 7]),
        ("multicolumn_values_to_be_equal", "column_list: [a, c]", [1, 4]),
        ("select_column_values_to_be_unique_within_record", "column_list: [a, c]", [0, 2, 5, 6, 7]),
        ("column_values_to_be_unique", "column: a", [0, 1, 6, 7]),
        ("column_values_to_be_increasing", "column: a, strictly: true", [1, 5, 7]),
        ("column_value_z_scores_to_be_less_than", "column: a, threshold: 0.9, double_sided: true", [2, 5]),
        ("column_values_to_be_null", "column: b", [0, 1, 3, 4, 5, 6, 7]),
        ("column_values_to_be_json_parseable", "column: b", [0, 1, 4, 5, 7]),
    ],
)
def test_a_warning_without_a_key_or_about_several_columns_marks_its_very_rows(
    spec: ModelSpec, kind: str, kwargs: str, marked: list[int]
) -> None:
    """Rows are named by their place, on any day, and whether or not a key is among the columns."""
    parser = ", condition_parser: pandas" if "row_condition" in kwargs else ""
    suite = _suite(spec, f"- {{type: expect_{kind}, severity: warning, kwargs: {{{kwargs}{parser}}}}}")
    (verdict,), found = judge(suite, ROWS)
    assert sorted(found) == marked
    assert verdict.unexpected == len(marked)
    shuffled = ROWS.iloc[::-1]  # a frame of which rows were taken out keeps their places
    if "increasing" not in kind:
        assert sorted(judge(suite, shuffled)[1]) == marked


def test_what_only_a_database_can_compute_is_refused(spec: ModelSpec) -> None:
    suite = _suite(
        spec,
        "- {type: expect_column_values_to_match_like_pattern, severity: warning, kwargs: {column: b, like_pattern: x}}",
    )
    with pytest.raises(ConfigurationError, match=r"like_pattern\(b\) needs a database, and a day is judged in memory"):
        judge(suite, ROWS)


def test_a_warning_about_two_columns_marks_its_rows_and_shows_both_values(spec: ModelSpec) -> None:
    pair = "- {type: expect_column_pair_values_to_be_equal, severity: warning, kwargs: {column_A: a, column_B: c}}"
    frame = _frame([1], [2, 3, None]).assign(c=[1, 2, 4, None])
    (verdict,), marked = judge(_suite(spec, pair), frame)
    assert list(marked) == [2]
    assert (
        str(verdict) == "expect_column_pair_values_to_be_equal(a, c) failed on 2013-03-02: 1 of 4 rows; found 3.0, 4.0"
    )


def test_a_day_without_rows_is_judged_by_what_is_expected_of_the_table(spec: ModelSpec) -> None:
    rows = "- {type: expect_table_row_count_to_be_between, severity: critical, kwargs: {min_value: 1}}\n"
    mean = "- {type: expect_column_mean_to_be_between, severity: critical, kwargs: {column: a, min_value: 0}}\n"
    suite = _suite(spec, BETWEEN % ("critical", "") + mean + rows)
    verdicts, _ = judge(suite, _frame([1], [], [2]), ["2013-03-01", "2013-03-02"])
    assert [verdict.failed_days for verdict in verdicts] == [(), (), ("2013-03-02",)]
    (verdict,), _ = judge(suite, _frame(), ["2013-03-02"])
    assert str(verdict) == "expect_table_row_count_to_be_between() failed on 2013-03-02: found 0"


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
        (
            "- {type: expect_column_mean_to_be_between, severity: warning, kwargs: {column: a, min_value: 0}}",
            "entry 1.*looks at a whole day and cannot say which they are: make it critical",
        ),
        ("- {type: expect_table_row_count_to_equal, severity: warning, kwargs: {value: 1}}", "entry 1.*a whole day"),
        ("- {type: expect_column_values_to_be_of_type, severity: warning, kwargs: {column: a, type_: int}}", "entry 1"),
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


def test_every_day_of_the_year_has_the_rows_that_flight_delay_cannot_do_without() -> None:
    """The last day has flights and no weather."""
    spec = load_model("flight_delay")
    days = [str(day.date()) for day in pd.date_range("2013-01-01", "2013-12-31")]
    silent = {}
    for source in spec.sources:
        read = load_function(spec, source.reader)
        frames = {day: read(date.fromisoformat(day)) for day in days}
        silent[source.name] = [day for day, frame in frames.items() if frame is None]
        rows = pd.DataFrame(
            {"ds": [day for day, frame in frames.items() if frame is not None for _ in range(len(frame))]}
        )
        suite = [one for one in load_suite(source, spec) if one.configuration.type.startswith("expect_table")]
        suite = [one for one in suite if one.configuration.severity == "critical"]
        verdicts, _ = judge(suite, rows, days)
        assert [verdict.failed_days for verdict in verdicts] == [()]
    assert silent == {"flights": [], "arrivals": [], "weather": ["2013-12-31"]}


@pytest.mark.parametrize("wrong", ["success", "expectation_config", "rows"])
def test_a_result_that_is_missing_is_no_success(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    """Great Expectations has left out what it could not evaluate, and called the rest a success (its issue 8548)."""
    from great_expectations.datasource.fluent.interfaces import Batch

    validate = Batch.validate

    def forgetful(*arguments: object, **keywords: object) -> object:
        result = validate(*arguments, **keywords)
        if wrong == "rows":
            result.result.pop("unexpected_index_list")
        else:
            setattr(result, wrong, None)
        return result

    suite = _suite(spec, BETWEEN % ("critical", ""))
    assert judge(suite, _frame([11]))[0][0].failed_days
    monkeypatch.setattr(Batch, "validate", forgetful)
    with pytest.raises(ConfigurationError, match=r"expect_column_values_to_be_between.*(gives no result|not say in)"):
        judge(suite, _frame([11]))
