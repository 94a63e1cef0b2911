"""``ingest``: read the window from every source and keep it as it came, cast to the declared schema."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import date, timedelta
from typing import TYPE_CHECKING

from evergreen.catalog import load_function
from evergreen.contract import ConfigurationError, Request, Result, Status, TemporaryError, Window
from evergreen.data.lake import get_lake
from evergreen.data.lineage import written_by
from evergreen.data.tables import raw_rows, raw_schema
from evergreen.spec import ModelSpec, Source

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger(__name__)


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``raw_<source>`` for every source.

    Days that a source has nothing for become empty partitions and are named in the facts; a window that no source
    has anything for is skipped and nothing is written.
    """
    read = {source.name: _read(source, spec, request.window) for source in spec.sources}
    missing = {name: days for name, (_, days) in read.items() if days}
    if all(len(days) == request.window.days for _, days in read.values()):
        sources = ", ".join(read)
        return Result(
            status=Status.SKIPPED,
            reason=f"The sources have nothing for {_days(request.window)} ({sources}).",
            facts={"missing": _named(missing)},
        )
    for name, days in missing.items():
        log.warning("source %s has nothing for %s", name, ", ".join(map(str, days)))
    lake = get_lake()
    outputs = tuple(
        lake.write(spec.name, f"raw_{name}", table, request.window, written_by(request))
        for name, (table, _) in read.items()
    )
    facts = {"rows": {name: table.num_rows for name, (table, _) in read.items()}, "missing": _named(missing)}
    return Result(outputs=outputs, facts=facts)


def _read(source: Source, spec: ModelSpec, window: Window) -> tuple[pa.Table, list[date]]:
    import pyarrow as pa

    reader: Callable[[date], pd.DataFrame | None] = load_function(spec, source.reader)
    tables, missing = [raw_schema(source).empty_table()], []
    for day in _each(window):
        frame = _call(source, reader, day)
        if frame is None or frame.empty:
            missing.append(day)
        else:
            tables.append(raw_rows(source, day, frame))
    return pa.concat_tables(tables), missing


def _call(source: Source, reader: Callable[[date], pd.DataFrame | None], day: date) -> pd.DataFrame | None:
    import pandas as pd

    try:
        frame = reader(day)
    except (ConnectionError, TimeoutError) as error:
        raise TemporaryError(f"{source.reader}: the source {source.name} did not answer for {day}: {error}.") from error
    if frame is not None and not isinstance(frame, pd.DataFrame):
        raise ConfigurationError(
            f"{source.reader} returned {type(frame).__name__} for {day}.", "Return a pandas frame, or None."
        )
    return frame


def _each(window: Window) -> list[date]:
    return [window.start + timedelta(days=offset) for offset in range(window.days)]


def _days(window: Window) -> str:
    return str(window.end) if window.days == 1 else str(window)


def _named(missing: dict[str, list[date]]) -> dict[str, list[str]]:
    return {name: [str(day) for day in days] for name, days in missing.items()}
