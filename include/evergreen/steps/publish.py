"""``publish``: split the judged raw rows into the published tables and their quarantines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evergreen.contract import DataError, Manifest, Output, Request, Result
from evergreen.data.lake import PARTITION, Lake, get_lake
from evergreen.data.lineage import pinned, written_by
from evergreen.data.tables import REASON, ROW, published_schema, raw_schema
from evergreen.data.validation import SourceReport, ValidationReport, report_key
from evergreen.handover import checked, disagreement, file_digest
from evergreen.spec import ModelSpec, Source
from evergreen.store import get_store, parse_document

if TYPE_CHECKING:
    import pyarrow as pa


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``<source>`` and ``<source>_quarantine``: every raw row ends in exactly one of the two.

    All tables change in one commit: whoever reads finds a day as it was or as it is now, never half of each.

    Raises
    ------
    DataError
        If the window was not validated, or its validation failed.
    """
    report = _report(request, spec)
    lake = get_lake()
    inputs: list[Output] = []
    good: dict[str, pa.Table] = {}
    bad: dict[str, pa.Table] = {}
    for source in spec.sources:
        found = report.sources[source.name]
        raw = lake.read(spec.name, f"raw_{source.name}", request.window, found.snapshot)
        good[source.name], bad[f"{source.name}_quarantine"] = _split(source, raw, found)
        inputs.append(_input(lake, request, f"raw_{source.name}", found))
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


def _report(request: Request, spec: ModelSpec) -> ValidationReport:
    store = get_store()
    key = report_key(spec.name, request.window)
    content = store.read(key)
    if content is None:
        raise DataError(
            f"{store.uri(key)}: {request.window} was not validated.", "Run the step validate for this window first."
        )
    if "validate" in request.upstream:
        _check_report(request.upstream["validate"], store.uri(key), content)
    hint = "Run the step validate for this window again: it replaces the file."
    report = parse_document(content, store.uri(key), ValidationReport, "a validation report", hint)
    absent = [source.name for source in spec.sources if source.name not in report.sources]
    if absent:
        raise DataError(
            f"{store.uri(key)}: {', '.join(absent)} was not validated.", "Run the step validate for this window again."
        )
    if report.critical:
        raise DataError(
            f"{store.uri(key)}: the validation of {request.window} failed: {'; '.join(report.critical)}.",
            "Correct the source, then run ingest and validate again.",
        )
    return report


def _check_report(manifest: Manifest, uri: str, content: bytes) -> None:
    digest = file_digest(content)
    # an older validate gave the digest as the version alone
    also = digest if manifest.output("validation").digest else ""
    checked(manifest, Output(name="validation", uri=uri, version=digest, digest=also), "the report itself")


def _split(source: Source, raw: pa.Table, found: SourceReport) -> tuple[pa.Table, pa.Table]:
    import pyarrow as pa

    reasons = {(day, row): reason for day, row, reason in found.quarantine}
    places = zip(raw[PARTITION].to_pylist(), raw[ROW].to_pylist(), strict=True)
    why = pa.array([reasons.get(place) for place in places], pa.string())
    marked = raw.set_column(raw.column_names.index(REASON), REASON, why)
    bad = marked.filter(why.is_valid()).select(raw_schema(source).names)
    good = marked.filter(why.is_null()).select(published_schema(source).names)
    if good.num_rows + bad.num_rows != found.rows or bad.num_rows != len(reasons):
        raise DataError(
            f"{source.name}: {found.rows} rows were judged and {len(reasons)} marked, but {good.num_rows} would be "
            f"published and {bad.num_rows} quarantined.",
            "Run the step validate for this window again.",
        )
    return good, bad


def _input(lake: Lake, request: Request, table: str, found: SourceReport) -> Output:
    """Return the raw table that was judged; it must be the one that was ingested, where that is known."""
    if "ingest" in request.upstream:
        given = pinned(lake, request, "ingest", request.model, table)
        if given.version != found.snapshot:
            raise disagreement(
                request.upstream["ingest"], given, "version", f"{found.snapshot!r} was judged: run validate again too"
            )
    return Output(name=table, uri=lake.load(request.model, table).location(), version=found.snapshot, rows=found.rows)
