"""Has the label's relation to an input changed? Counts of pairs against what the reference's odds ratios expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from evergreen.monitoring.baseline import ConceptBaseline, DriftBaseline
from evergreen.monitoring.binning import psi
from evergreen.monitoring.calibration import (
    FEWEST_DAYS,
    LEAST_INDEX,
    Calibration,
    DailyCounts,
    IndexFunction,
    Test,
    calibrate,
)
from evergreen.monitoring.counting import count, frame_batches
from evergreen.monitoring.drift import FEWEST_VALUES, column_drift, daily_counts
from evergreen.monitoring.proposal import ColumnDrift, ConceptDrift, Index
from evergreen.monitoring.relations import Pairs, count_pairs, label_groups, no_two_groups, plain_label
from evergreen.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_SMOOTHING = 0.5
"""Rows added to each pair of the reference, as is usual for odds ratios (Haldane 1956, Anscombe 1956)."""
_ROUNDS, _CLOSE = 100, 1e-6
"""Fitting ends when each margin is met to this part of the rows: after 1 to 7 rounds on the flights, more where an
input all but tells the label."""


def compare_concept(spec: ModelSpec, reference: DriftBaseline, frame: pd.DataFrame) -> ConceptDrift:
    """Compare how the inputs of labelled rows go together with the label, and the label itself, with a reference.

    Limits are always calibrated: no fixed one is known to be usual.
    """
    concept, why = reference.concept, _insufficient(spec, reference, len(frame))
    if concept is None or why:
        return ConceptDrift(verdict="insufficient", why=why or "almost every row of the reference has its own label")
    monitored = {name: of for name, of in concept.relations.items() if name in spec.drift.columns}
    concept, frame = concept.model_copy(update={"relations": monitored}), plain_label(spec, frame)
    pairs = count_pairs(reference.columns, concept, frame)
    related = {of.column: of for of in _daily_pairs(concept)}
    tested = [*related.values(), daily_counts(concept.label, concept.values)]
    calibration = calibrate(tested, len(reference.days), len(pairs.days), len(frame))
    notes = {name: ColumnDrift(note=of.unjudged) for name, of in reference.columns.items() if of.unjudged}
    columns = notes | {name: _relation(spec, name, related, pairs, calibration) for name in monitored}
    of_label = count({concept.label: concept.values}, frame_batches(frame, [concept.label]))
    columns[concept.label] = column_drift(spec, concept.label, concept.values, of_label, calibration)
    found = ConceptDrift(verdict="stable", label=concept.label, columns=columns)
    return found.model_copy(update={"verdict": _verdict(found), "why": _why(found)})


def _insufficient(spec: ModelSpec, reference: DriftBaseline, rows: int) -> str:
    """Return why there is no verdict, or nothing."""
    least = spec.drift.minimum_rows
    if min(reference.rows, rows) < least:
        return f"{reference.rows} reference and {rows} current labelled rows: {least} of each are needed"
    days = len(reference.days)
    return f"the reference has {days} days, and limits need {FEWEST_DAYS} or more" if days < FEWEST_DAYS else ""


def _verdict(found: ConceptDrift) -> str:
    if not _judged(found):
        return "insufficient"
    return "drift" if found.changed else "stable"


def relation_psi(width: int) -> IndexFunction:
    """Return the index of a relation, over counts of pairs with so many groups of the label.

    The reference's pairs are fitted to the margins of the current ones, which keeps its odds ratios. So neither other
    inputs nor another share of a class is a difference: only another association is.
    """

    def index(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
        before, now = (pairs[..., :-1].reshape(*pairs.shape[:-1], -1, width) for pairs in (reference, current))
        expected = fitted(before + _SMOOTHING, now)
        return psi(expected.reshape(*expected.shape[:-2], -1), current[..., :-1])

    return index


def fitted(tables: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return tables with their own odds ratios and the margins of other ones (iterative proportional fitting).

    Parameters
    ----------
    tables, current
        (..., rows, columns); all cells of ``tables`` are positive.
    """
    import numpy as np

    rows, columns = (current.sum(axis=axis, keepdims=True) for axis in (-1, -2))
    close = _CLOSE * np.maximum(rows.sum(axis=-2, keepdims=True), 1)
    for _ in range(_ROUNDS):
        tables = tables * rows / tables.sum(axis=-1, keepdims=True).clip(min=np.finfo(float).tiny)
        tables = tables * columns / tables.sum(axis=-2, keepdims=True).clip(min=np.finfo(float).tiny)
        if (np.abs(tables.sum(axis=-1, keepdims=True) - rows) <= close).all():
            break
    return tables


def _daily_pairs(concept: ConceptBaseline) -> Iterator[DailyCounts]:
    """Yield what the limits of relations are learned from.

    The index is in proportion to how much of the label there is to explain, p(1 - p) of a binary one: so is its least
    limit, else a rare class could turn and stay below it.
    """
    import numpy as np

    width = label_groups(concept)
    for name, relation in concept.relations.items():
        counts = np.array(relation.counts, dtype=np.float64)
        if not counts.size or no_two_groups(counts, width):
            continue
        classes = counts[:, :-1].sum(axis=0).reshape(-1, width).sum(axis=0)
        impurity = 1 - float(((classes / classes.sum()) ** 2).sum())
        yield DailyCounts(name, counts, {"relation": relation_psi(width)}, least=LEAST_INDEX * min(1.0, 2 * impurity))


def _relation(
    spec: ModelSpec, name: str, related: Mapping[str, DailyCounts], pairs: Pairs, calibration: Calibration
) -> ColumnDrift:
    import numpy as np

    if name not in related:
        what = "labels" if name in pairs.counts else "values"
        return ColumnDrift(note=f"no two {what} that are frequent enough")
    before, now = (counts.sum(axis=0).astype(np.float64) for counts in (related[name].counts, pairs.counts[name]))
    fewest = min(spec.drift.minimum_rows, FEWEST_VALUES)
    if min(before[:-1].sum(), now[:-1].sum()) < fewest:
        return ColumnDrift(note=f"fewer than {fewest} values")
    if what := no_two_groups(pairs.counts[name], pairs.width):
        return ColumnDrift(note=f"no two {what} in the window")
    value = float(related[name].indices["relation"](before, now))
    test: Test = (name, "relation")
    index = Index(value=value, limit=calibration.limit(test), p_value=calibration.p_value(test, value))
    return ColumnDrift(indices={"relation": index}, drifted=value >= index.limit)


def _why(found: ConceptDrift) -> str:
    """Return what was found in words."""
    judged, changed = _judged(found), found.changed
    said = [f"{len(changed)} of {judged} relations to {found.label} changed"]
    said[0] = said[0] if judged else f"no relation to {found.label} can be judged"
    said[0] += f": {', '.join(changed)}" if changed else ""
    if found.label_drifted:
        said.append("its own values moved")
    said += [f"{names} not judged: {note}" for note, names in _not_judged(found)]
    return "; ".join(said)


def _judged(found: ConceptDrift) -> int:
    """Return how many inputs have an index of their relation to the label."""
    return sum("relation" in column.indices for column in found.columns.values())


def _not_judged(found: ConceptDrift) -> Iterator[tuple[str, str]]:
    inputs = {name: column for name, column in found.columns.items() if name != found.label}
    for note in dict.fromkeys(column.note for column in inputs.values() if column.note):
        yield note, ", ".join(name for name, column in inputs.items() if column.note == note)
