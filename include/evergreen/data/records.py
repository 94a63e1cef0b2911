"""What a snapshot of the lake records about the write that made it: the days, and a digest of the rows."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, timedelta
from typing import TYPE_CHECKING

from evergreen.contract import Output, Window
from evergreen.data.arrow import content_digest, plain
from evergreen.data.scan import NO_SNAPSHOT, current_snapshot_of, in_window, partitions_of

if TYPE_CHECKING:
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

PREFIX = "evergreen."
"""Of every property this project records in a snapshot."""


def named(window: Window, also: Collection[str]) -> str:
    """Return the text by which a snapshot knows the days it replaced."""
    return " and ".join([str(window), *sorted(also)])


def days_written(snapshot: Snapshot, window: Window) -> list[date]:
    """Return the days of a window that a snapshot wrote, as `named` says; those that it only deleted do not count."""
    from pyiceberg.table.snapshots import Operation

    if snapshot.summary is None or snapshot.summary.operation is Operation.DELETE:
        return []
    span, *also = snapshot.summary.additional_properties.get(f"{PREFIX}window", "..").split(" and ")
    start, _, end = span.partition("..")
    days = (window.start + timedelta(days=offset) for offset in range(window.days))
    return [day for day in days if start <= str(day) <= end or str(day) in also]


def already_there(table: Table, window: Window, also: Collection[str], digest: str, rows: int) -> str | None:
    """Return the snapshot that already holds exactly this write, if the table's partitions still are that write."""
    start, end = str(window.start), str(window.end)
    inside = [entry for entry in partitions_of(table) if start <= entry[0] <= end or entry[0] in also]
    if not inside:
        return None if rows else current_snapshot_of(table)
    writers = {snapshot for _, _, snapshot in inside}
    if len(writers) != 1 or sum(count for _, count, _ in inside) != rows:
        return None
    written = table.snapshot_by_id(int(writers.pop()))
    if written is None or written.summary is None:
        return None
    recorded = written.summary.additional_properties
    same = recorded.get(f"{PREFIX}window") == named(window, also) and recorded.get(f"{PREFIX}digest") == digest
    return str(written.snapshot_id) if same else None


def written(table: Table, window: Window, version: str) -> Output | None:
    """Return what a snapshot recorded when it wrote a window; None if there is no such snapshot, or it did not.

    A write of no rows into days that have none makes no snapshot: it is known by the one that was there already.
    """
    snapshot = table.snapshot_by_id(int(version)) if version.isdecimal() else None
    known = Output(name=table.name()[-1], uri=table.location(), version=version)
    if snapshot is not None and snapshot.summary is not None:
        recorded = snapshot.summary.additional_properties
        if recorded.get(f"{PREFIX}window", "").split(" and ")[0] == str(window):
            rows = int(recorded.get("added-records", 0))
            return known.model_copy(update={"digest": recorded.get(f"{PREFIX}digest", ""), "rows": rows})
    if version == NO_SNAPSHOT or (snapshot is not None and not _rows(table, window, version)):
        empty = plain(table.schema().as_arrow()).empty_table()
        return known.model_copy(update={"digest": content_digest(empty), "rows": 0})
    return None


def _rows(table: Table, window: Window, version: str) -> int:
    return sum(task.file.record_count for task in table.scan(in_window(window), snapshot_id=int(version)).plan_files())
