"""Which rollout of a model is under way, and where it stands: the audit log, folded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from secrets import token_hex

from pydantic import JsonValue

from evergreen.contract import DataError
from evergreen.judgement.events import MOVES, Event, EventKind, RolloutStep
from evergreen.spec import Delivery, Guardrails, ModelSpec

_GO_ON = frozenset({EventKind.ROLLOUT_MOVED, EventKind.ROLLOUT_PAUSED, EventKind.ROLLOUT_RESUMED})


@dataclass(frozen=True)
class Rollout:
    """A challenger on its way to the traffic.

    Parameters
    ----------
    experiment
        By which the prediction log knows its rows; no other rollout has it.
    strategy
        ``shadow``, ``canary``, ``ab`` or ``blue_green``.
    champion, challenger
        The versions.
    share
        Of the entities whose answer is the challenger's, from 0 to 1. It holds while the rollout is paused.
    shadow
        Whether the challenger also answers what nobody sees.
    step
        Of the strategy's steps, from 0.
    salt, split_by
        What decides, with the values of these columns, which variant answers.
    paused
        Whether it stays at its step until a person resumes it.
    started, since
        When it began, and when its present step did.
    training, partition
        The training that the challenger came from.
    delivery
        The section of model.yaml that it began with; empty if it began before that was kept.
    number
        Of the newest event about it: who decides on an older one is late.
    """

    experiment: str
    strategy: str
    champion: str
    challenger: str
    share: float
    shadow: bool
    step: int
    salt: str
    split_by: tuple[str, ...]
    paused: bool
    started: datetime
    since: datetime
    training: str
    partition: date
    delivery: Mapping[str, JsonValue]
    number: int


def first_step(spec: ModelSpec, version: str) -> RolloutStep:
    """Return where a rollout of a version begins; who answers whom differs between rollouts."""
    stage = spec.delivery.stages[0]
    return RolloutStep(
        experiment=f"{version}-{token_hex(4)}",
        strategy=spec.delivery.strategy,
        share=stage.share,
        shadow=stage.shadow,
        salt=token_hex(8),
        split_by=spec.split_by,
        delivery=spec.delivery.in_full,
    )


def as_begun(spec: ModelSpec, rollout: Rollout) -> ModelSpec:
    """Return a model as a rollout is judged: with the steps, minima and limits that the rollout began with.

    Who edits model.yaml meanwhile changes the next rollout: a canary whose steps are fewer now is not at its end.

    Raises
    ------
    DataError
        If what was kept cannot be read.
    """
    if not rollout.delivery:
        return spec
    kept = {name: value for name, value in rollout.delivery.items() if name in Delivery.model_fields}
    limits = kept.get("guardrails")
    if isinstance(limits, dict):
        kept["guardrails"] = {name: value for name, value in limits.items() if name in Guardrails.model_fields}
    try:
        return spec.model_copy(update={"delivery": Delivery.model_validate(kept)})
    except ValueError as error:
        raise DataError(
            f"{spec.name}: the rollout {rollout.experiment} began with a section delivery that is none now: {error}",
            f"End it: trigger {spec.name}.deliver with the action roll_back, or finish.",
        ) from error


def step_starts(events: Sequence[Event], rollout: Rollout) -> list[datetime]:
    """Return when each step of a rollout began."""
    begun = {EventKind.ROLLOUT_STARTED, EventKind.ROLLOUT_MOVED}
    return [
        event.at
        for event in events
        if event.kind in begun and event.rollout is not None and event.rollout.experiment == rollout.experiment
    ]


def rollout_of(events: Sequence[Event]) -> Rollout | None:
    """Return the rollout that is under way, or None.

    It ends by an event that says so, by the start of another, and by every move of the alias ``champion``: a
    promotion finishes it or comes before it, a rollback takes it back whatever version it names.

    Parameters
    ----------
    events
        What has happened to a model, oldest first.
    """
    under_way: Rollout | None = None
    for event in events:
        if event.kind in MOVES or event.kind is EventKind.ROLLOUT_ENDED:
            under_way = None
        elif event.kind is EventKind.ROLLOUT_STARTED and event.rollout is not None:
            under_way = _started(event, event.rollout)
        elif event.kind in _GO_ON and under_way is not None and event.rollout is not None:
            under_way = _gone_on(under_way, event, event.rollout)
    return under_way


def _started(event: Event, at: RolloutStep) -> Rollout:
    return Rollout(
        experiment=at.experiment,
        strategy=at.strategy,
        champion=str(event.previous),
        challenger=str(event.version),
        share=at.share,
        shadow=at.shadow,
        step=at.step,
        salt=at.salt,
        split_by=at.split_by,
        paused=False,
        started=event.at,
        since=event.at,
        training=event.training,
        partition=event.partition,
        delivery=at.delivery,
        number=event.number,
    )


def _gone_on(rollout: Rollout, event: Event, at: RolloutStep) -> Rollout:
    if at.experiment != rollout.experiment:  # of one that has ended
        return rollout
    moved = event.kind is EventKind.ROLLOUT_MOVED
    return replace(
        rollout,
        share=at.share,
        shadow=at.shadow,
        step=at.step,
        since=event.at if moved else rollout.since,
        paused=event.kind is EventKind.ROLLOUT_PAUSED,
        number=event.number,
    )
