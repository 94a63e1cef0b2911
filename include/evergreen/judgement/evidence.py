"""What an evaluation found and what a gate said: the documents that a decision is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from evergreen.contract import Window
from evergreen.judgement.observations import BehaviourResult, LateEvents
from evergreen.spec import ModelSpec
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
    error: float | None = None
    """Standard error of the deciding one, as far as the days of the window tell."""


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


class Figure(Part):
    """What a rule of the gate asks for, of both models on the same rows; None where it is not defined."""

    metric: str
    column: str = ""
    """A slice's or a sensitive one; empty: of the whole window."""
    value: str = ""
    """A value of the slice, or a group too small to be compared; empty: of the window, or between the groups."""
    minimum_rows: int
    """As the rule has it."""
    rows: int
    champion: float | None = None
    challenger: float | None = None
    detail: str = ""
    """What the challenger's comes from: the two groups that differ most, the input that is missed most."""


class Alone(Part):
    """How well one input tells the label on its own: its AUC, or of a regression its rank correlation."""

    column: str
    score: float | None = None
    """None where too few rows can tell."""


class Leaks(Part):
    """What would be too good to be true."""

    inputs: tuple[Alone, ...] = ()
    shared: float | None = None
    """Share of the rows that the training window has too, inputs and label alike."""
    chance: float | None = None
    """What that share is, at most, on nine of ten days of the training window, in its other days."""
    late: LateEvents | None = None
    """None where rows have no time, and in documents of old."""


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
    """Of the interval, two-sided; it is stricter than the gate's, which all looks share."""
    look: int = 1
    """Which judgement of challengers of this champion it is, of those whose windows overlap."""
    gain: float | None = None
    """What a promotion is expected to gain, each improvement weighed by its likelihood, in the deciding metric."""
    harm: float | None = None
    """What it is expected to harm."""
    chance_of_harm: float | None = None
    unit: str = ""
    """What counted as one observation: ``partition``; in documents of old also ``row``."""
    effective_partitions: float | None = None
    """How many independent days the window is worth."""
    baseline: Baseline | None = None
    """Present when there is no champion, or when it has no finite prediction for some row."""
    unscored: int = 0
    """Rows for which the champion has no finite prediction: the baseline stands in for it."""
    slices: tuple[SliceScore, ...] = ()
    figures: tuple[Figure, ...] = ()
    """What ``gate.rules`` ask for."""
    behaviours: tuple[BehaviourResult, ...] = ()
    """What ``behaviours.yaml`` asks for."""
    leaks: Leaks | None = None
    """None in documents of old: nobody looked."""
    pictures: dict[str, str] = Field(default_factory=dict)
    """Name -> the SHA-256 of each picture of it: whoever signs the evaluation signs them too."""


class Verdict(OpenEnum):
    """What one check of a gate came to."""

    PASSED = "passed"
    FAILED = "failed"
    WARNING = "warning"
    """It speaks against the challenger, and is not asked to decide."""
    NOT_JUDGED = "not_judged"
    """The evidence is too weak to say."""


class Check(Part):
    """One thing that a gate has asked, and the answer."""

    rule: str
    """The field of model.yaml that asks."""
    subject: str = ""
    """Of what: a metric, a value of a slice, one of the two models."""
    value: float | None = None
    limit: float | None = None
    rows: int | None = None
    """On how many rows the value stands."""
    verdict: Verdict = Verdict.PASSED
    why: str = ""
    """In words, unless it is passed and its figures say it all."""


class GateResult(Part):
    """A decision with its reasons in plain words."""

    decision: Decision
    why: str
    checks: tuple[Check, ...] = ()
    """All that was asked."""

    @property
    def passed(self) -> bool:
        """Whether the challenger may become champion."""
        return self.decision.passed

    @property
    def unjudged(self) -> tuple[str, ...]:
        """What the evidence is too weak to judge, most often values of slices."""
        return said(self.checks, Verdict.NOT_JUDGED)


def worst_first(slices: Iterable[SliceScore]) -> list[SliceScore]:
    """Return the values of slices in the order of the improvement, those without one last."""
    return sorted(slices, key=lambda part: (part.improvement is None, part.improvement or 0.0))


def said(checks: Iterable[Check], verdict: Verdict) -> tuple[str, ...]:
    """Return what the checks of one verdict have to say."""
    return tuple(check.why for check in checks if check.verdict is verdict)


def unseen(candidate: Candidate, window: Window, spec: ModelSpec) -> bool:
    """Return whether all labels that a model learned from were known before a window began."""
    return spec.first_unseen(candidate.training) <= window.start
