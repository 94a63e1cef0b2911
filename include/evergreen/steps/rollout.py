"""``rollout``: look at what a challenger answers beside the champion, and go on, wait or end it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from evergreen.contract import ConfigurationError, Output, Request, Result, Status, utc_now
from evergreen.judgement.audit import log_of, read_events
from evergreen.judgement.champions import champion_of, finish_move, refuse_in_backfill, tell_whether_rolled_out
from evergreen.judgement.decisions import event_of
from evergreen.judgement.events import OF_A_ROLLOUT, Event, EventKind, RolloutOutcome, RolloutStep
from evergreen.judgement.looks import expired, look
from evergreen.judgement.rollouts import Rollout, as_begun, rollout_of, step_starts
from evergreen.serving.observed import answers_of
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.loading import load_version
from evergreen.training.registry import named_version

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
        tell_whether_rolled_out(store, spec.name)
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


def _check(request: Request, spec: ModelSpec, rollout: Rollout, starts: Sequence[datetime]) -> Result:
    now, spec = utc_now(), as_begun(spec, rollout)
    facts, change = _facts(rollout), expired(spec, rollout, now)  # before anything is read: nothing can keep it alive
    if change is None:
        observed = answers_of(get_store(), spec, rollout)
        seen = look(spec, rollout, observed.rows, starts, now)
        checks = [one.model_dump(mode="json") for one in seen.found]
        facts |= {"checks": checks, "waits_for": list(seen.missing), "unreadable_files": observed.unreadable}
        if seen.change is None:
            why = "paused" if rollout.paused else "; ".join(seen.missing)
            return Result(facts={**facts, "event": None, "why": why})
        change = replace(seen.change, at={**seen.change.at, "unreadable_files": observed.unreadable})
    if change.kind is EventKind.PROMOTED:
        _refuse_unfit(request, rollout)
    by = f"{rollout.strategy} of {spec.name}"
    logged = _logged(request, rollout, change.kind, by=by, why=change.why, seen=True, **change.at)
    if isinstance(logged, str):
        return Result(facts={**facts, "event": None, "why": logged})
    return _concluded(request, logged, facts)


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
        finish_move(request, read_events(get_store(), event.model))
        outputs = (version.output("champion"),)
    if event.kind not in OF_A_ROLLOUT or event.kind is EventKind.ROLLOUT_ENDED:
        tell_whether_rolled_out(get_store(), event.model)
    said = {"event": event.kind.value, "outcome": at.outcome, "why": event.why, "by": event.by}
    place = {"rollout": at.experiment, "strategy": at.strategy, "step": at.step, "share": at.share}
    versions = {"version": event.version, "previous": event.previous}
    return Result(outputs=outputs, facts={**(facts or {}), **place, **versions, **said})


def _facts(rollout: Rollout) -> dict[str, Any]:
    place = {"rollout": rollout.experiment, "strategy": rollout.strategy, "step": rollout.step, "share": rollout.share}
    return {**place, "version": rollout.challenger, "previous": rollout.champion, "paused": rollout.paused}
