"""``build_features``: turn the published window into examples and feature tables."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING

from evergreen.contract import Output, Request, Result, Status, TemporaryError, Window
from evergreen.data.arrow import count_known
from evergreen.data.lake import PARTITION, Lake, get_lake
from evergreen.data.lineage import current_together, written_by
from evergreen.data.transform import build_examples, build_view, with_lookback
from evergreen.spec import ModelSpec

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

_ROUNDS = 10
"""How often the days before may be published anew while this step runs, before it leaves it to a retry."""


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``examples`` and one table for each feature view.

    Reads only the window and the longest lookback, so that the cost follows the window and not the history. A
    window that has no published rows, and never had any, is skipped.

    Later partitions that look back on the window, and are there already, are rebuilt with it in the same commit: a
    day that arrives late, or again, is in everything that counts it. Whoever reads a day while it is published anew
    finds out after its own commit and builds again, so that it does not matter who of the two is first.

    Raises
    ------
    TemporaryError
        If what was read kept changing.
    """
    lake = get_lake()
    lookbacks = _lookbacks(spec)
    for _ in range(_ROUNDS):
        later = _later(lake, spec, request.window, lookbacks)
        reach = request.window.through(day for days in later.values() for day in days)
        needed = with_lookback(reach, max(lookbacks.values()))
        inputs = current_together(spec.name, [source.name for source in spec.sources])
        sources = {table.name: lake.read(spec.name, table.name, needed, table.version) for table in inputs}
        published = any(_rows_of(table, request.window).num_rows for table in sources.values())
        # what was built when there was something has to go
        if not published and not any(lake.days(spec.name, name, request.window) for name in lookbacks):
            return Result(status=Status.SKIPPED, reason=f"Nothing is published for {request.window}.")
        tables = _build(spec, sources, request.window, later)
        outputs = lake.write_all(spec.name, tables, request.window, written_by(request), later)
        if not _changed(lake, spec, inputs, needed):
            return Result(outputs=outputs, inputs=tuple(inputs), facts=_facts(spec, tables, request.window, later))
        log.info("days of %s were published anew meanwhile: building again", needed)
    raise TemporaryError(f"{spec.name}: days of {needed} were published anew {_ROUNDS} times while this step ran.")


def _lookbacks(spec: ModelSpec) -> dict[str, int]:
    views = {view.name: view.lookback_days for view in spec.features.views}
    return {"examples": spec.features.examples.lookback_days, **views}


def _later(lake: Lake, spec: ModelSpec, window: Window, lookbacks: Mapping[str, int]) -> dict[str, list[str]]:
    """Return the days after the window that are there and look back on it, by table."""
    after = window.end + timedelta(days=1)
    return {
        name: lake.days(spec.name, name, Window(start=after, end=window.end + timedelta(days=days))) if days else []
        for name, days in lookbacks.items()
    }


def _build(
    spec: ModelSpec, sources: Mapping[str, pa.Table], window: Window, later: Mapping[str, list[str]]
) -> dict[str, pa.Table]:
    """Return the rows of the window and of the later days, by table."""
    tables = {"examples": build_examples(spec, sources, window.through(later["examples"]))}
    tables |= {
        view.name: build_view(spec, view, sources, window.through(later[view.name])) for view in spec.features.views
    }
    # a later day that is published but not built yet has a run of its own coming
    return {name: _rows_of(table, window, later[name]) if later[name] else table for name, table in tables.items()}


def _rows_of(table: pa.Table, window: Window, later: Collection[str] = ()) -> pa.Table:
    """Return the rows of the window, and of the later days named."""
    import pyarrow as pa
    import pyarrow.compute as pc

    days = pc.field(PARTITION)
    inside = (days >= str(window.start)) & (days <= str(window.end))
    return table.filter(inside | days.isin(pa.array(sorted(later), pa.string())))


def _changed(lake: Lake, spec: ModelSpec, inputs: list[Output], needed: Window) -> bool:
    """Tell whether a day that was read has been published anew since."""

    def days(table: str, snapshot: str) -> list[tuple[str, int, str]]:
        details = lake.details(spec.name, table, snapshot)
        return [detail for detail in details if detail[0] in needed]

    current = {source.name: lake.snapshot(spec.name, source.name) for source in inputs}
    return any(
        current[source.name] != source.version
        and days(source.name, current[source.name]) != days(source.name, source.version)
        for source in inputs
    )


def _facts(
    spec: ModelSpec, tables: Mapping[str, pa.Table], window: Window, later: Mapping[str, list[str]]
) -> dict[str, object]:
    built = {name: _rows_of(table, window) for name, table in tables.items()}
    return {
        "rows": {name: table.num_rows for name, table in built.items()},
        "labelled": count_known(built["examples"][spec.features.examples.label]),
        "rebuilt": {name: len(days) for name, days in later.items() if days},
        "rebuilt_through": max((day for days in later.values() for day in days), default=None),
    }
