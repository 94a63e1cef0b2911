"""Rows in quarantine: why they are there, and what their content is known by."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import date
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from evergreen.contract import Window, printable
from evergreen.data.lake import PARTITION, get_lake
from evergreen.data.tables import BETWEEN_REASONS, REASON, published_schema, raw_schema
from evergreen.spec import ModelSpec, Source

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

_EXAMPLES = 3
_LONGEST_EXAMPLE = 100
_MOST_REASONS = 20


def quarantined(model: str, source: Source, day: date | None = None) -> pa.Table:
    """Return the rows of a source in quarantine, of one day or of all; none if nothing ever was."""
    lake, table = get_lake(), f"{source.name}_quarantine"
    if not lake.has(model, table):
        return raw_schema(source).empty_table()
    return lake.read(model, table, Window(start=day, end=day) if day else None)


def reasons_of(rows: pa.Table) -> list[frozenset[str]]:
    """Return the reasons of each row; that of a value that could not be read may come in pieces."""
    return [frozenset(text.split(BETWEEN_REASONS)) for text in rows[REASON].to_pylist()]


def row_digests(rows: pa.Table, source: Source) -> list[str]:
    """Return a digest of each row's content: its day and its declared columns, wherever in the day it stands.

    32 hexadecimal digits of a SHA-256: nobody finds another row that has the same.
    """
    content = rows.select(published_schema(source).names).to_pylist()
    return [sha256(_canonical(row).encode()).hexdigest()[:32] for row in content]


def _canonical(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True, ensure_ascii=False, default=lambda value: value.isoformat())


def show(spec: ModelSpec, sources: Sequence[Source], day: date | None, console: Console) -> None:
    """Print how many rows are in quarantine for which reason, the most frequent first, with a few of them."""
    for source in sources:
        rows = quarantined(spec.name, source, day)
        days = len(set(rows[PARTITION].to_pylist()))
        when = f" of {day or ('1 day' if days == 1 else f'{days} days')}"
        title = f"{spec.name}.{source.name}{when}: {rows.num_rows:,} rows in quarantine"
        console.print(title, markup=False, highlight=False)
        for line in _by_reason(rows, source):
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _by_reason(rows: pa.Table, source: Source) -> Iterator[str]:
    positions: dict[str, list[int]] = {}
    for position, reasons in enumerate(reasons_of(rows)):
        for reason in reasons:
            positions.setdefault(reason, []).append(position)
    ordered = sorted(positions.items(), key=lambda item: (-len(item[1]), item[0]))
    for reason, places in ordered[:_MOST_REASONS]:
        yield f"{len(places):,}  {reason}"
        told = [PARTITION, *source.key, *(name for name in source.columns if re.search(rf"\b{name}\b", reason))]
        for row in rows.take(places[:_EXAMPLES]).to_pylist():
            values = ", ".join(f"{name}={row[name]}" for name in dict.fromkeys(told))
            yield f"     {printable(values, _LONGEST_EXAMPLE)}"
    if len(ordered) > _MOST_REASONS:
        yield f"and {len(ordered) - _MOST_REASONS:,} more reasons"
