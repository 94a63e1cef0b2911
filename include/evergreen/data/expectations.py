"""What is expected of a source's rows: Great Expectations suites kept as YAML, judged day by day.

Severities decide what a failure means: ``critical`` refuses the partition, ``warning`` sends the rows that fail to
quarantine, ``info`` is only recorded. Every day is judged on its own, so that a bulk window publishes exactly what
its days would have published one by one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from evergreen.contract import ConfigurationError, printable
from evergreen.data.lake import PARTITION
from evergreen.environment import add_constants
from evergreen.mistakes import Mistake, Mistakes
from evergreen.spec import ModelSpec, Source
from evergreen.stored import Part
from evergreen.yaml_files import read_yaml

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

_SAMPLES = 5
_LONGEST_SAMPLE = 100
_SHORT = 8
"""Characters of a digest that tell two expectations of one column apart."""
_NOT_VALUE_BY_VALUE = ("unique", "increasing", "decreasing", "z_scores", "outliers", "type", "to_be_null")
"""Expectations about a column that must see one day at a time: they compare its rows with each other, look at its type
instead, or count its nulls as what is wrong."""


class NotOnPandas(ConfigurationError):
    """Great Expectations can compute an expectation in databases only."""


class ExpectationResult(Part):
    """How one expectation turned out over all days of a window."""

    expectation: str
    target: str
    """The column or columns it is about; empty for the whole table."""
    severity: str
    failed_days: tuple[str, ...] = ()
    unexpected: int = 0
    """Rows that do not meet it, on any day; 0 for an expectation about a whole day."""
    rows: int = 0
    sample: tuple[str, ...] = ()
    """Up to five values that were not expected, or what was observed instead."""
    asked: str = ""
    """Digest (16 hex characters) of the expectation with all its kwargs; empty in a report of before."""
    twin: bool = False
    """Whether another warning has the same expectation and target: the name then tells them apart."""

    @property
    def name(self) -> str:
        """What a row that does not meet it is told as its reason."""
        return f"{self.expectation}({self.target})" + (f" #{self.asked[:_SHORT]}" if self.twin else "")

    def __str__(self) -> str:
        days = ", ".join(self.failed_days[:3]) + (", …" if len(self.failed_days) > 3 else "")
        counts = f"{self.unexpected} of {self.rows} rows; " if self.unexpected else ""
        observed = f"found {', '.join(self.sample)}" if self.sample else "null"
        return f"{self.name} failed on {days}: {counts}{observed}"


def load_suite(source: Source, spec: ModelSpec) -> list[Expectation]:
    """Load the expectations of a source.

    Raises
    ------
    ConfigurationError
        If the file is missing or wrong; the message names file, every wrong entry and what is wrong with it.
    """
    path = spec.folder / source.expectations
    entries = read_yaml(path)
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError(f"{path}: expected a list of expectations.", "Each has type, kwargs and severity.")
    suite, problems = [], []
    for number, entry in enumerate(entries, start=1):
        try:
            suite.append(_expectation(f"{path}: entry {number}", entry, source))
        except ConfigurationError as error:
            problems.append(str(error))
    if problems:
        raise Mistakes([Mistake(problem) for problem in problems], "Correct this entry.")
    return suite


def warnings_in(suite: list[Expectation]) -> dict[str, str]:
    """Return the expectations that send rows to quarantine: their names, and the digests of what they ask."""
    verdicts = _told_apart([ExpectationResult(**_about(expectation)) for expectation in suite])
    return {verdict.name: verdict.asked for verdict in verdicts if verdict.severity == "warning"}


def _told_apart(verdicts: list[ExpectationResult]) -> list[ExpectationResult]:
    """Return verdicts of which no two warnings that ask for different things have one name."""
    asked = {(verdict.name, verdict.asked) for verdict in verdicts if verdict.severity == "warning"}
    times = Counter(name for name, _ in asked)
    return [
        verdict.model_copy(update={"twin": verdict.severity == "warning" and times[verdict.name] > 1})
        for verdict in verdicts
    ]


def _expectation(where: str, entry: Any, source: Source) -> Expectation:
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    allowed = {"type", "kwargs", "severity", "meta", "notes"}
    if not isinstance(entry, dict) or not {"type", "severity"} <= entry.keys() <= allowed:
        raise ConfigurationError(f"{where}: {entry!r}: give type, kwargs and severity (critical, warning or info).")
    kwargs = entry.get("kwargs") or {}
    unknown = [column for column in _columns(kwargs) if column not in source.columns]
    if unknown:
        raise ConfigurationError(
            f"{where} ({entry['type']}): {', '.join(unknown)} is not a column of {source.name}.",
            f"Columns: {', '.join(source.columns)}.",
        )
    try:
        expectation: Expectation = ExpectationConfiguration(**{**entry, "kwargs": kwargs}).to_domain_obj()
    except Exception as error:  # GX and two generations of pydantic each raise their own
        raise ConfigurationError(f"{where} ({entry['type']}): {error}") from error
    if entry["severity"] == "warning" and not _names_rows(expectation):
        raise ConfigurationError(
            f"{where} ({entry['type']}): a warning sends the rows that fail to quarantine, but this looks at a whole "
            "day and cannot say which they are: make it critical (refuses the day) or info (is only recorded)."
        )
    return expectation


def _names_rows(expectation: Expectation) -> bool:
    from great_expectations.expectations import expectation as kinds

    by_row = (kinds.ColumnMapExpectation, kinds.ColumnPairMapExpectation, kinds.MulticolumnMapExpectation)
    return isinstance(expectation, by_row) and "_type" not in expectation.configuration.type


def _columns(kwargs: dict[str, Any]) -> list[str]:
    single = [kwargs[name] for name in ("column", "column_A", "column_B") if name in kwargs]
    return [*single, *kwargs.get("column_list", ())]


def judge(
    suite: list[Expectation], frame: pd.DataFrame, days: Collection[str] = ()
) -> tuple[list[ExpectationResult], dict[int, list[str]]]:
    """Judge every day of a frame, and days that it has no rows of.

    Parameters
    ----------
    suite
        The expectations.
    frame
        Rows of one or more days, with the column ``ds`` and an index from 0.
    days
        Days to judge even if there are no rows of them: by what is expected of the whole table, e.g. of its row count.

    Returns
    -------
    verdicts, marked
        One verdict for each expectation, in their order, and if there are no rows at all, only for those about the
        whole table; and for each row that a ``warning`` sends to quarantine, by its position, the reasons.
    """
    suite = suite if len(frame) else _about_tables(suite)
    by_value = [expectation for expectation in suite if _is_value_by_value(expectation)]
    by_day = [expectation for expectation in suite if not _is_value_by_value(expectation)]
    judged = [
        (expectation, *_verdict_by_value(expectation, result, frame))
        for expectation, result in zip(by_value, _validate(by_value, frame), strict=True)
    ]
    judged += _judge_days(by_day, frame, days)
    verdicts: dict[int, ExpectationResult] = {}
    marked: dict[int, list[str]] = {}
    told_apart = _told_apart([verdict for _, verdict, _ in judged])
    for (expectation, _, positions), verdict in zip(judged, told_apart, strict=True):
        verdicts[id(expectation)] = verdict
        if verdict.severity == "warning":
            for position in positions:
                marked.setdefault(position, []).append(verdict.name)
    return [verdicts[id(expectation)] for expectation in suite], marked


def _judge_days(
    suite: list[Expectation], frame: pd.DataFrame, days: Collection[str]
) -> list[tuple[Expectation, ExpectationResult, list[int]]]:
    failures: dict[int, list[tuple[str, str, list[int]]]] = {id(expectation): [] for expectation in suite}
    present = {str(day): rows for day, rows in frame.groupby(PARTITION)}
    for day in sorted({*present, *days}):
        rows = present.get(day, frame.iloc[:0])
        judged_now = suite if len(rows) else _about_tables(suite)
        for expectation, result in zip(judged_now, _validate(judged_now, rows), strict=True):
            if not result.success:
                observed = printable(str(result.result.get("observed_value")), _LONGEST_SAMPLE)
                failures[id(expectation)].append((day, observed, _positions(expectation, result)))
    judged = []
    for expectation in suite:
        failed = failures[id(expectation)]
        positions = [row for _, _, rows in failed for row in rows]
        verdict = ExpectationResult(
            **_about(expectation),
            failed_days=tuple(day for day, _, _ in failed),
            unexpected=len(positions),
            rows=len(frame),
            sample=_sample(expectation, frame.loc[positions])
            if positions
            else tuple(observed for _, observed, _ in failed[:_SAMPLES]),
        )
        judged.append((expectation, verdict, positions))
    return judged


def _verdict_by_value(
    expectation: Expectation, result: Any, frame: pd.DataFrame
) -> tuple[ExpectationResult, list[int]]:
    """Turn the result over the whole window into one judged day by day, as GX judges a single day."""
    config = expectation.configuration
    unexpected = frame.loc[_positions(expectation, result)]
    wrong = unexpected[PARTITION].value_counts()
    column = config.kwargs["column"]
    counted = frame if config.type.endswith("not_be_null") else frame[frame[column].notna()]
    of_day = counted[PARTITION].value_counts().reindex(wrong.index)
    share_right = (of_day - wrong) / of_day  # as GX computes it: 1 - wrong / of_day may round to the other side
    failed = share_right[share_right < config.kwargs.get("mostly", 1.0)].index
    rows = unexpected[unexpected[PARTITION].isin(failed)]
    verdict = ExpectationResult(
        **_about(expectation),
        failed_days=tuple(sorted(failed)),
        unexpected=len(unexpected),
        rows=len(counted),
        sample=_sample(expectation, rows),
    )
    return verdict, [int(row) for row in rows.index]


def _positions(expectation: Expectation, result: Any) -> list[int]:
    """Return the rows that do not meet an expectation.

    Raises
    ------
    ConfigurationError
        If it failed and cannot say where, though only rows could be the reason or are to go to quarantine.
    """
    positions = list(result.result.get("unexpected_index_list") or ())
    about = _about(expectation)
    if not (positions or result.success) and (_is_value_by_value(expectation) or about["severity"] == "warning"):
        raise ConfigurationError(
            f"{about['expectation']}({about['target']}) failed and Great Expectations does not say in which rows.",
            "Make it critical (refuses the day) or info (is only recorded) in the expectations file of the source.",
        )
    return positions


def _sample(expectation: Expectation, rows: pd.DataFrame) -> tuple[str, ...]:
    values = rows[_columns(expectation.configuration.kwargs)].dropna(how="all").head(_SAMPLES)
    return tuple(printable(", ".join(map(str, row)), _LONGEST_SAMPLE) for row in values.itertuples(index=False))


def _about(expectation: Expectation) -> dict[str, str]:
    config = expectation.configuration
    asked = json.dumps([config.type, config.kwargs], sort_keys=True, default=str)
    return {
        "expectation": config.type,
        "target": ", ".join(_columns(config.kwargs)),
        "severity": str(getattr(config.severity, "value", config.severity)),
        "asked": sha256(asked.encode()).hexdigest()[:16],
    }


def _about_tables(suite: list[Expectation]) -> list[Expectation]:
    """Return the expectations that say something about a table without rows: those that name no column."""
    return [expectation for expectation in suite if not _columns(expectation.configuration.kwargs)]


def _is_value_by_value(expectation: Expectation) -> bool:
    """Tell whether it judges every value of one column by itself, so that many days can be looked at in one go."""
    from great_expectations.expectations.expectation import ColumnMapExpectation

    config = expectation.configuration
    if config.kwargs.get("row_condition") or any(word in config.type for word in _NOT_VALUE_BY_VALUE):
        return False
    return isinstance(expectation, ColumnMapExpectation)


def _validate(suite: list[Expectation], rows: pd.DataFrame) -> list[Any]:
    """Return the result of each expectation, in order.

    Raises
    ------
    ConfigurationError
        If an expectation could not be evaluated at all.
    """
    if not suite:
        return []
    batch = _batches().get_batch({"dataframe": rows})
    # one by one: the results of a whole suite come back in another order than its expectations
    results = [batch.validate(expectation, result_format={"result_format": "COMPLETE"}) for expectation in suite]
    for expectation, result in zip(suite, results, strict=True):
        answered = result.expectation_config
        if result.success is None or answered is None or answered.type != expectation.configuration.type:
            raise ConfigurationError(
                f"{expectation.configuration.type}({expectation.configuration.kwargs}): Great Expectations gives no "
                "result.",
                "Take it out of the expectations file of the source: nothing is published that was not judged.",
            )
        if problem := _problem(result.exception_info):
            if "PandasExecutionEngine" in problem:
                about = _about(expectation)["target"]
                raise NotOnPandas(
                    f"{answered.type}({about}) needs a database, and a day is judged in memory.",
                    "Say it with an expectation about values, columns or the row count.",
                )
            raise ConfigurationError(
                f"{result.expectation_config.type}({result.expectation_config.kwargs}): {problem}",
                "Correct it in the expectations file of the source.",
            )
    return results


def _problem(info: Any) -> str:
    if info.get("raised_exception"):
        return str(info.get("exception_message"))
    nested = [entry for entry in info.values() if isinstance(entry, dict) and entry.get("raised_exception")]
    return str(nested[0].get("exception_message")) if nested else ""


@lru_cache(maxsize=1)
def _batches() -> Any:
    """Return the batch definition of an in-memory context: nothing on disk, no progress bars, nothing sent home."""
    add_constants()
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("window")
    return source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
