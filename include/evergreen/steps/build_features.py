"""``build_features``: turn the published window into examples and feature tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evergreen.contract import Request, Result, Status
from evergreen.data.lake import get_lake
from evergreen.data.lineage import pinned, written_by
from evergreen.data.transform import build_examples, build_view, with_lookback
from evergreen.spec import ModelSpec

if TYPE_CHECKING:
    import pyarrow as pa


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``examples`` and one table for each feature view.

    Reads only the window and the longest lookback, so that the cost follows the window and not the history. A
    window that no published partition lies in is skipped.
    """
    lake = get_lake()
    features = spec.features
    lookback = max([features.examples.lookback_days, *(view.lookback_days for view in features.views)])
    needed = with_lookback(request.window, lookback)
    inputs = [pinned(lake, request, "publish", spec.name, source.name) for source in spec.sources]
    sources = {given.name: lake.read(spec.name, given.name, needed, given.version) for given in inputs}
    published = {str(day) for table in sources.values() for day in table["ds"].unique().to_pylist()}
    if not any(str(request.window.start) <= day <= str(request.window.end) for day in published):
        return Result(status=Status.SKIPPED, reason=f"Nothing is published for {request.window}.")
    tables = {"examples": build_examples(spec, sources, request.window)}
    for view in features.views:
        tables[view.name] = build_view(spec, view, sources, request.window)
    outputs = [
        lake.write(spec.name, name, table, request.window, written_by(request)) for name, table in tables.items()
    ]
    return Result(
        outputs=tuple(outputs),
        inputs=tuple(inputs),
        facts={
            "rows": {output.name: output.rows for output in outputs},
            "labelled": _labelled(tables["examples"], spec),
        },
    )


def _labelled(examples: pa.Table, spec: ModelSpec) -> int:
    label = examples[spec.features.examples.label]
    return len(label) - int(label.null_count)
