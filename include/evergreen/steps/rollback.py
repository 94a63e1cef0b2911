"""``rollback``: let an earlier champion serve again, because a person says so."""

from __future__ import annotations

from collections.abc import Sequence

from evergreen.contract import ConfigurationError, Request, Result, TemporaryError
from evergreen.judgement.champions import champion_of, champions, refuse_in_backfill, served_before, settle
from evergreen.judgement.decisions import event_of
from evergreen.judgement.events import Event, EventKind, append, last_move, read_events
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.registry import Version, named_version


def run(request: Request, spec: ModelSpec) -> Result:
    """Log who rolls back and why (parameters ``by`` and ``reason``), then move the alias to ``version``.

    Without a version it is the champion before the present one. Run again, it finishes what it began, unless the
    alias was moved since.
    """
    refuse_in_backfill(request)
    reason = str(request.params.get("reason") or "").strip()
    if not reason:
        raise ConfigurationError(f"rollback of {spec.name}: reason: it is missing.", "Say why, for whoever asks later.")
    champion = champion_of(request)
    events = read_events(get_store(), spec.name)
    written = (event for event in events if event.run == request.run)  # with an alias out of place that it has noticed
    begun = next((event for event in written if event.kind is EventKind.ROLLED_BACK), None)
    if begun is None:
        _refuse_beside_another(request, champion, last_move(events))
        target = _target(request, champion, events)
        by = str(request.params.get("by") or request.run.run_id)
        previous = champion.number if champion else None
        fields = {"training": "", "by": by, "why": reason, "version": target.number, "previous": previous}
        begun = _logged(event_of(request, EventKind.ROLLED_BACK, **fields), events)
    else:
        _refuse_if_moved(request, begun, last_move(events))
        target = named_version(spec.name, str(begun.version))
    _refuse_if_moved(request, begun, settle(request))
    return Result(
        outputs=(target.output("champion"),),
        facts={"version": target.number, "previous": begun.previous, "by": begun.by, "why": begun.why},
    )


def _refuse_beside_another(request: Request, champion: Version | None, moved: Event | None) -> None:
    """Refuse to roll back what is not yet champion.

    Raises
    ------
    TemporaryError
        If the alias has still to follow the last move in the log.
    """
    if moved is not None and moved.version != (champion.number if champion else None):
        raise TemporaryError(
            f"{request.model}: version {moved.version} is becoming champion at this moment ({moved.kind.value}).",
            "Run the rollback again in a few minutes: it then knows what it rolls back.",
        )


def _target(request: Request, champion: Version | None, events: Sequence[Event]) -> Version:
    """Return the version that is to serve.

    Raises
    ------
    ConfigurationError
        If there is none, or none that has served, or it serves already.
    """
    model, requested = request.model, str(request.params.get("version") or "")
    if champion is None:
        raise ConfigurationError(f"{model} has no champion, so there is nothing to roll back.", "Train it first.")
    number = requested or served_before(events, champion.number)
    if number is None:
        raise ConfigurationError(
            f"{model} had no champion before version {champion.number}.", "Only a better challenger can replace it."
        )
    if number == champion.number:
        raise ConfigurationError(f"version {number} of {model} is champion already.", "Name an earlier one, or none.")
    target = named_version(model, number)
    served = champions(events)
    if number not in served:
        earlier = [version for version in served if version != champion.number]
        raise ConfigurationError(
            f"version {number} of {model} was never champion: a rollback goes back, only a gate lets a version pass.",
            f"Name one that was: {', '.join(earlier) or 'there is none'}.",
        )
    return target


def _logged(event: Event, seen: Sequence[Event]) -> Event:
    """Log a rollback if nobody has moved the alias meanwhile."""

    def moved_meanwhile(events: Sequence[Event]) -> str | None:
        return None if last_move(events) == last_move(seen) else "was moved by somebody else at this moment"

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
