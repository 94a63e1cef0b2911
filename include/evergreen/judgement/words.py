"""An evaluation's figures in words, as the reasons of a decision have them."""

from __future__ import annotations

import math

from evergreen.judgement.evidence import Bounds, Evaluation
from evergreen.judgement.interval import Outlook


def over_baseline(evaluation: Evaluation) -> str:
    """Return the improvement over the best prediction without a model."""
    baseline = evaluation.baseline
    if baseline is None or baseline.interval is None or baseline.score is None:
        return "no baseline"
    improvement = _improvement(evaluation, baseline.interval)
    return f"{improvement} over the baseline ({baseline.name}: {baseline.score:.4f})"


def over_champion(evaluation: Evaluation) -> str:
    """Return the improvement over the champion."""
    words = _improvement(evaluation, evaluation.interval or (math.nan,) * 3)
    if evaluation.look > 1:
        words += f" at the {evaluation.look}. look at days that overlap"
    if evaluation.unscored and evaluation.baseline:
        words += (
            f" over a champion without a finite prediction for {evaluation.unscored} of {evaluation.rows} rows, "
            f"where the baseline ({evaluation.baseline.name}) stands in"
        )
    return words


def _improvement(evaluation: Evaluation, interval: Bounds) -> str:
    improvement, low, high = interval
    confidence = f"{100 * evaluation.confidence:.4g}% interval"
    return f"improvement of {evaluation.metric} {improvement:+.4f} ({confidence} {low:+.4f} to {high:+.4f})"


def expectation(evaluation: Evaluation) -> Outlook | None:
    """Return what a promotion is expected to bring, or None if that is not known."""
    gain, harm, chance = evaluation.gain, evaluation.harm, evaluation.chance_of_harm
    if gain is None or harm is None or chance is None or not all(map(math.isfinite, (gain, harm, chance))):
        return None
    return Outlook(gain, harm, chance)


def outlook(evaluation: Evaluation) -> str:
    """Return what a promotion is expected to bring, in words."""
    expected = expectation(evaluation)
    if expected is None:
        return "nothing known of what it would gain and harm"
    chance = f"{expected.chance_of_harm:.0%} chance of harm"
    return f"expected gain {expected.gain:.4f}, expected harm {expected.harm:.4f}, {chance}"
