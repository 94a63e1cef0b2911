"""From the files that servers leave to the lake's tables of answers and feedback, each record once.

A day is read as a whole, whenever it has other files than those that it was made of. What cannot be believed is set
aside, under ``set_aside/`` in the artifact store: a file that is no Parquet or has a column of another type, and rows
that no server of this project writes.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from typing import TYPE_CHECKING, get_args

from evergreen.contract import Output, Window
from evergreen.data.arrow import PARTITION, plain
from evergreen.data.chunks import write_chunks
from evergreen.data.commit import recorded_by_day
from evergreen.data.lake import get_lake
from evergreen.data.lake_errors import lake_errors, retrying_races
from evergreen.data.served import FEEDBACK, REQUEST, SERVED
from evergreen.handover import file_digest
from evergreen.serving.answers import VariantName
from evergreen.serving.log_files import DROPPED, Status, feedback_schema, keys_by_day, log_schema
from evergreen.spec import ModelSpec
from evergreen.store import ArtifactStore, get_store

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

SET_ASIDE = "set_aside"
_COMMIT_SECONDS = 120
_FILES = "files"
"""Of a snapshot: the digest of the names of the files that its day was made of."""
_SAME = {SERVED: ("prediction_id", "variant", "shadow"), FEEDBACK: ("prediction_id", "outcome", "at", "client")}
"""What a record is known by: after a crash a server writes it again, into another file."""
_ORDER = {SERVED: ("served_at", *_SAME[SERVED]), FEEDBACK: ("at", *_SAME[FEEDBACK])}
"""How rows are ordered, so that a day's content does not depend on the files it came in."""


@dataclass
class Found:
    """What an ingestion has found in the files of a table."""

    days: list[str] = field(default_factory=list)
    """Those that were written."""
    rows: int = 0
    duplicates: int = 0
    dropped: int = 0
    bytes: int = 0
    files_set_aside: dict[str, str] = field(default_factory=dict)
    """The file's key, and why."""
    rows_set_aside: Counter[str] = field(default_factory=Counter)
    """By reason."""
    by: dict[str, Counter[str]] = field(default_factory=lambda: {"status": Counter(), "variant": Counter()})


def ingest_log(
    spec: ModelSpec, table: str, days: Sequence[date], properties: Mapping[str, str]
) -> tuple[Found, Output | None]:
    """Bring the days that have other files than before into a table; returns what was found, and the last write.

    A day whose files are all gone keeps its rows: what is too old is removed by `remove_older`.

    Parameters
    ----------
    spec
        The model.
    table
        ``served`` or ``feedback``.
    days
        The days to look at.
    properties
        Recorded in the snapshots.
    """
    lake, store = get_lake(), get_store()
    keys = keys_by_day(store.keys(f"{table}/{spec.name}/"))
    there = lake.has(spec.name, table)
    known = recorded_by_day(lake.load(spec.name, table), _FILES) if there else {}
    found, output = Found(), None
    for day in map(str, days):
        if day not in keys or _names(keys[day]) == known.get(day):
            continue
        rows, read = _read_day(spec, table, day, keys[day], found)
        if rows is None:
            continue
        window = Window(start=date.fromisoformat(day), end=date.fromisoformat(day))
        recorded = {**properties, _FILES: _names(read)}
        written = write_chunks(lake, spec.name, table, rows.schema, [rows] if len(rows) else [], window, recorded)
        output = written.output
        found.days.append(day)
        found.rows += len(rows)
        found.bytes += written.bytes
    return found, output


def _names(keys: Sequence[str]) -> str:
    return sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]


def _read_day(
    spec: ModelSpec, table: str, day: str, keys: Sequence[str], found: Found
) -> tuple[pa.Table | None, list[str]]:
    """Return the rows of a day, each once, and the files they are from; None if no file can be read."""
    import pyarrow as pa

    store, types = get_store(), _types(spec, table)
    parts, read = [], []
    for key in sorted(keys):
        content = store.read(key)
        if content is None:  # removed since it was listed
            continue
        try:
            parts.append(_read_file(content, types, found))
            read.append(key)
        except (pa.ArrowException, OSError, ValueError) as error:
            _set_aside(store, key, content)
            found.files_set_aside[key] = f"{type(error).__name__}: {error}"[:300]
    if not parts:
        return None, []
    rows = pa.concat_tables(parts, promote_options="permissive")
    good = _without_nonsense(spec, table, day, rows, found)
    once = _each_once(table, good, found)
    for name, counted in found.by.items():
        counted.update(str(value) for value in (once[name].to_pylist() if name in once.column_names else []))
    return once.append_column(PARTITION, pa.array([day] * len(once), pa.string())), read


def _types(spec: ModelSpec, table: str) -> dict[str, pa.DataType]:
    """Return the types that columns must have: those of the table, and those that every server writes."""
    lake, keys = get_lake(), {f"{REQUEST}{key}" for key in spec.features.keys}
    schema = log_schema(spec) if table == SERVED else feedback_schema()
    types = {column.name: column.type for column in schema if column.name not in keys}
    if lake.has(spec.name, table):
        types |= {column.name: column.type for column in plain(lake.load(spec.name, table).schema().as_arrow())}
    types.pop(PARTITION, None)
    return types


def _read_file(content: bytes, types: dict[str, pa.DataType], found: Found) -> pa.Table:
    """Return the rows of a file with the types there are; a column that nobody knows yet sets its own type.

    Raises
    ------
    pyarrow.ArrowException, OSError, ValueError
        If it is no Parquet file, has a column of another type, or none that tells records apart.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pq.read_table(io.BytesIO(content))
    if "prediction_id" not in rows.column_names:
        raise ValueError("it has no column prediction_id")
    dropped = int((rows.schema.metadata or {}).get(DROPPED, b"0"))
    rows = rows.cast(plain(rows.schema))
    columns = {name: rows[name] for name in rows.column_names if name != PARTITION}
    cast = {name: column.cast(types.get(name, column.type)) for name, column in columns.items()}
    for name, column in cast.items():
        if not pa.types.is_null(column.type):
            types.setdefault(name, column.type)
    found.dropped += dropped
    return pa.table({name: column for name, column in cast.items() if name in types})


def _set_aside(store: ArtifactStore, key: str, content: bytes) -> None:
    """Move a file to where nobody reads it again; whoever is killed between leaves it in both places."""
    store.write(f"{SET_ASIDE}/{key}", content)
    store.remove(key)


def _without_nonsense(spec: ModelSpec, table: str, day: str, rows: pa.Table, found: Found) -> pa.Table:
    """Return the rows that a server may have written; the others are counted by reason and set aside in a file."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    reasons = pa.array([None] * len(rows), pa.string())
    for why, wrong in _nonsense(table, day, rows):
        reasons = pc.if_else(pc.and_(pc.is_null(reasons), pc.fill_null(wrong, True)), why, reasons)
    bad = rows.append_column("set_aside", reasons).filter(pc.is_valid(reasons))
    if len(bad):
        found.rows_set_aside.update(bad["set_aside"].to_pylist())
        sink = pa.BufferOutputStream()
        pq.write_table(bad, sink)
        content = sink.getvalue().to_pybytes()
        get_store().write(f"{SET_ASIDE}/{table}/{spec.name}/{day}/rows-{file_digest(content)}.parquet", content)
    return rows.filter(pc.is_null(reasons))


def _nonsense(table: str, day: str, rows: pa.Table) -> Iterator[tuple[str, pc.Expression]]:
    """Yield why a row cannot be one of a day, and of each row whether it is so; null is so too."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def column(name: str) -> pa.ChunkedArray:
        absent = pa.chunked_array([pa.array([None] * len(rows), pa.string())])
        return rows[name] if name in rows.column_names else absent

    yield "no prediction_id", pc.equal(column("prediction_id"), "")
    if table == FEEDBACK:
        yield "no outcome", pc.is_null(column("outcome"))
        return
    status, version, variant = column("status"), column("version"), column("variant")
    known = pc.is_in(status, pa.array(get_args(Status)))
    yield "another status", pc.invert(known)
    answered = pc.equal(status, "ok")  # who refuses may know of no version
    is_version = pc.match_substring_regex(version, "^[1-9][0-9]*$")
    yield "no version", pc.and_kleene(pc.or_(answered, pc.is_valid(version)), pc.invert(is_version))
    is_variant = pc.is_in(variant, pa.array(get_args(VariantName)))
    yield "another variant", pc.and_kleene(pc.or_(answered, pc.is_valid(variant)), pc.invert(is_variant))
    at = column("event_timestamp").cast(pa.timestamp("us", tz="UTC"))
    yield "another day", pc.not_equal(pc.strftime(at, "%Y-%m-%d"), day)


def _each_once(table: str, rows: pa.Table, found: Found) -> pa.Table:
    """Return the rows in their order, each once; the others are counted."""
    import pyarrow as pa

    order = [(name, "ascending") for name in _ORDER[table] if name in rows.column_names]
    rows = rows.sort_by(order)
    same = list(zip(*(rows[name].to_pylist() for name in _SAME[table] if name in rows.column_names), strict=True))
    seen: set[tuple[object, ...]] = set()
    first = [not (key in seen or seen.add(key)) for key in same]  # type: ignore[func-returns-value]
    found.duplicates += len(rows) - sum(first)
    return rows.filter(pa.array(first, pa.bool_()))


def remove_older(spec: ModelSpec, table: str, before: date) -> list[str]:
    """Remove the days whose records were all written before one, with the files they came in; returns these days.

    An event may be years older than its record, as in a replay: it is the record's time that counts. A day with a file
    that was not ingested stays as it is.
    """
    from pyiceberg.expressions import In

    lake, store = get_lake(), get_store()
    if not lake.has(spec.name, table):
        return []
    keys = keys_by_day(store.keys(f"{table}/{spec.name}/"))
    ingested = recorded_by_day(lake.load(spec.name, table), _FILES)
    gone = [
        day
        for day, files in sorted(ingested.items())
        if day < str(before)  # nothing is written long before its event: most days need not be read
        and (day not in keys or _names(keys[day]) == files)
        and _written_before(spec, table, day, before)
    ]
    if gone:
        with lake_errors(f"the table {spec.name}.{table}"):
            retrying_races(_COMMIT_SECONDS)(lambda: lake.load(spec.name, table).delete(In(PARTITION, gone)))
        aside = keys_by_day(store.keys(f"{SET_ASIDE}/{table}/{spec.name}/"))
        for key in (key for day in gone for key in (*keys.get(day, ()), *aside.get(day, ()))):
            store.remove(key)
    return gone


def _written_before(spec: ModelSpec, table: str, day: str, before: date) -> bool:
    """Tell whether the newest record of a day was written before another day, in UTC."""
    import pyarrow.compute as pc

    written = _ORDER[table][0]
    window = Window(start=date.fromisoformat(day), end=date.fromisoformat(day))
    newest = pc.max(get_lake().read(spec.name, table, window, columns=[written])[written]).as_py()
    return newest is None or newest.date() < before
