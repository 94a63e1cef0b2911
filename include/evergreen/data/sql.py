"""What a model's SQL may be: one SELECT that gives the same rows whenever it is asked, and comes to an end."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evergreen.contract import ConfigurationError

if TYPE_CHECKING:
    import duckdb

_CLOCK = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"})
"""Words that DuckDB parses like columns."""


def refuse_unfit(connection: duckdb.DuckDBPyConnection, path: Path, sql: str) -> None:
    """Refuse SQL that is not one SELECT, or whose rows would depend on the clock, on chance or on the connection.

    Raises
    ------
    ConfigurationError
        The message names file and function.
    duckdb.Error
        If it is no SQL.
    """
    import duckdb

    statements = connection.extract_statements(sql)
    if not statements:
        raise ConfigurationError(f"{path}: returns no rows.", "End it with a SELECT.")
    if len(statements) > 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements)
        raise ConfigurationError(f"{path}: not one SELECT, but {kinds}.", "Write it as one SELECT; WITH makes steps.")
    answer = connection.execute("SELECT json_serialize_sql(?)", [statements[0].query]).fetchone()
    tree = json.loads(answer[0]) if answer else {}
    if tree.get("error"):
        raise ConfigurationError(f"{path}: {tree.get('error_message')}.", "Write it as one SELECT.")
    if found := sorted(set(_changing(tree, _volatile(connection)))):
        raise ConfigurationError(
            f"{path}: {', '.join(found)}: the same day must give the same rows whenever it is asked.",
            "Take times from the rows, or from getvariable('window_start') and getvariable('window_end').",
        )


def _volatile(connection: duckdb.DuckDBPyConnection) -> frozenset[str]:
    rows = connection.execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability IN ('VOLATILE',"
        " 'CONSISTENT_WITHIN_QUERY') AND function_name NOT IN ('getvariable', 'error')"
    ).fetchall()
    return _CLOCK.union(name for (name,) in rows)


def _changing(node: Any, volatile: frozenset[str]) -> Iterator[str]:
    """Yield whatever in a parsed query gives another result another time."""
    if isinstance(node, list):
        for item in node:
            yield from _changing(item, volatile)
    elif isinstance(node, dict):
        name = str(node.get("function_name", "")).lower()
        if name in volatile or (name == "age" and len(node.get("arguments", ())) == 1):
            yield f"{name}()"
        names: list[object] = node.get("column_names") or []
        if len(names) == 1 and str(names[0]).lower() in _CLOCK:
            yield str(names[0]).lower()
        if "sample_size" in node and not node.get("repeatable"):
            yield "a sample without REPEATABLE"
        for item in node.values():
            yield from _changing(item, volatile)


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
