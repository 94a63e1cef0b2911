"""How columns go together with the label: the rows in pairs of bins, counted by day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evergreen.monitoring.baseline import ColumnBaseline, ConceptBaseline, DriftBaseline, Relation
from evergreen.monitoring.counting import added, counter_of, days_of, frame_batches
from evergreen.monitoring.learning import learn
from evergreen.spec import ModelSpec, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

_LEAST_NUMBER, _LEAST_CATEGORY = 0.05, 0.02
"""Share of the reference that a group of a column has at least. What is rarer says too little of how it goes together
with the label, should it become frequent."""
_PART_OF_EQUAL = 0.25
"""Of many categories: so much of what each had if all were equally frequent is enough."""
_LEAST_LABEL = 0.15
"""The same of a number that is the label: two of its ten bins are a group, so that there are five."""
_LEAST_RARE_LABEL = 0.02
"""Where nearly all labels are one value, as zero is of claims and sales: all others are a group if they have this."""
_FEWEST_GROUPS = 2
"""Of a column, and of the label."""
_MOST_CLASSES = 10
"""Classes that are a group of their own, the most frequent ones; the others together are one more."""
_NOT_COMPARED = -1


@dataclass(frozen=True)
class Pairs:
    """The rows of a window in the pairs of groups of each column and the label.

    Parameters
    ----------
    days
        Those that have any, in order.
    counts
        For each column a row a day, laid out like ``Relation.counts``.
    width
        How many groups the label has.
    """

    days: Sequence[str]
    counts: Mapping[str, np.ndarray]
    width: int


def with_concept(spec: ModelSpec, baseline: DriftBaseline, frame: pd.DataFrame) -> DriftBaseline:
    """Return the baseline of labelled rows, with what these rows say of the label; as it is where they say nothing."""
    if not len(frame):
        return baseline
    label = spec.features.examples.label
    frame = plain_label(spec, frame)
    values = learn([label], numeric_label(spec), frame_batches(frame, [label])).columns[label]
    if values.unjudged:
        return baseline
    inputs = {name: baseline.columns[name] for name in spec.drift.columns if name in baseline.columns}
    relations = {name: Relation(groups=_groups(of)) for name, of in inputs.items() if not of.unjudged}
    concept = ConceptBaseline(label=label, values=values, groups=_label_groups(values), relations=relations)
    for name, counts in count_pairs(inputs, concept, frame).counts.items():
        rows = tuple(tuple(row) for row in counts.tolist())
        relations[name] = relations[name].model_copy(update={"counts": rows})
    return baseline.model_copy(update={"concept": concept.model_copy(update={"relations": relations})})


def numeric_label(spec: ModelSpec) -> set[str]:
    """Return the label if it is counted as a number: that of a regression."""
    return {spec.features.examples.label} if spec.task is Task.REGRESSION else set()


def plain_label(spec: ModelSpec, frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows whose binary label is 0.0 or 1.0, whatever type it has."""
    label = spec.features.examples.label
    return frame.assign(**{label: frame[label].astype(float)}) if spec.task is Task.BINARY else frame


def label_groups(concept: ConceptBaseline) -> int:
    """Return how many groups the label has."""
    return 1 + max(concept.groups)


def count_pairs(columns: Mapping[str, ColumnBaseline], concept: ConceptBaseline, frame: pd.DataFrame) -> Pairs:
    """Return the rows of a frame in the pairs of groups, of the columns that have two groups or more."""
    import numpy as np

    of_label, width = _Groups(concept.values, concept.groups), label_groups(concept)
    grouped = {name: _Groups(columns[name], of.groups) for name, of in concept.relations.items() if max(of.groups) > 0}
    sums = {name: np.zeros(0, dtype=np.int64) for name in grouped}
    position: dict[str, int] = {}
    for batch in frame_batches(frame, [concept.label, *grouped])():
        day, label = days_of(batch, position), of_label.of(batch[concept.label])
        for name, groups in grouped.items():
            group, last = groups.of(batch[name]), groups.number * width
            pair = np.where((group < 0) | (label < 0), last, group * width + label)
            sums[name] = added(sums[name], day * (last + 1) + pair, len(position) * (last + 1))
    order = [position[day] for day in sorted(position)]
    counts = {name: rows.reshape(len(order), -1)[order] for name, rows in sums.items()}
    return Pairs(sorted(position), counts, width)


def no_two_groups(counts: np.ndarray, width: int) -> str:
    """Return of what the pairs of some days show fewer than two groups, labels or values; nothing if of neither.

    With one there is nothing that could go together: the index would be 0 whatever the other does.
    """
    import numpy as np

    table = counts[:, :-1].sum(axis=0).reshape(-1, max(width, 1))  # of a label that is always missing the width is 0
    sides = {"labels": table.sum(axis=0), "values": table.sum(axis=1)}
    return next((what for what, rows in sides.items() if np.count_nonzero(rows) < _FEWEST_GROUPS), "")


class _Groups:
    """Finds the group of each row of a column."""

    def __init__(self, column: ColumnBaseline, groups: Sequence[int]) -> None:
        import numpy as np

        self._counter = counter_of(column)
        self._groups = np.array([*groups, _NOT_COMPARED])  # the last one is that of levels that are new
        self.number = 1 + max(groups)

    def of(self, column: pa.Array) -> np.ndarray:
        """Return the group of each row; -1 where it is not compared."""
        groups: np.ndarray = self._groups[self._counter.codes(column)]
        return groups


def _groups(column: ColumnBaseline) -> tuple[int, ...]:
    """Return the group of each bin of a column: neighbours of a number together, and rare categories."""
    *shares, missing = _shares(column)
    if column.kind == "number":
        found = _neighbours(shares, _LEAST_NUMBER)
    else:
        least = min(_LEAST_CATEGORY, _PART_OF_EQUAL / max(len(column.levels), 1))
        own = [at for at, share in enumerate(shares[:-1]) if share >= least]
        rest = len(own) if sum(shares) - sum(shares[at] for at in own) >= least else _NOT_COMPARED
        found = [own.index(at) if at in own else rest for at in range(len(shares))]
    return (*found, max(found) + 1 if missing >= _LEAST_CATEGORY else _NOT_COMPARED)


def _label_groups(column: ColumnBaseline) -> tuple[int, ...]:
    """Return the group of each bin of the label: a class each, however rare; of a number about a fifth of the rows."""
    *shares, _ = _shares(column)
    if column.kind == "number":
        return (*_of_numbers(shares), _NOT_COMPARED)
    return (*(min(at, _MOST_CLASSES) if share else _NOT_COMPARED for at, share in enumerate(shares)), _NOT_COMPARED)


def _shares(column: ColumnBaseline) -> list[float]:
    import numpy as np

    rows = np.array(column.counts, dtype=np.float64).sum(axis=0)
    shares: list[float] = (rows / rows.sum()).tolist()
    return shares


def _of_numbers(shares: Sequence[float]) -> list[int]:
    """Return the group of each bin of a number that is the label; where one has nearly all rows, it or another."""
    found, bins = _neighbours(shares, _LEAST_LABEL), range(len(shares))
    most = max(bins, key=shares.__getitem__)
    others = sum(shares[at] for at in bins if at != most)
    return found if max(found) or others < _LEAST_RARE_LABEL else [int(at != most) for at in bins]


def _neighbours(shares: Sequence[float], least: float) -> list[int]:
    """Return the group of each bin: one ends where it has the least share, and the last one takes the rest."""
    found, group, reached = list[int](), 0, 0.0
    for at, share in enumerate(shares):
        if reached >= least and sum(shares[at:]) >= least:
            group, reached = group + 1, 0.0
        reached += share
        found.append(group)
    return found
