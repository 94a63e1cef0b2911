"""``drift.html``: the verdict, what was found of each column, the pictures, and Evidently's report below."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape

from evergreen.monitoring.proposal import ColumnDrift

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2733 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #dfe4ea; text-align: right; vertical-align: top }
th:first-child, td:first-child, td:last-child, th:last-child { text-align: left }
tr.drift { background: #fdf0e3 } b.drift { color: #a63603 } .verdict { font-size: 1.1rem; padding: .6rem 1rem;
background: #eef2f6; border-left: .4rem solid #0072b2 } .verdict.drift { background: #fdf0e3; border-color: #d55e00 }
img { max-width: 100% } iframe { width: 100%; height: 60rem; border: 1px solid #dfe4ea }
"""
_HEAD = ("column", "drifted", "by", "index", "limit", "p", "missing before", "missing now", "what else")
"""One index of each column, by name: the one furthest beyond its limit, or else nearest to it."""


def page(
    title: str,
    facts: Mapping[str, str],
    verdict: str,
    columns: Mapping[str, ColumnDrift],
    pictures: Mapping[str, bytes],
    evidently: str,
) -> str:
    """Return the report of a partition as one file that needs no other.

    Parameters
    ----------
    title, facts
        What is compared with what.
    verdict
        It decides the colour; the sentence is among the facts.
    columns
        What was found of each.
    pictures
        Alternative text to PNG.
    evidently
        Evidently's own report; empty if there is none.
    """
    rows = "".join(_rows(columns))
    images = "".join(
        f'<p><img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(image).decode()}"></p>'
        for text, image in pictures.items()
    )
    said = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    below = (
        "<h2>Evidently's report</h2><p>A sample of the rows, with Evidently's bins: it decides nothing.</p>"
        f'<iframe title="Evidently" srcdoc="{escape(evidently)}"></iframe>'
        if evidently
        else ""
    )
    heads = "".join(f"<th>{name}</th>" for name in _HEAD)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f'<h1>{escape(title)}</h1><dl class="verdict {escape(verdict)}">{said}</dl>'
        f"<h2>Columns</h2><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{images}{below}</html>"
    )


def _rows(columns: Mapping[str, ColumnDrift]) -> Iterator[str]:
    """Yield a row for each column, those that drifted first."""
    for name, column in sorted(columns.items(), key=lambda item: not item[1].drifted):
        missing = [f"{share:.1%}" for share in column.missing or ()] or ["", ""]
        cells = [escape(name), *_cells(column), *missing, escape("; ".join(_remarks(column)))]
        mark = ' class="drift"' if column.drifted else ""
        yield f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _cells(column: ColumnDrift) -> list[str]:
    """Return whether a column has drifted, and the index that says so."""
    said, kind = "yes" if column.drifted else "no", column.deciding
    if not kind:
        return [said, "", "", "", ""]
    index = column.indices[kind]
    value = f"{index.value:.3f}"
    shown = f'<b class="drift">{value}</b>' if column.passed(kind) else value
    return [said, kind, shown, f"{index.limit:.3f}", "" if index.p_value is None else f"{index.p_value:.2g}"]


def _remarks(column: ColumnDrift) -> Iterator[str]:
    if column.passed("values"):
        yield "the values moved"
    if column.passed("missing"):
        yield "the share of missing values moved"
    if column.new:
        yield column.new_values
    if column.far:
        yield column.far_values
    if column.note:
        yield f"{column.note}, so no index of its values"
