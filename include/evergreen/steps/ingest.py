"""``ingest``: read the window from every source and keep it as it came, cast to the declared schema."""

from __future__ import annotations

import gzip
import logging
import lzma
import traceback
import zipfile
import zlib
from collections.abc import Callable
from datetime import date, timedelta
from typing import TYPE_CHECKING

from evergreen.catalog import load_function
from evergreen.contract import (
    ConfigurationError,
    DataError,
    Request,
    Result,
    Status,
    StepError,
    TemporaryError,
    Window,
    is_stop,
    told,
)
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
        sources = ", ".join(f"0 rows of {name}" for name in read)
        return Result(
            status=Status.SKIPPED,
            reason=f"The sources have nothing for {_days(request.window)} ({sources}).",
            facts={"missing": _named(missing)},
        )
    for name, days in missing.items():
        log.warning("source %s has nothing for %s", name, ", ".join(map(str, days)))
    raw = {f"raw_{name}": table for name, (table, _) in read.items()}
    outputs = get_lake().write_all(spec.name, raw, request.window, written_by(request))
    facts = {"rows": {name: table.num_rows for name, (table, _) in read.items()}, "missing": _named(missing)}
    return Result(outputs=outputs, facts=facts)


def _read(source: Source, spec: ModelSpec, window: Window) -> tuple[pa.Table, list[date]]:
    import pyarrow as pa

    reader: Callable[[date], pd.DataFrame | None] = load_function(spec, source.reader)
    tables, missing = [raw_schema(source).empty_table()], []
    for day in _each(window):
        frame = _call(source, spec, reader, day)
        if frame is None or frame.empty:
            missing.append(day)
        else:
            tables.append(raw_rows(source, day, frame))
    return pa.concat_tables(tables), missing


def _call(
    source: Source, spec: ModelSpec, reader: Callable[[date], pd.DataFrame | None], day: date
) -> pd.DataFrame | None:
    import pandas as pd

    try:
        frame = reader(day)
    except (StepError, MemoryError):
        raise
    except BaseException as error:  # whatever a reader, and the libraries it uses, may raise: sys.exit too
        if is_stop(error):
            raise
        raise _reader_error(source, spec, day, error) from error
    if frame is not None and not isinstance(frame, pd.DataFrame):
        raise ConfigurationError(
            f"{source.reader} returned {type(frame).__name__} for {day}.", "Return a pandas frame, or None."
        )
    return frame


def _reader_error(source: Source, spec: ModelSpec, day: date, error: BaseException) -> StepError:
    """Say what a reader's exception means: silence is temporary, a broken file is data, all else is the reader."""
    path = spec.folder / source.reader.partition(":")[0]
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f"{path}: line {lines[-1]}" if lines else str(path)
    message = f"{where}: reading {source.name} of {day}: {told(error)}."
    if isinstance(error, PermissionError):
        return ConfigurationError(message, "Let the steps read it.")
    if isinstance(error, KeyError):
        return DataError(message, "Did the source rename or drop that column? Correct the source, or the reader.")
    # BadGzipFile is an OSError; encodings, numbers, dates, Arrow and pandas' parser raise ValueErrors
    broken = (ValueError, EOFError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
    if isinstance(error, (*broken, FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return DataError(
            message, "Correct the source, then run it again; for a day that has no file, the reader returns None."
        )
    if isinstance(error, OSError):  # urllib's and requests' errors too
        return TemporaryError(message, "Does the source answer?")
    return ConfigurationError(message, "Correct the reader.")


def _each(window: Window) -> list[date]:
    return [window.start + timedelta(days=offset) for offset in range(window.days)]


def _days(window: Window) -> str:
    return str(window.end) if window.days == 1 else str(window)


def _named(missing: dict[str, list[date]]) -> dict[str, list[str]]:
    return {name: [str(day) for day in days] for name, days in missing.items()}
