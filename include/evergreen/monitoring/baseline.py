"""What a version learned from, as counts a day: it travels with the version, and drift is measured against it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from evergreen.stored import Part, Stored

PREDICTION = "prediction"
"""The column of what the champion predicts; counted and judged like an input."""


class Level(Part):
    """A category that the reference knows."""

    rows: int
    first: int
    """The first day it was seen on, as a position in ``days``."""
    last: int


class ColumnBaseline(Part):
    """The bins of a column, and the rows in each of them on each day."""

    kind: Literal["number", "category"]
    edges: tuple[float, ...] = ()
    """Of a number: where its bins end; the first and the last are open."""
    levels: tuple[str, ...] = ()
    """Of a category: those with a bin of their own, the most frequent ones."""
    known: dict[str, Level] = Field(default_factory=dict)
    """Of a category: every level. One that is not here is new."""
    counts: tuple[tuple[int, ...], ...] = ()
    """A row a day. The bins; of a category then all its other levels together; last the missing values."""
    lowest: float | None = None
    highest: float | None = None
    unjudged: str = ""
    """Why the column cannot be compared, in words; empty if it can."""


class Relation(Part):
    """How a column goes together with the label: the rows in each pair of their groups on each day."""

    groups: tuple[int, ...]
    """The group of each bin of the column, the missing values last; -1: too rare to be compared."""
    counts: tuple[tuple[int, ...], ...] = ()
    """A row a day. The pairs, those of the column's first group first; last the rows that are not compared. Empty
    where the column has no two groups."""


class ConceptBaseline(Part):
    """What the rows that a champion learned from say of the label; counts, and no row."""

    label: str
    values: ColumnBaseline
    """The label's own bins and counts."""
    groups: tuple[int, ...]
    """The group of each bin of the label; -1: there were no such rows."""
    relations: dict[str, Relation]


class DriftBaseline(Stored):
    """``baseline.json``: what the rows that a champion learned from, or those of a year ago, were like."""

    days: tuple[str, ...]
    rows: int
    columns: dict[str, ColumnBaseline]
    concept: ConceptBaseline | None = None
    """None of rows without labels, and in versions of before it was stored."""
