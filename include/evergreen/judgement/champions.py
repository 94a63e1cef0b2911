"""Which versions have been champion, as the audit log tells, and what happens where the registry says otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta

from evergreen.contract import ConfigurationError, Request, RunIdentity, StepError, utc_now
from evergreen.judgement.audit import append, read_events
from evergreen.judgement.decisions import event_of
from evergreen.judgement.events import MOVES, OF_THE_ALIAS, Event, EventKind, last_move
from evergreen.judgement.notices import tell_rollout
from evergreen.judgement.rollouts import rollout_of
from evergreen.pipelines import dag_id
from evergreen.store import ArtifactStore, get_store
from evergreen.training.registry import (
    CHAMPION,
    REPLACED,
    Version,
    by_alias,
    by_number,
    remove_alias,
    set_alias,
    set_tags,
)

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
    """Return the champion, which is the one that the audit log has.

    Raises
    ------
    ConfigurationError
        If the alias was moved past the log: nobody has decided that this version serves.
    """
    champion = by_alias(request.model, CHAMPION)
    if moved := notice(get_store(), request, champion):
        raise out_of_place(moved)
    return champion


def out_of_place(seen: Event) -> ConfigurationError:
    """Return the refusal of an alias that was moved past the log, which says who should do what."""
    return _moved_past(seen.model, seen.version, seen.previous)


def refuse_if_moved(model: str) -> None:
    """Refuse an alias ``champion`` that is not where the log says; goes on if the log cannot be read.

    Raises
    ------
    ConfigurationError
        If the alias was moved past the log. Nothing is written down: this is for a person who only looks.
    """
    try:
        moved = last_move(read_events(get_store(), model))
    except StepError as error:
        log.warning("%s: whether the alias is where it was put cannot be told: %s", model, error)
        return
    if displaced := _displaced(moved, by_alias(model, CHAMPION)):
        raise _moved_past(model, *displaced)


def _displaced(
    moved: Event | None, champion: Version | None, run: RunIdentity | None = None
) -> tuple[str | None, str | None] | None:
    """Return the versions at which the alias is and ought to be after the last move; None if all is well."""
    seen, expected = champion.number if champion else None, moved.version if moved else None
    if seen == expected or (moved is not None and under_way(moved, seen, run)):
        return None
    return seen, expected


def _moved_past(model: str, seen: str | None, expected: str | None) -> ConfigurationError:
    ways = [f"--to {expected} puts it back" if expected else "", f"--to {seen} takes it over" if seen else ""]
    return ConfigurationError(
        f"{model}: {_where(seen, expected)}: somebody has moved it past the promotion, so no champion is loaded.",
        f"Find out who. Then whoever answers for {model} runs `evergreen rollback {model}`, with the reason: "
        f"{', '.join(filter(None, ways))}, on record.",
    )


def notice(store: ArtifactStore, request: Request, champion: Version | None) -> Event | None:
    """Log where the alias ``champion`` is, once, unless that is where the log says; returns the event, or None."""
    displaced = _displaced(last_move(read_events(store, request.model)), champion, request.run)
    if displaced is None:
        return None
    seen, expected = displaced
    why = _where(seen, expected)
    log.warning("%s: %s", request.model, why)
    event = event_of(request, EventKind.ALIAS_MOVED, training="", why=why, version=seen, previous=expected)

    def seen_already(events: Sequence[Event]) -> Event | None:
        last = next((known for known in reversed(events) if known.kind in OF_THE_ALIAS), None)
        same = last is not None and (last.version, last.previous) == (seen, expected)
        return last if same and last is not None and last.kind is EventKind.ALIAS_MOVED else None

    return append(store, event, seen_already)


def _where(seen: str | None, expected: str | None) -> str:
    return f"the alias champion was seen at version {seen or 'none'}; the audit log has {expected or 'none'}"


def under_way(moved: Event, seen: str | None, run: RunIdentity | None = None) -> bool:
    """Tell whether the alias has still to follow a move; steps log it first, and the alias follows within moments.

    Parameters
    ----------
    moved
        The move.
    seen
        Where the alias is.
    run
        The step that asks, if it is one: its own move is under way however long ago it was.
    """
    if moved.previous != seen or (moved.run != run and utc_now() - moved.at > _UNDER_WAY):
        return False
    return moved.version is None or by_number(moved.model, moved.version).tags.get(_MOVED) != str(moved.number)


def settle(request: Request, *, from_anywhere: bool = False) -> Event:
    """Move the alias to where the log says it is; returns the event that says so.

    Of two who move it at once, each puts it where the newest event says after its own, so the newest has the last word.

    Parameters
    ----------
    request
        The step that has logged a move.
    from_anywhere
        Whether it may move the alias from where no step had put it: a rollback is there to do that.

    Raises
    ------
    ConfigurationError
        If it may not.
    """
    store, model = get_store(), request.model
    while True:
        moved = last_move(read_events(store, model))
        assert moved is not None  # noqa: S101  # whoever calls has logged a move
        champion = by_alias(model, CHAMPION)
        known = (champion.number if champion else None) in {moved.version, moved.previous}
        if not (known or from_anywhere) and (event := notice(store, request, champion)):
            raise out_of_place(event)
        if moved.version is None:
            remove_alias(model, CHAMPION)
        else:
            target = by_number(model, moved.version)
            set_alias(target, CHAMPION)
            set_tags(target, {_MOVED: moved.number})
        if last_move(read_events(store, model)) == moved:
            return moved


def tell_whether_rolled_out(store: ArtifactStore, model: str) -> None:
    """Leave word whether a rollout is under way; one that begins at this moment is not missed."""
    tell_rollout(store, model, under_way=False)
    if rollout_of(read_events(store, model)) is not None:  # who begins one says so after it has
        tell_rollout(store, model, under_way=True)


def finish_move(request: Request, events: Sequence[Event]) -> None:
    """Let the alias follow a rollout's promotion; nothing to do if it has, wherever it was moved since."""
    moved = last_move(events)
    if moved is None or moved.kind is not EventKind.PROMOTED or moved.rollout is None or moved.version is None:
        return
    version = by_number(moved.model, moved.version)
    if version.tags.get(_MOVED) != str(moved.number):
        set_tags(version, {REPLACED: moved.previous or "0"})  # before the alias: a crash in between loses nothing
        settle(request)


def champions(events: Iterable[Event]) -> list[str]:
    """Return the versions that have been champion, each once, the oldest first."""
    moves = [event for event in events if event.kind in MOVES]
    served = [version for move in moves for version in (move.previous, move.version)]
    return list(dict.fromkeys(version for version in served if version is not None))


def served_before(events: Sequence[Event], version: str) -> str | None:
    """Return the version that served before a champion first did, or None if there was none.

    What a rollback brings back is not asked what it replaced then: rolled back again, it gives way to the one before.
    """
    moves = [event for event in reversed(events) if event.kind in MOVES and event.previous != version]
    ways = [event for event in moves if event.version == version]
    forward = [event for event in ways if event.kind is EventKind.PROMOTED]
    # a version that nobody has promoted was taken over from a hand, by a rollback
    return next((event.previous for event in forward or ways), None)
