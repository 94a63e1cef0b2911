"""Which versions have been champion, as the decision log tells, and where the registry says otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta

from evergreen.contract import ConfigurationError, Request, utc_now
from evergreen.judgement.decisions import event_of
from evergreen.judgement.events import MOVES, Event, EventKind, append, last_move, read_events
from evergreen.pipelines import dag_id
from evergreen.store import ArtifactStore, get_store
from evergreen.training.registry import CHAMPION, Version, by_alias, by_number, set_alias, set_tags

log = logging.getLogger(__name__)

_UNDER_WAY = timedelta(minutes=10)
"""So long after a promotion or a rollback is logged the alias may still be where it was."""
_MOVED = "moved"
"""Tag of a version: the number of the last event of the log that the alias was moved to it for."""


def refuse_in_backfill(request: Request) -> None:
    """Stop a step that would move an alias from a backfill: history must not decide what serves today.

    Raises
    ------
    ConfigurationError
        If the step runs in a DAG called ``<model>.backfill``.
    """
    if request.run.dag_id == dag_id(request.model, "backfill"):
        raise ConfigurationError(
            f"{request.step} of {request.model} runs in {request.run.dag_id}: a backfill never moves a model alias.",
            f"Run {request.model}.train for the partition instead.",
        )


def champion_of(request: Request) -> Version | None:
    """Return the champion; if the log of decisions knows of another, it is told where the alias was seen."""
    champion = by_alias(request.model, CHAMPION)
    notice(get_store(), request, champion)
    return champion


def notice(store: ArtifactStore, request: Request, champion: Version | None) -> None:
    """Log where the alias ``champion`` is, unless that is where the log says it is."""
    seen = champion.number if champion else None
    moved = last_move(read_events(store, request.model))
    expected = moved.version if moved else None
    if seen == expected or (moved is not None and _under_way(request, moved, seen)):
        return
    why = f"the alias champion was seen at version {seen or 'none'}; the log of decisions has {expected or 'none'}"
    log.warning("%s: %s", request.model, why)
    event = event_of(request, EventKind.ALIAS_MOVED, training="", why=why, version=seen, previous=expected)

    def seen_already(events: Sequence[Event]) -> Event | None:
        now = last_move(events)
        return now if now is not None and now.version == seen else None

    append(store, event, seen_already)


def _under_way(request: Request, moved: Event, seen: str | None) -> bool:
    """Tell whether the alias has still to follow a move; steps log it first, and the alias follows within moments."""
    if moved.kind is EventKind.ALIAS_MOVED or moved.version is None or moved.previous != seen:
        return False
    if moved.run != request.run and utc_now() - moved.at > _UNDER_WAY:
        return False
    return by_number(request.model, moved.version).tags.get(_MOVED) != str(moved.number)


def settle(request: Request) -> Event:
    """Move the alias to where the log says it is; returns the event that says so.

    Of two who move it at once, each puts it where the newest event says after its own, so the newest has the last word.
    If it is somewhere else already, where no step had put it, that is logged and it stays there.
    """
    store, model = get_store(), request.model
    while True:
        moved = last_move(read_events(store, model))
        assert moved is not None  # noqa: S101  # whoever calls has logged a move
        if moved.kind is EventKind.ALIAS_MOVED or moved.version is None:
            return moved
        champion = by_alias(model, CHAMPION)
        if (champion.number if champion else None) not in {moved.version, moved.previous}:
            notice(store, request, champion)
            continue
        target = by_number(model, moved.version)
        set_alias(target, CHAMPION)
        set_tags(target, {_MOVED: moved.number})
        if last_move(read_events(store, model)) == moved:
            return moved


def champions(events: Iterable[Event]) -> list[str]:
    """Return the versions that have been champion, each once, the oldest first."""
    moves = [event for event in events if event.kind in MOVES]
    served = [version for move in moves for version in (move.previous, move.version)]
    return list(dict.fromkeys(version for version in served if version is not None))


def served_before(events: Sequence[Event], version: str) -> str | None:
    """Return the version that served before a champion first did, or None if there was none.

    What a rollback brings back is not asked what it replaced then: rolled back again, it gives way to the one before.
    """
    ways = [event for event in reversed(events) if event.kind in MOVES and event.version == version]
    forward = [event for event in ways if event.kind is not EventKind.ROLLED_BACK]
    return next((event.previous for event in forward), None)
