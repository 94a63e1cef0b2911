"""``materialize``: register the feature definitions and bring the online store up to date."""

from __future__ import annotations

from evergreen.contract import Output, Request, Result
from evergreen.data.lake import get_lake
from evergreen.data.lineage import pinned
from evergreen.features.feast_repo import apply
from evergreen.features.feature_store import materialize
from evergreen.spec import ModelSpec


def run(request: Request, spec: ModelSpec) -> Result:
    """Write the newest feature rows of the window's keys to the online store, and read some of them back.

    So do the later days that ``build_features`` rebuilt with the window.
    """
    if not spec.features.views:
        return Result(facts={"online_rows": 0})  # not skipped: what follows a partition's features must still run
    lake = get_lake()
    inputs = tuple(pinned(lake, request, "build_features", view.name) for view in spec.features.views)
    changed = apply(spec)
    built = request.upstream.get("build_features")
    through = built.facts.get("rebuilt_through") if built else None
    written = materialize(spec, request.window.through([str(through)] if through else []))
    outputs = tuple(
        Output(name=view.name, uri=f"feast://{spec.feast_name(view)}", version=table.version, rows=written[view.name])
        for view, table in zip(spec.features.views, inputs, strict=True)
    )
    facts = {"online_rows": sum(written.values()), "views": dict(written), "definitions_changed": changed}
    return Result(outputs=outputs, inputs=inputs, facts=facts)
