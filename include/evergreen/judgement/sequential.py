"""Tests that may be looked at every minute: what they say holds at all times at once, with one chance to be wrong.

A bound of each variant holds at all sizes of its sample together, so looking often makes no alarm likelier. A
challenger is worse for certain when the lower bound of its own figure lies above the upper one of the champion's.
The two need not be independent for that: in the shadow they answer the same rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_HALF = 0.5
"""Both parameters of the beta distribution over what a rate may be; this one fits rates near 0 well."""
_TUNED_FOR = 200
"""The number of entities at which an asymptotic bound is narrowest."""
ENOUGH_FOR_NORMAL = 100
"""Entities below which nothing is said that rests on a normal approximation."""


def bounds_of_rate(hits: int, rows: int, alpha: float) -> tuple[float, float]:
    """Return the rates that are plausible, at every number of rows at once.

    For every rate p the beta mixture of likelihood ratios against p is a martingale that starts at 1 if p is true,
    so it ever reaches 1 / alpha with chance alpha at most (Ville). It is exact: at rates near 0 nothing is
    approximated, and no hit at all does not mean that there is no doubt.

    Parameters
    ----------
    hits, rows
        How many of so many rows, each independent of the others, have the property.
    alpha
        The chance that the true rate ever lies outside.
    """
    if rows == 0:
        return 0.0, 1.0
    share = hits / rows

    def is_plausible(rate: float) -> bool:
        likelihood = _log(rate, hits) + _log(1 - rate, rows - hits)
        return _log_beta(hits, rows) - likelihood < -math.log(alpha)

    return _edge(is_plausible, share, 0.0), _edge(is_plausible, share, 1.0)


def _log(value: float, times: int) -> float:
    return times * math.log(value) if times and value > 0 else (-math.inf if times else 0.0)


def _log_beta(hits: int, rows: int) -> float:
    """Return the logarithm of B(a + hits, a + rows - hits) / B(a, a)."""
    own = math.lgamma(_HALF + hits) + math.lgamma(_HALF + rows - hits) - math.lgamma(2 * _HALF + rows)
    return own - (2 * math.lgamma(_HALF) - math.lgamma(2 * _HALF))


def _edge(is_plausible: object, inside: float, outside: float) -> float:
    """Return where the plausible rates end between one that is and a limit; rounded outwards."""
    assert callable(is_plausible)  # noqa: S101  # a closure of this module
    if is_plausible(outside):
        return outside
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_plausible(middle) else (inside, middle)
    return outside


def width_of_distribution(rows: int, alpha: float) -> float:
    """Return how far an empirical distribution may lie from the true one, anywhere and at every number of rows.

    At one size n the chance of more than e is 2 exp(-2 n e^2) at most (Dvoretzky, Kiefer, Wolfowitz; Massart). Size n
    is given alpha / (n (n + 1)) of the chance, and these add up to alpha.
    """
    return math.sqrt(math.log(2 * rows * (rows + 1) / alpha) / (2 * rows)) if rows else 1.0


def distance(champion: np.ndarray, challenger: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples, neither of them empty."""
    import numpy as np

    both = np.concatenate([champion, challenger])
    shares = [np.searchsorted(np.sort(one), both, side="right") / len(one) for one in (champion, challenger)]
    return float(np.abs(shares[0] - shares[1]).max())


def width_of_mean(error: float, entities: int, alpha: float) -> float:
    """Return how far an estimate may lie from what it estimates, at every number of entities: asymptotically.

    The confidence sequence of a mean by a Gaussian mixture (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024).

    Parameters
    ----------
    error
        The standard error, between entities.
    entities
        How many independent entities it comes from.
    alpha
        The chance that the truth ever lies outside.
    """
    if entities < ENOUGH_FOR_NORMAL:
        return math.inf
    tuned = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / _TUNED_FOR
    grown = entities * tuned + 1
    return error * math.sqrt(2 * grown / (entities * tuned) * math.log(math.sqrt(grown) / alpha))


def chance_of_block(number: int) -> float:
    """Return the part of a chance that one of ever so many blocks of a rollout has, counted from 0: they add to 1."""
    return 1 / ((number + 1) * (number + 2))
