"""``ingest``: read the window from every source and keep it as it came, cast to the declared schema."""

from __future__ import annotations

import logging
from datetime import date
from typing import TYPE_CHECKING

from evergreen.catalog import SPEC_FILE
from evergreen.contract import (
    ConfigurationError,
    DataError,
    Request,
    Result,
    Status,
    StepError,
    TemporaryError,
    Window,
    described,
    is_stop,
    printable,
)
from evergreen.data.lake import get_lake
from evergreen.data.lineage import written_by
from evergreen.data.readers import put_back, reader_error
from evergreen.data.source_types import Reader, reader_of
from evergreen.data.tables import raw_rows, raw_schema
from evergreen.judgement.decisions import write_start
from evergreen.judgement.events import EventKind
from evergreen.pipelines import dag_id
from evergreen.spec import ModelSpec, Source
from evergreen.store import get_store

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger(__name__)


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``raw_<source>`` for every source.

    Days that a source has nothing for become empty partitions and are named in the facts; a window that no source
    has anything for is skipped and nothing is written.
    """
    if request.run.dag_id == dag_id(spec.name, "backfill"):
        write_start(get_store(), request, EventKind.BACKFILL_STARTED)
    read = {source.name: _read(source, spec, request.window) for source in spec.sources}
    missing = {name: [str(day) for day in days] for name, (_, days) in read.items() if days}
    if all(len(days) == request.window.days for _, days in read.values()):
        sources = ", ".join(f"0 rows of {name}" for name in read)
        days = request.window.end if request.window.days == 1 else request.window
        return Result(
            status=Status.SKIPPED,
            reason=f"The sources have nothing for {days} ({sources}).",
            facts={"missing": missing},
        )
    for name, absent in missing.items():
        log.warning("source %s has nothing for %s", name, ", ".join(absent))
    raw = {f"raw_{name}": table for name, (table, _) in read.items()}
    outputs = get_lake().write_all(spec.name, raw, request.window, written_by(request))
    facts = {"rows": {name: table.num_rows for name, (table, _) in read.items()}, "missing": missing}
    return Result(outputs=outputs, facts=facts)


def _read(source: Source, spec: ModelSpec, window: Window) -> tuple[pa.Table, list[date]]:
    import pyarrow as pa

    reader = reader_of(spec, source)
    tables, missing = [raw_schema(source).empty_table()], []
    for day in window.partitions:
        frame = _call(source, spec, reader, day)
        rows = None if frame is None else _rows(source, day, frame)
        if rows is None:
            missing.append(day)
        else:
            tables.append(rows)
    return pa.concat_tables(tables), missing


def _call(source: Source, spec: ModelSpec, reader: Reader, day: date) -> pd.DataFrame | None:
    import pandas as pd

    try:
        with put_back():
            frame = reader(day)
    except (DataError, ConfigurationError, TemporaryError, MemoryError):
        raise
    except BaseException as error:  # whatever a reader, and the libraries it uses, may raise: sys.exit too
        if is_stop(error):
            raise
        file = source.reader.partition(":")[0] if source.reader else SPEC_FILE
        doing = f"reading {source.name} of {day}{'' if source.reader else f' ({source.read_by})'}"
        raise reader_error(error, doing, spec.folder / file) from error
    # not isinstance: an object may say of itself that it is one
    if frame is not None and not issubclass(type(frame), pd.DataFrame):
        kind = printable(type(frame).__name__, 100)
        raise ConfigurationError(f"{source.read_by} returned {kind} for {day}.", "Return a pandas frame, or None.")
    return frame


def _rows(source: Source, day: date, frame: pd.DataFrame) -> pa.Table | None:
    """Return a day's raw rows; None if the frame has none."""
    try:
        # a copy: a reader may keep its frame, and change it for the next day
        return raw_rows(source, day, frame.copy()) if len(frame) else None
    except (StepError, MemoryError):
        raise
    except BaseException as error:  # a frame, and what is in it, may be of classes with code of their own
        if is_stop(error):
            raise
        log.warning("%s returned a frame for %s that cannot be read", source.read_by, day, exc_info=error)
        raise DataError(
            f"{source.read_by}: the frame of {source.name} for {day} cannot be read: {described(error)}.",
            "Return a plain pandas.DataFrame of numbers, text, times and None.",
        ) from error
