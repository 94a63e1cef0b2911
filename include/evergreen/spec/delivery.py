"""How a challenger that may be promoted gets its traffic: the section ``delivery`` of model.yaml."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, model_validator

from evergreen.contract import Frozen
from evergreen.field_types import Columns, Count, Days, Number

_MINUTES_A_DAY = 24 * 60


class Strategy(enum.StrEnum):
    """The ways to a promotion."""

    DIRECT = "direct"
    SHADOW = "shadow"
    CANARY = "canary"
    AB = "ab"
    BLUE_GREEN = "blue_green"


class Stage(Frozen):
    """One step of a strategy."""

    share: float
    """Of the entities whose answer is the challenger's, from 0 to 1."""
    shadow: bool = False
    """Whether the challenger also answers what nobody sees."""


class Guardrails(Frozen):
    """What ends a rollout: the challenger is worse than the champion by more than this, beyond chance."""

    error_rate: Number | None = Field(default=0.01, ge=0, lt=1)
    """Share of what a variant was asked that ended in an error."""
    slow_rate: Number | None = Field(default=None, ge=0, lt=1)
    """Share of answers for which the variant's graph took longer than ``graph_ms``."""
    graph_ms: Number | None = Field(default=None, gt=0)
    prediction_shift: Number | None = Field(default=0.3, ge=0, lt=1)
    """The Kolmogorov-Smirnov distance of what both answer; of several outputs, the largest."""
    metric_drop: Number | None = Field(default=None, ge=0)
    """Of ``gate.metric``, from feedback and labels."""
    alpha: Number = Field(default=0.05, gt=0, le=0.5)
    """The chance that a rollout of a challenger that is no worse is ended by any of them, however often one looks."""

    @property
    def active(self) -> dict[str, float]:
        """The limit of each guardrail that is on."""
        names = ("error_rate", "slow_rate", "prediction_shift", "metric_drop")
        limits = {name: getattr(self, name) for name in names}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @model_validator(mode="after")
    def _complete(self) -> Guardrails:
        if (self.slow_rate is None) != (self.graph_ms is None):
            raise ValueError("slow_rate and graph_ms need each other: how many may be slower than what")
        if not self.active:
            raise ValueError("none is on: a rollout that nothing can end is a direct promotion; use strategy direct")
        return self


def _rising(steps: tuple[float, ...]) -> tuple[float, ...]:
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError(f"a rollout goes up: write {', '.join(f'{step:g}' for step in sorted(set(steps)))}")
    return steps


Percent = Annotated[Number, Field(gt=0, le=100)]


class Delivery(Frozen):
    """Of one model. A first champion, which replaces nothing, is promoted directly."""

    strategy: Strategy = Strategy.DIRECT
    steps: Annotated[tuple[Percent, ...], AfterValidator(_rising)] = Field(default=(5.0, 25.0, 50.0), min_length=1)
    """Of a canary: the percentages of entities that the challenger answers, one after another."""
    share: Percent = Field(default=50.0, lt=100)
    """Of an A/B test: the percentage of entities that the challenger answers."""
    split_by: Columns = ()
    """Whose values decide who answers; empty: the entity keys."""
    minimum_requests: Count = Field(default=1000, ge=1)
    """Of each variant, before a step ends."""
    minimum_entities: Count = Field(default=100, ge=2)
    """Different values of ``split_by`` of each variant, before a step ends; more where a guardrail needs more."""
    minimum_minutes: Count = Field(default=30, ge=0)
    """Before a step ends."""
    minimum_labels: Count = Field(default=0, ge=0)
    """Answers of each variant whose outcome is known, before the last step ends."""
    check_minutes: Count = Field(default=5, ge=1, le=_MINUTES_A_DAY)
    """Between two looks."""
    maximum_days: Days = Field(default=14, ge=1)
    """A rollout that is undecided for longer ends, and the champion stays."""
    guardrails: Guardrails = Guardrails()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What the challenger gets, step by step; none if it is promoted directly."""
        match self.strategy:
            case Strategy.DIRECT:
                return ()
            case Strategy.CANARY:
                return tuple(Stage(share=step / 100) for step in self.steps)
            case Strategy.AB:
                return (Stage(share=self.share / 100),)
            case _:
                return (Stage(share=0, shadow=True),)

    @property
    def in_full(self) -> dict[str, JsonValue]:
        """The section with every default written out, so that it says the same when a default has changed."""
        of = {"steps": Strategy.CANARY, "share": Strategy.AB}
        return self.model_dump(mode="json", exclude={name for name, one in of.items() if self.strategy is not one})

    @model_validator(mode="after")
    def _consistent(self) -> Delivery:
        if problem := next(self._problems(), None):
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        """Yield what contradicts what; a field that says nothing under a strategy is no plan that somebody meant."""
        for field, of in (("steps", Strategy.CANARY), ("share", Strategy.AB)):
            if field in self.model_fields_set and self.strategy is not of:
                yield f"{field}: only the strategy {of} has any, and this is {self.strategy}"
        if self.minimum_labels and self.guardrails.metric_drop is None:
            yield "minimum_labels: nothing asks what the labels say; set guardrails.metric_drop"
        if self.minimum_labels and self.strategy is Strategy.BLUE_GREEN:
            yield "minimum_labels: the warm-up of blue_green waits for none; shadow does"
        shortest = len(self.stages) * self.minimum_minutes
        if shortest >= self.maximum_days * _MINUTES_A_DAY:
            yield (
                f"maximum_days: {self.maximum_days} days end before {len(self.stages)} steps of {self.minimum_minutes} "
                "minutes can"
            )
