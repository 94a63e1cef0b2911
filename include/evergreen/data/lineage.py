"""What a data step records beside its rows, and how it pins what it read."""

from __future__ import annotations

from collections.abc import Sequence

from evergreen.contract import Manifest, Output, Request
from evergreen.data.lake import Lake, get_lake
from evergreen.handover import checked, disagreement
from evergreen.version import code_version


def written_by(request: Request) -> dict[str, str]:
    """Return the snapshot properties that tell which run wrote a table, with which code."""
    return {"run": request.run.key, "step": request.step, "code_version": code_version()}


def current(lake: Lake, model: str, table: str) -> Output:
    """Return the version of a table as it is now.

    Raises
    ------
    DataError
        If there is no such table.
    """
    return Output(name=table, uri=lake.load(model, table).location(), version=lake.snapshot(model, table))


def current_together(model: str, tables: Sequence[str]) -> list[Output]:
    """Return the versions of several tables as they are at one moment; raises what `current` does."""
    with get_lake().one_moment() as lake:
        return [current(lake, model, table) for table in tables]


def pinned(lake: Lake, request: Request, step: str, table: str) -> Output:
    """Return the version of a table that an upstream step left; without its manifest, as from a shell, the current one.

    Raises
    ------
    DataError
        If there is no such table, or the manifest has no such output, or not as the lake recorded it.
    """
    manifest = request.upstream.get(step)
    return recorded(lake, manifest, table) if manifest else current(lake, request.model, table)


def recorded(lake: Lake, manifest: Manifest, table: str) -> Output:
    """Return a table that an upstream step wrote, as the lake itself recorded that write.

    Raises
    ------
    DataError
        If the manifest says something else.
    """
    output = manifest.output(table)
    known = lake.written(manifest.model, table, manifest.window, output.version)
    if known is None or (output.rows and not known.rows):
        snapshots = {snapshot for day, _, snapshot in lake.details(manifest.model, table) if day in manifest.window}
        current = ", ".join(sorted(snapshots)) or "none"
        why = f"no such snapshot of {table} wrote {manifest.window}; what is there is of {current}"
        raise disagreement(manifest, output, "version", why)
    return checked(manifest, known, "the lake")
