"""``rollback``: let an earlier champion serve again, because a person says so."""

from __future__ import annotations

from collections.abc import Sequence

from evergreen.contract import ConfigurationError, Request, Result, TemporaryError
from evergreen.judgement.audit import append, read_events
from evergreen.judgement.champions import (
    champions,
    notice,
    refuse_in_backfill,
    served_before,
    settle,
    tell_whether_rolled_out,
    under_way,
)
from evergreen.judgement.decisions import event_of
from evergreen.judgement.events import MOVES, Event, EventKind, last_move
from evergreen.judgement.rollouts import rollout_of
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.loading import load_version
from evergreen.training.registry import CHAMPION, Version, by_alias, named_version

_NONE = "none"
"""The parameter ``version``, where no version is to serve."""


def run(request: Request, spec: ModelSpec) -> Result:
    """Log who rolls back and why (parameters ``by`` and ``reason``), then move the alias to ``version``.

    Without a version it is the champion before the present one; while a rollout is under way, it is the champion, and
    the rollout ends, as it does by every rollback. When a rollout has ended since the champion was moved, the version
    has to be named: whoever means that rollout would take away the champion. Where the alias was moved past the audit
    log, it is the champion that the log has. With ``none`` nothing serves, and the next challenger is a first one. Run
    again, it finishes what it began, unless the champion was moved since.
    """
    refuse_in_backfill(request)
    reason = str(request.params.get("reason") or "").strip()
    if not reason:
        raise ConfigurationError(f"rollback of {spec.name}: reason: it is missing.", "Say why, for whoever asks later.")
    events = read_events(get_store(), spec.name)
    begun = next((event for event in events if event.run == request.run and event.kind is EventKind.ROLLED_BACK), None)
    if begun is None:
        target = _target(request, events)
        by, moved = str(request.params.get("by") or request.run.run_id), last_move(events)
        previous = moved.version if moved else None
        if target is not None:
            load_version(target)  # which verifies it: what nobody would load must not become champion
        version = target.number if target else None
        fields = {"training": "", "by": by, "why": reason, "version": version, "previous": previous}
        begun = _logged(event_of(request, EventKind.ROLLED_BACK, **fields), moved)
    else:
        _refuse_if_moved(request, begun, last_move(events))
        target = named_version(spec.name, begun.version) if begun.version else None
    _refuse_if_moved(request, begun, settle(request, from_anywhere=True))
    tell_whether_rolled_out(get_store(), spec.name)
    return Result(
        outputs=(target.output("champion"),) if target else (),
        facts={"version": begun.version, "previous": begun.previous, "by": begun.by, "why": begun.why},
    )


def _target(request: Request, events: Sequence[Event]) -> Version | None:
    """Return the version that is to serve, or None if none is to.

    Raises
    ------
    ConfigurationError
        If there is none, or none that has served, or it serves already.
    TemporaryError
        If the alias has still to follow the last move in the log: nobody rolls back what is not yet champion.
    """
    model, requested = request.model, str(request.params.get("version") or "")
    alias, moved = by_alias(model, CHAMPION), last_move(events)
    seen, champion = alias.number if alias else None, moved.version if moved else None
    if seen is None and champion is None and not (requested and champions(events)):
        raise ConfigurationError(f"{model} has no champion, so there is nothing to roll back.", "Train it first.")
    if moved is not None and seen != champion and under_way(moved, seen, request.run):
        raise TemporaryError(
            f"{model}: version {champion} is becoming champion at this moment ({moved.kind.value}).",
            "Run the rollback again in a few minutes: it then knows what it rolls back.",
        )
    out_of_place, rollout = notice(get_store(), request, alias), rollout_of(events)
    if requested == _NONE:
        return None
    if out_of_place:
        number = requested or out_of_place.previous
        hint = f"Name the version that is to serve: --to {seen} takes over where the alias is."
    else:
        number = requested or (rollout.champion if rollout else _before(events, model, str(champion)))
        hint = "Only a better challenger can replace it."
    if number is None:
        raise ConfigurationError(f"{model} had no champion before version {champion or seen}.", hint)
    if number == champion == seen and rollout is None:
        raise ConfigurationError(f"version {number} of {model} is champion already.", "Name an earlier one, or none.")
    target = named_version(model, number)
    served = [version for version in champions(events) if version != champion]
    if number not in {*served, champion, seen}:
        raise ConfigurationError(
            f"version {number} of {model} was never champion: a rollback goes back, only a gate lets a version pass.",
            f"Name one that was: {', '.join(served) or 'there is none'}.",
        )
    return target


def _before(events: Sequence[Event], model: str, champion: str) -> str | None:
    """Return the version that served before the champion.

    Raises
    ------
    ConfigurationError
        If a rollout has ended since the champion was moved: the traffic is back with the champion already.
    """
    earlier, kinds = served_before(events, champion), {*MOVES, EventKind.ROLLOUT_ENDED}
    newest = next(event for event in reversed(events) if event.kind in kinds)
    if newest.kind is EventKind.ROLLOUT_ENDED:
        raise ConfigurationError(
            f"the rollout of version {newest.version} of {model} has ended ({newest.why}), and version {champion}, the "
            f"champion, answers everything.",
            f"To take that away too, name the version that is to serve: --to {earlier or _NONE}.",
        )
    return earlier


def _logged(event: Event, seen: Event | None) -> Event:
    """Log a rollback if nobody has moved the alias meanwhile."""

    def moved_meanwhile(events: Sequence[Event]) -> str | None:
        return None if last_move(events) == seen else "was moved by somebody else at this moment"

    written = append(get_store(), event, moved_meanwhile)
    if isinstance(written, str):
        raise ConfigurationError(f"the champion of {event.model} {written}.", "Look, then decide again.")
    return written


def _refuse_if_moved(request: Request, begun: Event, moved: Event | None) -> None:
    if moved is not None and moved != begun:
        raise ConfigurationError(
            f"the rollback to version {begun.version} is done, and the champion of {request.model} was moved since: "
            f"it is version {moved.version} ({moved.kind.value}).",
            "A new rollback needs a new run.",
        )
