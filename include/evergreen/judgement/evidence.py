"""Evidence decides: what an evaluation found, and whether that justifies a promotion: see :data:`RULES`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Annotated

from pydantic import Field

from evergreen.contract import Frozen, Window
from evergreen.spec import METRICS, Direction, ModelSpec, Slice
from evergreen.stored import OpenEnum, Part, Stored

Metrics = Annotated[dict[str, float], Field(default_factory=dict)]
Bounds = tuple[float, float, float]
"""An improvement, its lower and its upper bound."""


class Decision(OpenEnum):
    """What a gate says."""

    FIRST_CHAMPION = "first_champion"
    PROMOTE = "promote"
    NOT_JUSTIFIED = "not_justified"

    @property
    def passed(self) -> bool:
        """Whether the challenger may become champion; one that only a newer version understands is no yes."""
        return self in {Decision.FIRST_CHAMPION, Decision.PROMOTE}


class Candidate(Part):
    """One of the two models that were compared."""

    version: str = ""
    """Registered version; empty for a challenger that is not registered yet."""
    run_id: str
    training: Window
    """What it learned from."""
    metrics: Metrics
    """Every metric that is defined and finite."""


class Compared(Part):
    """How much better the challenger is than what it is compared with."""

    improvement: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> Bounds | None:
        """Improvement with its lower and upper bound, positive when the challenger is better."""
        bounds = [value for value in (self.improvement, self.low, self.high) if value is not None]
        finite = [value for value in bounds if math.isfinite(value)]
        return (finite[0], finite[1], finite[2]) if len(finite) == 3 else None


class Baseline(Compared):
    """The best prediction that needs no model, on the same rows: what a first champion has to beat."""

    name: str
    """``constant``, or what a regression's newest known labels say: ``last day``, ``last 7 days``."""
    score: float | None = None
    """Its deciding metric; None where it is not defined."""


class SliceScore(Compared):
    """The deciding metric on the rows where a column has one value; None where it is not defined."""

    column: str
    value: str
    rows: int
    partitions: int = 0
    champion: float | None = None
    challenger: float | None = None


class Evaluation(Compared, Stored):
    """Champion and challenger on the same rows."""

    model: str
    metric: str
    """The deciding metric."""
    window: Window
    """Where the rows come from."""
    rows: int
    partitions: int = 0
    """On how many days they are."""
    dataset: str
    """Address and version of the rows."""
    challenger: Candidate
    champion: Candidate | None = None
    confidence: float
    """Of the interval, two-sided; it is stricter than the gate's, which all its looks share."""
    unit: str = ""
    """What counted as one observation: ``partition``; in documents of old also ``row``."""
    effective_partitions: float | None = None
    """How many independent days the window is worth."""
    baseline: Baseline | None = None
    """Present when there is no champion, or when it has no finite prediction for some row."""
    unscored: int = 0
    """Rows for which the champion has no finite prediction: the baseline stands in for it."""
    slices: tuple[SliceScore, ...] = ()


class GateResult(Frozen):
    """A decision with its reasons in plain words."""

    decision: Decision
    why: str
    unjudged: tuple[str, ...] = ()
    """Values of slices that the evidence is too weak to judge."""

    @property
    def passed(self) -> bool:
        """Whether the challenger may become champion."""
        return self.decision.passed


def unseen(candidate: Candidate, window: Window, spec: ModelSpec) -> bool:
    """Return whether all labels that a model learned from were known before a window began."""
    return spec.first_unseen(candidate.training) <= window.start


def _enough_rows_and_days(evaluation: Evaluation, spec: ModelSpec) -> Iterator[str]:
    rows, days = spec.windows.minimum_evaluation_rows, spec.windows.minimum_evaluation_partitions
    if evaluation.rows < rows:
        yield f"missing evidence: {evaluation.rows} labelled rows in {evaluation.window}, {rows} are needed"
    if evaluation.partitions < days:
        yield (
            f"missing evidence: labelled rows on {evaluation.partitions} days of {evaluation.window}, "
            f"{days} days are needed"
        )


def _metrics_known(evaluation: Evaluation, spec: ModelSpec) -> Iterator[str]:
    for name in dict.fromkeys([spec.gate.metric, *spec.gate.required, *spec.gate.limits]):
        value = evaluation.challenger.metrics.get(name)
        if value is None or not math.isfinite(value):
            yield f"missing evidence: the challenger's {name} could not be computed"


def _window_unseen(evaluation: Evaluation, spec: ModelSpec) -> Iterator[str]:
    delay = spec.features.examples.label_delay_days
    late = f" (labels are known {delay} days later)" if delay else ""
    for title, candidate in (("challenger", evaluation.challenger), ("champion", evaluation.champion)):
        if candidate is not None and not unseen(candidate, evaluation.window, spec):
            yield (
                f"missing evidence: the {title} learned from {candidate.training}, "
                f"which reaches into the evaluation window {evaluation.window}{late}"
            )


def _within_limits(evaluation: Evaluation, spec: ModelSpec) -> Iterator[str]:
    for name, limit in spec.gate.limits.items():
        value = evaluation.challenger.metrics.get(name)
        if value is None:
            continue  # named as missing evidence
        floor = METRICS[name][1] is Direction.MAXIMIZE
        if (value < limit) if floor else (value > limit):
            yield f"the challenger's {name} of {value:.4f} is {'below' if floor else 'above'} the limit {limit:g}"


def _better_than_no_model(evaluation: Evaluation, _: ModelSpec) -> Iterator[str]:
    """Where there is no champion to be better than, a challenger has to beat the best trivial prediction."""
    if evaluation.champion is not None:
        return
    interval = evaluation.baseline.interval if evaluation.baseline else None
    if interval is None:
        yield f"missing evidence: whether {evaluation.metric} is better than a trivial baseline's could not be computed"
    elif interval[1] <= 0:
        yield f"{_over_baseline(evaluation)}: no better beyond noise than without a model"


def _better_than_champion(evaluation: Evaluation, spec: ModelSpec) -> Iterator[str]:
    if evaluation.champion is None:
        return
    least = spec.gate.minimum_improvement
    if evaluation.interval is None:
        yield f"missing evidence: the improvement in {spec.gate.metric} has no confidence interval"
    elif evaluation.interval[1] <= least:
        yield f"{_over_champion(evaluation)}: not better by more than {least:g} beyond noise"


def _no_slice_worse(evaluation: Evaluation, spec: ModelSpec) -> Iterator[str]:
    for rule, scores in _slices(evaluation, spec):
        if not scores:
            yield f"missing evidence: no scores by {rule.column}"
        yield from filter(None, (_regression(score, rule, spec) for score in scores))
        if rule.required and any(_unjudged(rule, scores, spec)):
            yield f"missing evidence: gate.slices requires every {rule.column} to be judged"


RULES: tuple[Callable[[Evaluation, ModelSpec], Iterator[str]], ...] = (
    _enough_rows_and_days,
    _metrics_known,
    _window_unseen,
    _within_limits,
    _better_than_no_model,
    _better_than_champion,
    _no_slice_worse,
)
"""What a challenger is asked: each rule yields every reason why it must not become champion, in words, or nothing."""


def decide(evaluation: Evaluation, spec: ModelSpec) -> GateResult:
    """Say whether the challenger may become champion; a function of the evidence and the spec alone.

    It may if none of the :data:`RULES` objects. Missing evidence means no: a metric that is absent or not finite, too
    few rows or days, a model that has seen what it is judged on, an interval that could not be computed.
    """
    if objections := [objection for rule in RULES for objection in rule(evaluation, spec)]:
        decision, why = Decision.NOT_JUSTIFIED, "; ".join(objections)
    else:
        decision = Decision.PROMOTE if evaluation.champion else Decision.FIRST_CHAMPION
        why = _in_favour(evaluation, spec.gate.metric)
    unjudged = [words for rule, scores in _slices(evaluation, spec) for words in _unjudged(rule, scores, spec)]
    if unjudged:
        more = f" and {len(unjudged) - _SHOWN} more" if len(unjudged) > _SHOWN else ""
        why += f"; not judged: {', '.join(unjudged[:_SHOWN])}{more}"
    return GateResult(decision=decision, why=why, unjudged=tuple(unjudged))


_SHOWN = 10
"""Values of slices that a reason names; the evaluation has them all."""


def _in_favour(evaluation: Evaluation, metric: str) -> str:
    score = f"{metric} {evaluation.challenger.metrics[metric]:.4f} on {evaluation.window}"
    if evaluation.champion is None:
        return f"there is no champion yet, and {score} passes every limit: {_over_baseline(evaluation)}"
    return f"{score}: {_over_champion(evaluation)}, better beyond noise"


def _over_baseline(evaluation: Evaluation) -> str:
    baseline = evaluation.baseline
    if baseline is None or baseline.interval is None or baseline.score is None:
        return "no baseline"
    improvement = _improvement(evaluation, baseline.interval)
    return f"{improvement} over the baseline ({baseline.name}: {baseline.score:.4f})"


def _over_champion(evaluation: Evaluation) -> str:
    words = _improvement(evaluation, evaluation.interval or (math.nan,) * 3)
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


def _slices(evaluation: Evaluation, spec: ModelSpec) -> Iterator[tuple[Slice, list[SliceScore]]]:
    """Yield the columns whose every value is compared with the champion, each with the scores of its values."""
    for rule in spec.gate.slices if evaluation.champion else ():
        yield rule, [score for score in evaluation.slices if score.column == rule.column]


def _regression(score: SliceScore, rule: Slice, spec: ModelSpec) -> str:
    """Return why a value speaks against the challenger: it is worse beyond noise, however few its rows are."""
    where, metric = f"{rule.column}={score.value}", spec.gate.metric
    if score.interval is None:
        enough = score.rows >= rule.minimum_rows and score.partitions >= spec.windows.minimum_evaluation_partitions
        return f"missing evidence: {metric} for {where} ({score.rows} rows)" if enough else ""
    improvement, low, high = score.interval
    if -improvement <= rule.maximum_regression or high >= 0:
        return ""
    return (
        f"{where}: {metric} worse by {-improvement:.4f} (interval {-high:.4f} to {-low:.4f}, {score.rows} rows), "
        f"more than the allowed {rule.maximum_regression:g}"
    )


def _unjudged(rule: Slice, scores: list[SliceScore], spec: ModelSpec) -> Iterator[str]:
    """Yield the values of a column that the evidence is too weak to judge, each with the reason."""
    for score in scores:
        weakness = _weakness(score, rule, spec)
        if weakness and not _regression(score, rule, spec):
            yield f"{rule.column}={score.value} ({weakness})"


def _weakness(score: SliceScore, rule: Slice, spec: ModelSpec) -> str:
    """Return why a value's evidence is too weak to say that it is not worse than allowed."""
    if score.rows < rule.minimum_rows:
        return f"{score.rows} rows of {rule.minimum_rows}"
    if score.partitions < spec.windows.minimum_evaluation_partitions:
        return f"{score.partitions} days of {spec.windows.minimum_evaluation_partitions}"
    if score.interval and -score.interval[0] > rule.maximum_regression:
        return f"worse by {-score.interval[0]:.4f}, but within noise"
    return ""
