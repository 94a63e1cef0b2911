"""``ingest_predictions``: bring what servers have answered, and what became of it, into the lake."""

from __future__ import annotations

import logging
from datetime import timedelta

from pydantic import JsonValue

from evergreen.contract import Output, Request, Result, Status
from evergreen.data.lineage import written_by
from evergreen.data.served import FEEDBACK, SERVED
from evergreen.serving.log_ingestion import Found, ingest_log, remove_older
from evergreen.spec import ModelSpec

log = logging.getLogger(__name__)


def run(request: Request, spec: ModelSpec) -> Result:
    """Write the tables ``served`` and ``feedback`` of the window, and of earlier days that have got other files since.

    ``serving.log_late_days`` says how many earlier days are looked at. Days that are older than
    ``serving.log_retention_days``, counted from the window's end, are removed from the tables and from the artifact
    store. Skipped where nothing is new and nothing was removed.
    """
    first = max(spec.schedule.start, request.window.start - timedelta(days=spec.serving.log_late_days))
    days = [first + timedelta(days=number) for number in range((request.window.end - first).days + 1)]
    before = request.window.end - timedelta(days=spec.serving.log_retention_days)
    facts: dict[str, JsonValue] = {}
    metrics: dict[str, float] = {}
    outputs: list[Output] = []
    new = False
    for table in (SERVED, FEEDBACK):
        found, output = ingest_log(spec, table, [day for day in days if day >= before], written_by(request))
        removed = remove_older(spec, table, before)
        new = new or bool(found.days or found.files_set_aside or removed)
        facts[table] = {**_counts(found), "removed": [*removed]}
        metrics |= {f"{table}_rows": found.rows, f"{table}_bytes_written": found.bytes}
        outputs += [output] if output else []
        for key, why in found.files_set_aside.items():
            log.warning("set aside %s: %s", key, why)
    if not new:
        return Result(
            status=Status.SKIPPED, reason=f"Nothing new was served from {days[0]} to {days[-1]}.", facts=facts
        )
    return Result(outputs=tuple(outputs), metrics=metrics, facts=facts)


def _counts(found: Found) -> dict[str, JsonValue]:
    return {
        "days": [*found.days],
        "rows": found.rows,
        "by_status": dict(found.by["status"]),
        "by_variant": dict(found.by["variant"]),
        "duplicates": found.duplicates,
        "dropped": found.dropped,
        "files_set_aside": dict(found.files_set_aside),
        "rows_set_aside": dict(found.rows_set_aside),
    }
