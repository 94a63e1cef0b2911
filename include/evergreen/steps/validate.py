"""``validate``: judge the raw rows by each source's expectations; nothing is published that was not judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evergreen.catalog import config_digest
from evergreen.contract import DataError, Output, Request, Result
from evergreen.data.expectations import judge, load_suite
from evergreen.data.lake import PARTITION, get_lake
from evergreen.data.lineage import pinned
from evergreen.data.rows import Kind, Problem, completeness, nothing_left, row_problems
from evergreen.data.tables import BETWEEN_REASONS, REASON, ROW
from evergreen.data.validation import SourceReport, ValidationReport, validation_key
from evergreen.handover import store_output
from evergreen.spec import ModelSpec, Source

if TYPE_CHECKING:
    import pyarrow as pa


def run(request: Request, spec: ModelSpec) -> Result:
    """Write the validation report: what was expected, what was found, which rows go to quarantine and why.

    Raises
    ------
    DataError
        If a ``critical`` expectation fails, or nothing was ingested for the window.
    """
    lake = get_lake()
    inputs = [pinned(lake, request, "ingest", f"raw_{source.name}") for source in spec.sources]
    raw = [lake.read(spec.name, table.name, request.window, table.version) for table in inputs]
    if not any(table.num_rows for table in raw):
        raise DataError(
            f"{spec.name}: nothing was ingested for {request.window}.", "Run the step ingest for these days first."
        )
    # a day that no source has anything for is not judged, but one that only some have is judged in all of them
    days = {day for table in raw for day in table[PARTITION].to_pylist()}
    reports = {
        source.name: _judge(source, spec, raw_table, rows, days)
        for source, raw_table, rows in zip(spec.sources, inputs, raw, strict=True)
    }
    report = ValidationReport(
        model=spec.name, window=request.window, config_digest=config_digest(spec), sources=reports
    )
    content = report.model_dump_json(indent=1).encode()
    output = store_output("validation", validation_key(spec.name, request.window), content)
    _refuse_critical(report, output)
    failed = [(name, verdict) for name, judged in reports.items() for verdict in judged.verdicts if verdict.failed_days]
    facts = {
        "rows": sum(judged.rows for judged in reports.values()),
        "quarantined": sum(len(judged.quarantine) for judged in reports.values()),
        "failed": [f"{name}: {verdict}" for name, verdict in failed],
        "report_uri": output.uri,
    }
    return Result(outputs=(output,), inputs=tuple(inputs), facts=facts)


def _judge(source: Source, spec: ModelSpec, raw_table: Output, rows: pa.Table, days: set[str]) -> SourceReport:
    suite = load_suite(source, spec)
    frame = rows.to_pandas()
    problems = {int(row): Problem(Kind.UNREADABLE, why) for row, why in frame[REASON].dropna().items()}
    problems |= row_problems(frame.drop(index=list(problems)), source, spec.schedule.timezone)
    rest = frame.drop(index=list(problems))
    if lost := sorted(set(frame[PARTITION]) - set(rest[PARTITION])):
        message, hint = nothing_left(lost, [problems[int(row)] for row in frame.index[frame[PARTITION] == lost[0]]])
        raise DataError(f"{spec.name}.{source.name}: {message}", hint)
    verdicts, marked = judge(suite, rest, days)
    verdicts = [*completeness(rest, source), *verdicts]
    reasons = {row: [problem.reason] for row, problem in problems.items()}
    return SourceReport(
        snapshot=raw_table.version,
        rows=len(frame),
        verdicts=tuple(verdicts),
        quarantine=tuple(
            (frame.at[row, PARTITION], int(frame.at[row, ROW]), BETWEEN_REASONS.join(reason))
            for row, reason in sorted({**reasons, **marked}.items())
        ),
    )


def _refuse_critical(report: ValidationReport, output: Output) -> None:
    failures = report.critical
    if failures:
        raise DataError(
            f"{report.model}: nothing is published for {report.window}: " + "; ".join(failures) + ".",
            "Correct the source and ingest the days again, or correct the expectation; completeness: a column that may "
            f"be null in every row of a day is named in sources[].allow_null. The report: {output.uri}",
        )
