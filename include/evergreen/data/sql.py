"""What a model's SQL may be: one SELECT that gives the same rows whenever it is asked, and comes to an end."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evergreen.contract import ConfigurationError
from evergreen.data.memory import query_memory
from evergreen.data.repeatable import foreign_reads, unrepeatable_parts, volatile_functions

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_BATCH = 100_000
"""Rows that are taken at a time."""
_SPILLED = 8
"""How many times its memory a query may put on the disk: beyond that it would only take hours to fail."""
_SPILLED_AT_MOST = 10 << 30
"""Half of what a step's pod has for temporary files: a pod that uses it up is evicted without a word."""


@contextmanager
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection with bounds: one thread, so much memory, a folder of its own for what does not fit.

    `close` then bolts it: SQL can neither lift the bounds nor reach a file, the network or an extension.
    """
    import duckdb

    with tempfile.TemporaryDirectory(prefix="sql-") as folder:
        memory = query_memory()
        spilled = min(_SPILLED * memory, _SPILLED_AT_MOST, shutil.disk_usage(folder).free // 2)
        config: dict[str, str | bool | int | float | list[str]] = {
            "threads": 1,  # sums of floating-point numbers then do not depend on which thread came first
            "memory_limit": f"{memory}B",
            "temp_directory": folder,
            "max_temp_directory_size": f"{spilled}B",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
        }
        with duckdb.connect(config=config) as connection:
            yield connection


def close(connection: duckdb.DuckDBPyConnection) -> None:
    """Bolt a connection: from here on it takes no setting, and reads nothing that it does not have yet."""
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def refuse_unfit(connection: duckdb.DuckDBPyConnection, path: Path, sql: str, tables: Collection[str]) -> None:
    """Refuse SQL that is not one SELECT, or whose rows depend on more than the rows of these tables.

    Raises
    ------
    ConfigurationError
        The message names file and function.
    duckdb.Error
        If it is no SQL.
    """
    tree = _parsed(connection, path, sql)
    if foreign := sorted(foreign_reads(tree, tables)):
        raise ConfigurationError(
            f"{path}: {', '.join(foreign)}: SQL reads the published sources, and nothing else.",
            f"Tables: {', '.join(sorted(tables)) or 'none'}.",
        )
    if unrepeatable := sorted(unrepeatable_parts(tree, volatile_functions())):
        raise ConfigurationError(
            f"{path}: {', '.join(unrepeatable)}: the same day must give the same rows whenever it is asked.",
            "Take times from the rows, or from getvariable('window_start') and getvariable('window_end'). What takes "
            "rows as they come needs an order, e.g. list(x ORDER BY y); of equal values min() is as good as first().",
        )


def _parsed(connection: duckdb.DuckDBPyConnection, path: Path, sql: str) -> Any:
    import duckdb

    statements = connection.extract_statements(sql)
    if not statements:
        raise ConfigurationError(f"{path}: returns no rows.", "End it with a SELECT.")
    if len(statements) > 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements)
        raise ConfigurationError(f"{path}: not one SELECT, but {kinds}.", "Write it as one SELECT; WITH makes steps.")
    answers = connection.execute("SELECT json_serialize_sql(?)", [statements[0].query]).fetchall()
    try:
        tree = json.loads(answers[0][0])
    except RecursionError as error:
        raise ConfigurationError(f"{path}: it is nested too deeply.", "WITH makes steps.") from error
    if tree.get("error"):
        raise ConfigurationError(f"{path}: {tree.get('error_message')}.", "Write it as one SELECT.")
    return tree


def rows_of(connection: duckdb.DuckDBPyConnection, path: Path, sql: str) -> pa.Table:
    """Return what a query returns, as far as it fits.

    Raises
    ------
    MemoryError
        If the query, or its rows, need more memory than a query may take.
    """
    import duckdb
    import pyarrow as pa

    most, size, batches = query_memory(), 0, []
    hint = "A join without its condition, or too many days at once? A larger resource profile has more."
    try:
        reader = connection.sql(sql).to_arrow_reader(_BATCH)
        for batch in _batches(reader):
            size += batch.nbytes
            if size > most:
                raise MemoryError(f"{path}: it returns more than {most >> 20} MiB of rows. {hint}")
            batches.append(batch)
    except duckdb.OutOfMemoryException as error:
        raise MemoryError(f"{path}: it needs more than the {most >> 20} MiB that a query may take. {hint}") from error
    return pa.Table.from_batches(batches, reader.schema)


def _batches(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Yield what a query returns; what DuckDB raises on the way reaches us as Arrow's OSError, and is made its own."""
    import duckdb

    try:
        yield from reader
    except OSError as error:
        kind = str(error).partition(" Error: ")[0].title().replace(" ", "")  # "Out of Range Error: Overflow in ..."
        raise getattr(duckdb, f"{kind}Exception", duckdb.Error)(str(error).strip()) from error


@contextmanager
def ended_after(connection: duckdb.DuckDBPyConnection, path: Path, seconds: float) -> Iterator[None]:
    """Interrupt what the connection does after some time.

    Raises
    ------
    ConfigurationError
        If it was interrupted: a recursive query that never ends, or one that is too slow.
    """
    import duckdb

    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    except duckdb.InterruptException as error:
        raise ConfigurationError(
            f"{path}: still running after {seconds:g} s.",
            "Does a recursive query end? EVERGREEN_SQL_SECONDS allows more time.",
        ) from error
    finally:
        timer.cancel()
