"""Evidence decides: what an evaluation found, and whether that justifies a promotion."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from evergreen.contract import Frozen, Window
from evergreen.judgement.metrics import Interval
from evergreen.spec import METRICS, Direction, Gate, ModelSpec
from evergreen.stored import OpenEnum, Part, Stored

Metrics = Annotated[dict[str, float], Field(default_factory=dict)]


class Decision(OpenEnum):
    """What a gate says."""

    FIRST_CHAMPION = "first_champion"
    PROMOTE = "promote"
    NOT_JUSTIFIED = "not_justified"


class Candidate(Part):
    """One of the two models that were compared."""

    version: str = ""
    """Registered version; empty for a challenger that is not registered yet."""
    run_id: str
    training: Window
    """What it learned from."""
    metrics: Metrics
    """Every metric that is defined and finite."""


class SliceScore(Part):
    """The deciding metric on the rows where a column has one value; None where it is not defined."""

    column: str
    value: str
    rows: int
    champion: float | None = None
    challenger: float | None = None


class Evaluation(Stored):
    """Champion and challenger on the same rows."""

    model: str
    metric: str
    """The deciding metric."""
    window: Window
    """Where the rows come from."""
    rows: int
    dataset: str
    """Address and version of the rows."""
    challenger: Candidate
    champion: Candidate | None = None
    improvement: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float
    unit: str = ""
    """What the bootstrap resampled: ``partition`` or ``row``."""
    slices: tuple[SliceScore, ...] = ()

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """Improvement with its lower and upper bound, positive when the challenger is better."""
        found = (self.improvement, self.low, self.high)
        present = [value for value in found if value is not None and math.isfinite(value)]
        return (present[0], present[1], present[2]) if len(present) == len(found) else None


class Verdict(Frozen):
    """A decision with its reasons in plain words."""

    decision: Decision
    why: str

    @property
    def passed(self) -> bool:
        """Whether the challenger may become champion."""
        return self.decision is not Decision.NOT_JUSTIFIED


def decide(evaluation: Evaluation, spec: ModelSpec) -> Verdict:
    """Say whether the challenger may become champion; a function of the evidence and the spec alone.

    Missing evidence means no: a metric that is absent or not finite, too few rows, a model that has seen the rows
    it is judged on, an interval that could not be computed.
    """
    gate = spec.gate
    objections = [*_missing(evaluation, spec), *_limits(evaluation.challenger, gate)]
    if evaluation.champion is not None:
        objections += [*_comparison(evaluation, gate), *_slices(evaluation, gate)]
    if objections:
        return Verdict(decision=Decision.NOT_JUSTIFIED, why="; ".join(objections))
    score = f"{gate.metric} {evaluation.challenger.metrics[gate.metric]:.4f} on {evaluation.window}"
    if evaluation.champion is None:
        return Verdict(
            decision=Decision.FIRST_CHAMPION, why=f"there is no champion yet, and {score} passes every limit"
        )
    return Verdict(decision=Decision.PROMOTE, why=f"{score}: {_measured(evaluation)}, better beyond noise")


def _missing(evaluation: Evaluation, spec: ModelSpec) -> Iterator[str]:
    if evaluation.rows < spec.windows.minimum_evaluation_rows:
        least = spec.windows.minimum_evaluation_rows
        yield f"missing evidence: {evaluation.rows} labelled rows in {evaluation.window}, {least} are needed"
    for name in dict.fromkeys([spec.gate.metric, *spec.gate.required, *spec.gate.limits]):
        value = evaluation.challenger.metrics.get(name)
        if value is None or not math.isfinite(value):
            yield f"missing evidence: the challenger's {name} could not be computed"
    for title, candidate in (("challenger", evaluation.challenger), ("champion", evaluation.champion)):
        if candidate is not None and candidate.training.end >= evaluation.window.start:
            yield (
                f"missing evidence: the {title} learned from {candidate.training}, "
                f"which reaches into the evaluation window {evaluation.window}"
            )


def _limits(challenger: Candidate, gate: Gate) -> Iterator[str]:
    for name, limit in gate.limits.items():
        value = challenger.metrics.get(name)
        if value is None:
            continue  # named as missing evidence
        floor = METRICS[name][1] is Direction.MAXIMIZE
        if (value < limit) if floor else (value > limit):
            yield f"the challenger's {name} of {value:.4f} is {'below' if floor else 'above'} the limit {limit:g}"


def _comparison(evaluation: Evaluation, gate: Gate) -> Iterator[str]:
    interval = evaluation.interval
    if interval is None:
        yield f"missing evidence: the improvement in {gate.metric} has no confidence interval"
    elif interval[1] <= gate.minimum_improvement:
        yield f"{_measured(evaluation)}: not better by more than {gate.minimum_improvement:g} beyond noise"


def _measured(evaluation: Evaluation) -> str:
    improvement, low, high = evaluation.interval or (math.nan,) * 3
    return (
        f"improvement of {evaluation.metric} {improvement:+.4f} "
        f"({evaluation.confidence:.0%} interval {low:+.4f} to {high:+.4f})"
    )


def _slices(evaluation: Evaluation, gate: Gate) -> Iterator[str]:
    sign = 1 if gate.direction is Direction.MAXIMIZE else -1
    for rule in gate.slices:
        scores = [score for score in evaluation.slices if score.column == rule.column]
        if not scores:
            yield f"missing evidence: no scores by {rule.column}"
        for score in scores:
            if score.rows < rule.minimum_rows:
                continue
            if score.champion is None or score.challenger is None:
                yield f"missing evidence: {gate.metric} for {rule.column}={score.value} ({score.rows} rows)"
            elif (regression := sign * (score.champion - score.challenger)) > rule.maximum_regression:
                yield (
                    f"{rule.column}={score.value}: {gate.metric} worse by {regression:.4f} "
                    f"({score.rows} rows), more than the allowed {rule.maximum_regression:g}"
                )


def with_interval(evaluation: Evaluation, interval: Interval | None) -> Evaluation:
    """Return the evaluation with a bootstrap interval in it."""
    if interval is None:
        return evaluation
    return evaluation.model_copy(
        update={
            "improvement": interval.improvement,
            "low": interval.low,
            "high": interval.high,
            "unit": interval.unit,
        }
    )
