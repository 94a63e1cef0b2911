"""What a data step records beside its rows, and how it pins what it read."""

from __future__ import annotations

from evergreen.contract import Output, Request
from evergreen.data.lake import Lake
from evergreen.runner import code_version


def written_by(request: Request) -> dict[str, str]:
    """Return the snapshot properties that tell which run wrote a table, with which code."""
    return {"run": request.run.key, "step": request.step, "code_version": code_version()}


def pinned(lake: Lake, request: Request, step: str, model: str, table: str) -> Output:
    """Return the version of a table to read: the one an upstream step left, else the current one.

    Raises
    ------
    DataError
        If there is no such table, or the upstream manifest has no such output.
    """
    if step in request.upstream:
        return request.upstream[step].output(table)
    return Output(name=table, uri=lake.load(model, table).location(), version=lake.snapshot(model, table))
