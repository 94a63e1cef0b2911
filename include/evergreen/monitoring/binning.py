"""Bins that are learned from a reference and stay as they are, and the index over their counts."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BINS = 10
"""Bins of a number, as many quantiles of the reference: the usual number for the population stability index."""
FEW_VALUES = 20
"""A number with at most so many different values is counted value by value."""
_ONE_VALUE = 1e-6
"""Numbers that differ by less than this share of their size are one value: float32 keeps seven digits."""
_EMPTY = 1e-4
"""The share that an empty bin counts as (Evidently's ``get_binned_data``)."""
_LEAST_SHARE = 0.01
"""A share of missing or new rows counts as at least 1 % and at most 99 %: else 0.1 % against none would be drift."""


def edges_of(values: np.ndarray) -> list[float]:
    """Return where the bins of a number end, learned from the known values of a reference.

    The outer bins are open, so that no far value can move them. Edges lie between values, never on one: the last bit of
    a value that many rows have must not send them to another bin.
    """
    import numpy as np

    distinct = np.unique(values)
    if not distinct.size:
        return []
    apart = np.diff(distinct) > _ONE_VALUE * np.maximum(np.abs(distinct[1:]), np.abs(distinct[:-1]))
    if apart.sum() < FEW_VALUES:
        return _edges_between(np.split(distinct, np.flatnonzero(apart) + 1))
    wanted = np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf")
    below = np.unique(np.searchsorted(distinct, wanted))
    below = below[below < distinct.size - 1]
    return [float(edge) for edge in (distinct[below] + distinct[below + 1]) / 2]


def _edges_between(groups: list[np.ndarray]) -> list[float]:
    """Return edges a third of the way to the next value: what lies between two values is neither of them."""
    ends = [(float(group[0]), float(group[-1])) for group in groups]
    gaps = [after[0] - before[1] for before, after in pairwise(ends)]
    outer = min(gaps) if gaps else 3 * _ONE_VALUE * max(1.0, *(abs(end) for end in ends[0]))
    reach = [outer, *gaps, outer]
    return [
        edge
        for (low, high), (before, after) in zip(ends, pairwise(reach), strict=True)
        for edge in (low - before / 3, high + after / 3)
    ]


def psi(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return the population stability index over the counts in the last axis; leading axes are broadcast.

    Empty bins are filled as Evidently does it: an empty bin counts as 0.0001, or as a millionth of the smallest share
    on its side when that is no more than 0.0001. A bin that is empty on both sides says nothing and adds nothing.
    """
    import numpy as np

    before, now = _shares(reference), _shares(current)
    terms = np.where((reference == 0) & (current == 0), 0.0, (before - now) * np.log(before / now))
    index: np.ndarray = terms.sum(axis=-1)
    return index


def _shares(counts: np.ndarray) -> np.ndarray:
    import numpy as np

    shares = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    least = np.where(shares > 0, shares, np.inf).min(axis=-1, keepdims=True)
    filled: np.ndarray = np.where(shares > 0, shares, np.where(least <= _EMPTY, least / 1e6, _EMPTY))
    return filled


def share_psi(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return the index over two bins from the share of one: missing or present, new or known."""
    import numpy as np

    before, now = (np.clip(shares, _LEAST_SHARE, 1 - _LEAST_SHARE) for shares in (reference, current))
    index: np.ndarray = (now - before) * (np.log(now / before) - np.log((1 - now) / (1 - before)))
    return index


def values_psi(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return the index of a column's values, from counts whose last bin are the missing rows."""
    return psi(reference[..., :-1], current[..., :-1])


def missing_psi(reference: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return the index of missing rows against present ones, from the same counts."""
    return share_psi(missing_share(reference), missing_share(current))


def missing_share(counts: np.ndarray) -> np.ndarray:
    """Return the share of missing rows, from counts whose last bin they are."""
    import numpy as np

    share: np.ndarray = counts[..., -1] / np.maximum(counts.sum(axis=-1), 1)
    return share
