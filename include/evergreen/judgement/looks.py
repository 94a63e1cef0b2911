"""What a look at a rollout comes to: it goes on, it ends, or it waits and says for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from evergreen.judgement.events import EventKind, Guarded, RolloutOutcome
from evergreen.judgement.guardrails import (
    AT,
    CHALLENGER,
    CHAMPION,
    ENTITY,
    METRIC_DROP,
    OUTCOME,
    VARIANT,
    entities_needed,
    judge,
    outputs_of,
)
from evergreen.judgement.rollouts import Rollout
from evergreen.spec import ModelSpec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Change:
    """What becomes of a rollout.

    Parameters
    ----------
    kind
        Of the event.
    why
        In words.
    at
        What the event says of the rollout that it did not say before.
    """

    kind: EventKind
    why: str
    at: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Look:
    """What a look has found.

    Parameters
    ----------
    found
        By guardrail.
    missing
        What the present step has still to show, in words.
    change
        What becomes of the rollout; None if it stays where it is.
    """

    found: tuple[Guarded, ...]
    missing: tuple[str, ...]
    change: Change | None


def expired(spec: ModelSpec, rollout: Rollout, now: datetime) -> Change | None:
    """Return the end of a rollout that has taken too long, which needs no look at what was answered."""
    days = spec.delivery.maximum_days
    if now - rollout.started <= timedelta(days=days):
        return None
    why = f"undecided after {days} days; the manifests of its checks say what it waited for"
    return Change(EventKind.ROLLOUT_ENDED, why, {"outcome": RolloutOutcome.EXPIRED})


def look(spec: ModelSpec, rollout: Rollout, rows: pd.DataFrame, starts: Sequence[datetime], now: datetime) -> Look:
    """Judge a rollout by what was answered until now.

    Parameters
    ----------
    spec
        The model, as the rollout began with it.
    rollout
        Where it stands.
    rows
        What was answered, as `judge` takes it.
    starts
        When each of its steps began.
    now
        The time.
    """
    found = judge(spec, rows, starts) if len(rows) else ()
    missing = (*_missing(spec, rollout, rows, now), *_unmeasured(spec, rollout, found))
    return Look(found, missing, _change(spec, rollout, found, missing))


def _change(spec: ModelSpec, rollout: Rollout, found: tuple[Guarded, ...], missing: Sequence[str]) -> Change | None:
    evidence = {"evidence": found}
    if broken := [_in_words(one) for one in found if one.broken]:
        return Change(EventKind.ROLLOUT_ENDED, "; ".join(broken), evidence)
    if rollout.paused or missing:
        return None
    stages, following = spec.delivery.stages, rollout.step + 1
    if following >= len(stages):
        return Change(EventKind.PROMOTED, "no guardrail is broken", evidence)
    stage = stages[following]
    moved = {"step": following, "share": stage.share, "shadow": stage.shadow}
    return Change(EventKind.ROLLOUT_MOVED, "no guardrail is broken", moved | evidence)


def _missing(spec: ModelSpec, rollout: Rollout, rows: pd.DataFrame, now: datetime) -> list[str]:
    """Return what the present step has still to show."""
    delivery, inside = spec.delivery, rows[rows[AT] >= rollout.since] if len(rows) else rows
    missing = []
    if delivery.strategy != rollout.strategy:
        missing.append(f"it began as {rollout.strategy}, with steps that nobody kept: roll_back or finish")
    waited = (now - rollout.since).total_seconds() / 60
    if waited < delivery.minimum_minutes:
        missing.append(f"{waited:.0f} of {delivery.minimum_minutes} minutes have passed")
    labels = delivery.minimum_labels if rollout.step + 1 >= len(delivery.stages) else 0
    needed = entities_needed(delivery.guardrails, rollout.step, len(outputs_of(rows)))
    entities = max([delivery.minimum_entities, *needed.values()])
    for variant in (CHAMPION, CHALLENGER):
        of = inside[inside[VARIANT] == variant]
        counts = [
            (len(of), delivery.minimum_requests, "requests"),
            (of[ENTITY].nunique(), entities, "entities"),
            (int(of[OUTCOME].notna().sum()), labels, "outcomes"),
        ]
        missing += [f"the {variant} has {have} of {need} {what}" for have, need, what in counts if have < need]
    return missing


def _unmeasured(spec: ModelSpec, rollout: Rollout, found: Sequence[Guarded]) -> list[str]:
    """Return the guardrails that nothing is known of: that is no reason to go on; without labels to wait for it is."""
    waits = spec.delivery.minimum_labels and rollout.step + 1 >= len(spec.delivery.stages)
    optional = set() if waits else {METRIC_DROP}
    return [f"{one.guardrail} cannot be told yet" for one in found if one.low is None and one.guardrail not in optional]


def _in_words(one: Guarded) -> str:
    measured = f"{one.challenger:.4g} against {one.champion:.4g}, " if one.challenger is not None else ""
    return f"{one.guardrail}: {measured}worse by at least {one.low:.4g}, and {one.limit:g} is allowed"
