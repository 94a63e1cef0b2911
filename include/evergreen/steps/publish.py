"""``publish``: split the judged raw rows into the published tables and their quarantines."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from evergreen.contract import DataError, Manifest, Output, Request, Result
from evergreen.data.lake import PARTITION, get_lake
from evergreen.data.lineage import recorded, written_by
from evergreen.data.quarantine import row_digests
from evergreen.data.tables import REASON, ROW, published_schema, raw_schema
from evergreen.data.validation import SourceReport, ValidationReport
from evergreen.handover import disagreement, read_bytes, upstream
from evergreen.judgement.audit import read_events
from evergreen.judgement.events import Event
from evergreen.judgement.releases import exemptions, is_exempt
from evergreen.spec import ModelSpec, Source
from evergreen.store import get_store, parse_document

if TYPE_CHECKING:
    import pyarrow as pa

_Place = tuple[str, int]
"""A row of the raw table: its day, and its position in that."""


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``<source>`` and ``<source>_quarantine``: every raw row ends in exactly one of the two.

    A row that only warnings keep back is published if a person has released it: the audit log is asked where there is
    one. All tables change in one commit: whoever reads finds a day as it was or as it is now, never half of each.

    Raises
    ------
    DataError
        If the manifest of ``ingest`` or ``validate`` is missing, or not about what was judged.
    """
    ingested, report = upstream(request, "ingest"), _report(upstream(request, "validate"), spec)
    lake = get_lake()
    held = any(report.sources[source.name].held_by_warnings for source in spec.sources)
    events = read_events(get_store(), spec.name) if held else []
    inputs: list[Output] = []
    freed: dict[str, set[_Place]] = {}
    good: dict[str, pa.Table] = {}
    bad: dict[str, pa.Table] = {}
    for source in spec.sources:
        judged = report.sources[source.name]
        table = recorded(lake, ingested, f"raw_{source.name}")
        if table.version != judged.snapshot:
            why = f"{judged.snapshot!r} was judged: run validate again too"
            raise disagreement(ingested, table, "version", why)
        raw = lake.read(spec.name, table.name, request.window, table.version)
        freed[source.name] = _released(source, raw, judged, events)
        good[source.name], bad[f"{source.name}_quarantine"] = _split(source, raw, judged, freed[source.name])
        inputs.append(table)
    written = lake.write_all(spec.name, good | bad, request.window, written_by(request))
    outputs, quarantines = written[: len(good)], written[len(good) :]
    facts = {
        "rows": sum(output.rows or 0 for output in outputs),
        "quarantined": sum(output.rows or 0 for output in quarantines),
        "released": sum(map(len, freed.values())),
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


def _released(source: Source, raw: pa.Table, judged: SourceReport, events: Sequence[Event]) -> set[_Place]:
    """Return the rows that people have exempted from every warning that keeps them back."""
    import pyarrow as pa

    held, exempt = judged.held_by_warnings, exemptions(events, source.name)
    if not (held and exempt):
        return set()
    places = [place for place in _places(raw) if place in held]
    rows = raw.filter(pa.array([place in held for place in _places(raw)], pa.bool_()))
    digests = row_digests(rows, source)
    return {place for place, digest in zip(places, digests, strict=True) if is_exempt(held[place], digest, exempt)}


def _places(raw: pa.Table) -> list[_Place]:
    return list(zip(raw[PARTITION].to_pylist(), raw[ROW].to_pylist(), strict=True))


def _split(
    source: Source, raw: pa.Table, judged: SourceReport, released: Collection[_Place]
) -> tuple[pa.Table, pa.Table]:
    import pyarrow as pa

    reasons = {(day, row): reason for day, row, reason in judged.quarantine if (day, row) not in released}
    places = _places(raw)
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
