"""What is in the lake, day by day: behind ``evergreen partitions``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evergreen.contract import Frozen
from evergreen.data.lake import get_lake
from evergreen.spec import ModelSpec

if TYPE_CHECKING:
    from rich.console import Console


class Partition(Frozen):
    """One published day of a model."""

    day: str
    rows: dict[str, int]
    """Published rows, by source."""
    quarantined: int
    snapshot: str
    """The snapshot that last wrote the day of the first source that has it."""


def published(spec: ModelSpec) -> list[Partition]:
    """Return every day of which something is published or quarantined, oldest first."""
    with get_lake().one_moment() as lake:
        details = {
            source.name: {day: (rows, snapshot) for day, rows, snapshot in lake.details(spec.name, source.name)}
            for source in spec.sources
        }
        quarantines = [dict(lake.partitions(spec.name, f"{source.name}_quarantine")) for source in spec.sources]
    return [
        Partition(
            day=day,
            rows={name: table[day][0] if day in table else 0 for name, table in details.items()},
            quarantined=sum(table.get(day, 0) for table in quarantines),
            snapshot=next((table[day][1] for table in details.values() if day in table), ""),
        )
        for day in sorted(set().union(*details.values(), *quarantines))
    ]


def show(spec: ModelSpec, console: Console, last: int) -> None:
    """Print the last days as a table, with the totals of all days."""
    from rich.table import Table

    partitions = published(spec)
    if not partitions:
        console.print(
            f"{spec.name}: nothing is published yet. evergreen loop, or the DAG {spec.name}.ingest, does that."
        )
        return
    sources = [source.name for source in spec.sources]
    table = Table(title=f"{spec.name}: {len(partitions)} partitions", show_footer=True)
    table.add_column("partition", footer="all")
    for name in sources:
        table.add_column(name, footer=f"{sum(part.rows[name] for part in partitions):,}", justify="right")
    table.add_column("quarantined", footer=f"{sum(part.quarantined for part in partitions):,}", justify="right")
    table.add_column("snapshot")
    if len(partitions) > last:
        table.add_row("…", *("…" for _ in sources), "…", "…")
    for part in partitions[-last:]:
        counts = [f"{part.rows[name]:,}" for name in sources]
        table.add_row(part.day, *counts, f"{part.quarantined:,}" if part.quarantined else "", part.snapshot)
    console.print(table)
