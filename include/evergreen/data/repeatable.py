"""Finds in a parsed query what would give other rows another time: clocks, chance, and the order in which rows lie."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

_CLOCK = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"})
"""Words that DuckDB parses like columns."""
_UNLISTED = frozenset({"reservoir_quantile", "current_localtime", "current_localtimestamp"})
"""Functions that DuckDB does not list as volatile, and that are."""
_ROW_MAKERS = frozenset({"generate_series", "range", "unnest", "repeat", "json_each", "json_tree"})
"""Table functions that make rows of their arguments alone; others read files, settings, or text that is SQL."""
_FIRST_COME = frozenset(
    (
        *("first", "last", "any_value", "arbitrary", "list", "array_agg", "string_agg", "group_concat", "listagg"),
        *("json_group_array", "json_group_object", "json_group_structure", "variant_group_array"),
        *("row_number", "ntile", "lag", "lead", "first_value", "last_value", "nth_value"),
    )
)
"""What depends on the order of the rows."""


def unrepeatable_parts(tree: Any, volatile: Collection[str]) -> set[str]:
    """Return what in a parsed query gives another result another time; ``volatile`` is of `volatile_functions`."""
    parts: set[str] = set()
    for node in _nodes(tree):
        parts.update(_by_chance(node, volatile))
        parts.update(_by_order(node))
    return parts


def foreign_reads(tree: Any, tables: Collection[str]) -> set[str]:
    """Return what a parsed query reads, other than these tables, its own steps and functions of its values."""
    known = {name.lower() for name in tables}
    nodes = list(_nodes(tree))
    for node in nodes:
        steps: dict[str, Any] = node.get("cte_map") or {}
        known.update(str(step["key"]).lower() for step in steps.get("map", ()))
        if node.get("type") == "RECURSIVE_CTE_NODE":
            known.add(str(node.get("cte_name")).lower())
    reads: set[str] = set()
    for node in nodes:
        match node.get("type"):
            case "BASE_TABLE" if node.get("schema_name") or node["table_name"].lower() not in known:
                reads.add(".".join(node["qualified_name"]["path"]))
            case "TABLE_FUNCTION" if (name := node["function"].get("function_name", "").lower()) not in _ROW_MAKERS:
                reads.add(f"{name}()")
            case "SHOW_REF":
                reads.add("SHOW or DESCRIBE")
    return reads


@cache
def volatile_functions() -> frozenset[str]:
    """Return the functions of DuckDB whose result is another one each time, macros that call them included."""
    import duckdb

    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability IN ('VOLATILE',"
            " 'CONSISTENT_WITHIN_QUERY') AND function_name NOT IN ('getvariable', 'error')"
        ).fetchall()
        macros = connection.execute(
            "SELECT function_name, macro_definition FROM duckdb_functions() WHERE macro_definition IS NOT NULL"
        ).fetchall()
    names = _UNLISTED.union(name for (name,) in rows)
    calls = re.compile(rf"\b({'|'.join(map(re.escape, names))})\"?\(|\b({'|'.join(_CLOCK)})\b")
    return names.union(name for name, definition in macros if calls.search(definition))


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a parsed query; a list of what is left, because Python's stack ends before DuckDB's."""
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield node
            left.extend(node.values())
        elif isinstance(node, list):
            left.extend(node)


def _by_chance(node: dict[str, Any], volatile: Collection[str]) -> Iterator[str]:
    name = str(node.get("function_name", "")).lower()
    if name in volatile or (name == "age" and len(node.get("arguments", ())) == 1):
        yield f"{name}()"
    names: list[object] = node.get("column_names") or []
    if len(names) == 1 and str(names[0]).lower() in _CLOCK:
        yield str(names[0]).lower()
    if "sample_size" in node and not node.get("repeatable"):
        yield "a sample without REPEATABLE"


def _by_order(node: dict[str, Any]) -> Iterator[str]:
    name = str(node.get("function_name", "")).lower()
    match node.get("class"):
        case "FUNCTION" if name in _FIRST_COME and not node["order_bys"]["orders"]:
            yield f"{name}() without ORDER BY in it"
        case "WINDOW" if not node["orders"]:
            of_rows = any("ROWS" in str(node.get(end)) for end in ("start", "end"))
            if of_rows or (name in _FIRST_COME and not node.get("arg_orders")):
                yield f"{name}() OVER () without ORDER BY"
    modifiers = {entry["type"]: entry for entry in node.get("modifiers") or ()}
    if "ORDER_MODIFIER" not in modifiers:
        if modifiers.keys() & {"LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER"}:
            yield "LIMIT without ORDER BY"
        if modifiers.get("DISTINCT_MODIFIER", {}).get("distinct_on_targets"):
            yield "DISTINCT ON without ORDER BY"
    if node.get("ref_type") == "POSITIONAL":
        yield "POSITIONAL JOIN"
