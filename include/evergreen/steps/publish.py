"""``publish``: split the judged raw rows into the published tables and their quarantines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evergreen.contract import DataError, Manifest, Output, Request, Result
from evergreen.data.lake import PARTITION, get_lake
from evergreen.data.lineage import recorded, written_by
from evergreen.data.tables import REASON, ROW, published_schema, raw_schema
from evergreen.data.validation import SourceReport, ValidationReport
from evergreen.handover import disagreement, read_bytes, upstream
from evergreen.spec import ModelSpec, Source
from evergreen.store import parse_document

if TYPE_CHECKING:
    import pyarrow as pa


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``<source>`` and ``<source>_quarantine``: every raw row ends in exactly one of the two.

    All tables change in one commit: whoever reads finds a day as it was or as it is now, never half of each.

    Raises
    ------
    DataError
        If the manifest of ``ingest`` or ``validate`` is missing, or not about what was judged.
    """
    ingested, report = upstream(request, "ingest"), _report(upstream(request, "validate"), spec)
    lake = get_lake()
    inputs: list[Output] = []
    good: dict[str, pa.Table] = {}
    bad: dict[str, pa.Table] = {}
    for source in spec.sources:
        judged = report.sources[source.name]
        table = recorded(lake, ingested, f"raw_{source.name}")
        if table.version != judged.snapshot:
            why = f"{judged.snapshot!r} was judged: run validate again too"
            raise disagreement(ingested, table, "version", why)
        raw = lake.read(spec.name, table.name, request.window, table.version)
        good[source.name], bad[f"{source.name}_quarantine"] = _split(source, raw, judged)
        inputs.append(table)
    written = lake.write_all(spec.name, good | bad, request.window, written_by(request))
    outputs, quarantines = written[: len(good)], written[len(good) :]
    facts = {
        "rows": sum(output.rows or 0 for output in outputs),
        "quarantined": sum(output.rows or 0 for output in quarantines),
        "snapshot": outputs[0].version,
        "partition": str(request.partition),
        "sources": {output.name: {"rows": output.rows, "snapshot": output.version} for output in outputs},
    }
    return Result(outputs=written, inputs=tuple(inputs), facts=facts)


def _report(validated: Manifest, spec: ModelSpec) -> ValidationReport:
    output, content = validated.output("validation"), read_bytes(validated, "validation")
    if output.rows is not None:
        raise disagreement(validated, output, "rows", "the report itself says None")
    hint = "Run the step validate for this window again: it replaces the file."
    report = parse_document(content, output.uri, ValidationReport, "a validation report", hint)
    absent = [source.name for source in spec.sources if source.name not in report.sources]
    if absent:
        raise DataError(
            f"{output.uri}: {', '.join(absent)} was not validated.", "Run the step validate for this window again."
        )
    return report


def _split(source: Source, raw: pa.Table, judged: SourceReport) -> tuple[pa.Table, pa.Table]:
    import pyarrow as pa

    reasons = {(day, row): reason for day, row, reason in judged.quarantine}
    places = zip(raw[PARTITION].to_pylist(), raw[ROW].to_pylist(), strict=True)
    why = pa.array([reasons.get(place) for place in places], pa.string())
    marked = raw.set_column(raw.column_names.index(REASON), REASON, why)
    bad = marked.filter(why.is_valid()).select(raw_schema(source).names)
    good = marked.filter(why.is_null()).select(published_schema(source).names)
    if good.num_rows + bad.num_rows != judged.rows or bad.num_rows != len(reasons):
        raise DataError(
            f"{source.name}: {judged.rows} rows were judged and {len(reasons)} marked, but {good.num_rows} would be "
            f"published and {bad.num_rows} quarantined.",
            "Run the step validate for this window again.",
        )
    return good, bad
