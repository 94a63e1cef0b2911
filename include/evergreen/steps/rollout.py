"""``rollout``: look at what a challenger answers beside the champion, and go on, wait or end it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from evergreen.contract import ConfigurationError, Output, Request, Result, Status, utc_now
from evergreen.judgement.audit import log_of, read_events
from evergreen.judgement.champions import champion_of, finish_move, refuse_in_backfill
from evergreen.judgement.decisions import event_of
from evergreen.judgement.events import OF_A_ROLLOUT, Event, EventKind, Guarded, RolloutOutcome, RolloutStep
from evergreen.judgement.guardrails import AT, ENTITY, OUTCOME, VARIANT, judge
from evergreen.judgement.notices import tell_rollout
from evergreen.judgement.rollouts import Rollout, rollout_of, step_starts
from evergreen.serving.observed import answers_of
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.loading import load_version
from evergreen.training.registry import REPLACED, named_version, set_tags

if TYPE_CHECKING:
    import pandas as pd

_KINDS = {
    "pause": EventKind.ROLLOUT_PAUSED,
    "resume": EventKind.ROLLOUT_RESUMED,
    "finish": EventKind.PROMOTED,
    "roll_back": EventKind.ROLLOUT_ENDED,
}
_OUTCOMES = {EventKind.PROMOTED: RolloutOutcome.FINISHED, EventKind.ROLLOUT_ENDED: RolloutOutcome.ROLLED_BACK}


def run(request: Request, spec: ModelSpec) -> Result:
    """Do what parameter ``action`` says: ``check``, or what a person decides with a ``reason``.

    A check ends the rollout where a guardrail is broken, also while it is paused; else it goes to the next step when
    the present one has shown enough, and after the last one it promotes. A check that changes nothing leaves no
    record; its figures are in the manifest. Run again, it finishes what it began.
    """
    refuse_in_backfill(request)
    action, reason = _asked(request)
    store = get_store()
    events = read_events(store, spec.name)
    begun = next((event for event in events if event.run == request.run and event.rollout is not None), None)
    if begun is not None:
        return _concluded(request, begun)
    rollout = rollout_of(events)
    if rollout is None:
        finish_move(request, events)  # of a check that was killed between its record and the alias
        tell_rollout(store, spec.name, under_way=False)
        if action == "check":
            return Result(status=Status.SKIPPED, reason="no rollout is under way")
        raise ConfigurationError(f"{action}: no rollout of {spec.name} is under way.", "Look: evergreen history.")
    if action == "check":
        return _check(request, spec, rollout, step_starts(events, rollout))
    by = str(request.params.get("by") or request.run.run_id)
    return _act(request, rollout, action, by, reason)


def _asked(request: Request) -> tuple[str, str]:
    """Return what is asked for, and why."""
    action = str(request.params.get("action") or "check")
    reason = str(request.params.get("reason") or "").strip()
    if action not in {"check", *_KINDS}:
        known = ", ".join(["check", *_KINDS])
        raise ConfigurationError(f"rollout of {request.model}: action: {action!r} is none.", f"Use one of {known}.")
    if action != "check" and not reason:
        raise ConfigurationError(f"rollout of {request.model}: reason: it is missing.", "Say why, for who asks later.")
    return action, reason


def _act(request: Request, rollout: Rollout, action: str, by: str, reason: str) -> Result:
    """Do what a person has decided, whatever a check does at the same moment."""
    if (action, rollout.paused) in {("pause", True), ("resume", False)}:
        state = "paused" if rollout.paused else "not paused"
        return Result(status=Status.SKIPPED, reason=f"the rollout of version {rollout.challenger} is {state} already")
    kind = _KINDS[action]
    if kind is EventKind.PROMOTED:
        _refuse_unfit(request, rollout)
    logged = _logged(request, rollout, kind, by=by, why=reason)
    if isinstance(logged, str):
        raise ConfigurationError(f"{action} of {request.model}: {logged}.", "Look, then decide again.")
    return _concluded(request, logged)


def _check(request: Request, spec: ModelSpec, rollout: Rollout, starts: Sequence[Any]) -> Result:
    rows = answers_of(get_store(), spec, rollout)
    found = judge(spec, rows, starts) if len(rows) else ()
    missing = [*_missing(spec, rollout, rows), *_unmeasured(spec, found)]
    facts = {**_facts(rollout), "checks": [one.model_dump(mode="json") for one in found], "waits_for": missing}
    event = _decision(request, spec, rollout, found, missing)
    if event is None:
        why = "paused" if rollout.paused else "; ".join(missing)
        return Result(facts={**facts, "event": None, "why": why})
    kind, why, at = event
    if kind is EventKind.PROMOTED:
        _refuse_unfit(request, rollout)
    logged = _logged(request, rollout, kind, by=f"{rollout.strategy} of {spec.name}", why=why, seen=True, **at)
    if isinstance(logged, str):
        return Result(facts={**facts, "event": None, "why": logged})
    return _concluded(request, logged, facts)


def _decision(
    request: Request, spec: ModelSpec, rollout: Rollout, found: Sequence[Guarded], missing: Sequence[str]
) -> tuple[EventKind, str, dict[str, Any]] | None:
    """Return what a check writes down: the event, why, and what it changes; None if it writes nothing."""
    evidence = tuple(found)
    if broken := [_in_words(one) for one in found if one.broken]:
        return EventKind.ROLLOUT_ENDED, "; ".join(broken), {"evidence": evidence}
    if utc_now() - rollout.started > timedelta(days=spec.delivery.maximum_days):
        why = f"undecided after {spec.delivery.maximum_days} days: {'; '.join(missing) or 'it is paused'}"
        return EventKind.ROLLOUT_ENDED, why, {"evidence": evidence, "outcome": RolloutOutcome.EXPIRED}
    if rollout.paused or missing:
        return None
    stages, following = spec.delivery.stages, rollout.step + 1
    if spec.delivery.strategy != rollout.strategy or following >= len(stages):
        return EventKind.PROMOTED, "no guardrail is broken", {"evidence": evidence}
    stage = stages[following]
    moved = {"step": following, "share": stage.share, "shadow": stage.shadow, "evidence": evidence}
    return EventKind.ROLLOUT_MOVED, "no guardrail is broken", moved


def _missing(spec: ModelSpec, rollout: Rollout, rows: pd.DataFrame) -> list[str]:
    """Return what the present step has still to show."""
    delivery, inside = spec.delivery, rows[rows[AT] >= rollout.since] if len(rows) else rows
    missing = []
    waited = (utc_now() - rollout.since).total_seconds() / 60
    if waited < delivery.minimum_minutes:
        missing.append(f"{waited:.0f} of {delivery.minimum_minutes} minutes have passed")
    is_last = rollout.step + 1 >= len(delivery.stages)
    for variant in ("champion", "challenger"):
        of = inside[inside[VARIANT] == variant]
        counts = [
            (len(of), delivery.minimum_requests, "requests"),
            (of[ENTITY].nunique(), delivery.minimum_entities, "entities"),
            (int(of[OUTCOME].notna().sum()), delivery.minimum_labels if is_last else 0, "outcomes"),
        ]
        missing += [f"the {variant} has {have} of {need} {what}" for have, need, what in counts if have < need]
    return missing


def _unmeasured(spec: ModelSpec, found: Sequence[Guarded]) -> list[str]:
    """Return the guardrails that nothing is known of: that is no reason to go on; without labels to wait for it is."""
    optional = set() if spec.delivery.minimum_labels else {"metric_drop"}
    return [f"{one.guardrail} cannot be told yet" for one in found if one.low is None and one.guardrail not in optional]


def _in_words(one: Guarded) -> str:
    measured = f"{one.challenger:.4g} against {one.champion:.4g}, " if one.challenger is not None else ""
    return f"{one.guardrail}: {measured}worse by at least {one.low:.4g}, and {one.limit:g} is allowed"


def _refuse_unfit(request: Request, rollout: Rollout) -> None:
    """Refuse to promote what nobody would load, or while the alias is where no step has put it."""
    champion_of(request)
    load_version(named_version(request.model, rollout.challenger))


def _logged(
    request: Request, rollout: Rollout, kind: EventKind, *, by: str, why: str, seen: bool = False, **at: Any
) -> Event | str:
    """Log what becomes of a rollout, as it stands at that very moment; or return why that cannot be.

    ``seen``: only if nothing has happened to it since it was looked at.
    """

    def state(events: Sequence[Event]) -> Event | str:
        now = rollout_of(events)
        if now is None or now.experiment != rollout.experiment:
            return f"the rollout of version {rollout.challenger} has ended meanwhile"
        if seen and now != rollout:
            return f"the rollout of version {rollout.challenger} was changed at this moment"
        kept = {name: getattr(now, name) for name in ("experiment", "strategy", "share", "shadow", "step", "salt")}
        given = {**kept, "split_by": now.split_by, "outcome": _OUTCOMES.get(kind), **at}
        about = {"training": now.training, "partition": now.partition, "by": by, "why": why}
        versions = {"version": now.challenger, "previous": now.champion}
        return event_of(request, kind, rollout=RolloutStep(**given), **about, **versions)

    return log_of(get_store(), request.model).append(state)


def _concluded(request: Request, event: Event, facts: dict[str, Any] | None = None) -> Result:
    """Bring the alias and the notice to what is logged, and return that as the step's result."""
    at = event.rollout
    assert at is not None  # noqa: S101  # an event of a rollout
    outputs: tuple[Output, ...] = ()
    if event.kind is EventKind.PROMOTED:
        version = named_version(event.model, str(event.version))
        set_tags(version, {REPLACED: event.previous or "0"})
        finish_move(request, read_events(get_store(), event.model))
        outputs = (version.output("champion"),)
    if event.kind not in OF_A_ROLLOUT or event.kind is EventKind.ROLLOUT_ENDED:
        tell_rollout(get_store(), event.model, under_way=rollout_of(read_events(get_store(), event.model)) is not None)
    said = {"event": event.kind.value, "outcome": at.outcome, "why": event.why, "by": event.by}
    place = {"rollout": at.experiment, "strategy": at.strategy, "step": at.step, "share": at.share}
    versions = {"version": event.version, "previous": event.previous}
    return Result(outputs=outputs, facts={**(facts or {}), **place, **versions, **said})


def _facts(rollout: Rollout) -> dict[str, Any]:
    place = {"rollout": rollout.experiment, "strategy": rollout.strategy, "step": rollout.step, "share": rollout.share}
    return {**place, "version": rollout.challenger, "previous": rollout.champion, "paused": rollout.paused}
