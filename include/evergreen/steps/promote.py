"""``promote``: move the alias ``champion`` to a version whose gate said yes."""

from __future__ import annotations

from collections.abc import Sequence

from evergreen.catalog import SPEC_FILE
from evergreen.contract import ConfigurationError, DataError, Manifest, Request, Result, Status
from evergreen.handover import checked, upstream
from evergreen.judgement.champions import champion_of, refuse_in_backfill, settle
from evergreen.judgement.decisions import DecisionRecord, decision_of, event_of, said_no
from evergreen.judgement.events import Event, EventKind, append, last_move, read_events
from evergreen.pipelines import APPROVED
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.registry import REPLACED, Version, by_challenger, set_tags


def _registered(manifest: Manifest, spec: ModelSpec, record: DecisionRecord) -> Version:
    """Return the version of the run that was judged, which must be the one that ``register`` names."""
    run_id = record.judgement.evaluation.challenger.run_id
    version = by_challenger(spec.name, run_id)
    if version is None:
        raise DataError(f"{spec.name}: no version is registered from the run {run_id}.", "Run register again.")
    checked(manifest, version.output("version"), "MLflow")
    return version


def run(request: Request, spec: ModelSpec) -> Result:
    """Promote, once: a second run finds the alias where it belongs and reports the same.

    The log comes first and the alias follows: of two promotions at once the log lets one pass, and whoever watches the
    alias finds nothing that the log does not explain.

    Skipped when a person, asked by the model, said no or nothing, or a newer challenger came meanwhile; that is kept
    with the decision. Refused when the champion is no longer the one the challenger was compared with, because the
    evidence is about another; and when it was moved since, so that clearing an old task does not undo a rollback.
    """
    refuse_in_backfill(request)
    registered, _ = upstream(request, "register"), upstream(request, "gate")
    store = get_store()
    record = decision_of(read_events(store, spec.name), request)
    if record is None or not record.decision.passed:
        raise ConfigurationError(
            f"{spec.name}: the log of decisions has none that lets the challenger of {request.run.run_id} pass.",
            "Only the gate opens the way to promote: clear gate.",
        )
    version = _registered(registered, spec, record)
    champion_of(request)
    promoted = record.promoted
    if promoted is None or promoted != last_move(read_events(store, spec.name)):
        if no := _answer(request, spec, version):
            return no
        by, compared = _answered_by(request) or record.judgement.requested_by, record.judgement.compared_with
        event = event_of(request, EventKind.PROMOTED, version=version.number, previous=compared, by=by)
        logged = append(store, event, lambda events: _objection(events, request, event))
        if isinstance(logged, Result):
            return logged
        promoted = logged
    set_tags(version, {REPLACED: promoted.previous or "0"})  # before the alias: a crash in between loses nothing
    if settle(request).kind is EventKind.ALIAS_MOVED:
        reason = f"version {version.number}: the alias champion was moved by hand at this moment, and stays there"
        return Result(status=Status.REFUSED, reason=reason)
    return Result(
        outputs=(version.output("champion"),),
        inputs=(registered.output("version"),),
        facts={"version": version.number, "previous": promoted.previous},
    )


def _answered_by(request: Request) -> str | None:
    return str(request.params.get("answered_by") or "") or None


def _answer(request: Request, spec: ModelSpec, version: Version) -> Result | None:
    """Log what was answered (parameters ``answer`` and ``answered_by``); returns why it is not yes, or None.

    Raises
    ------
    ConfigurationError
        If the model asks a person and nobody was asked.
    """
    answer = request.params.get("answer")
    if answer is None and spec.approval.required:
        raise ConfigurationError(
            f"{spec.folder / SPEC_FILE}: approval.required: nobody has approved this promotion of {spec.name}.",
            f"Run {spec.name}.train, and answer under Required actions.",
        )
    if answer is None:
        return None
    kind = EventKind.APPROVED if answer == APPROVED else EventKind.REJECTED
    event = event_of(request, kind, by=_answered_by(request), version=version.number)

    def superseded(events: Sequence[Event]) -> Result | None:
        current = decision_of(events, request)
        if current is None or current.superseded is None:
            return None
        reason = f"version {version.number}: superseded, {current.superseded.why}"
        return Result(status=Status.SKIPPED, reason=reason)

    answered = append(get_store(), event, superseded)
    if isinstance(answered, Result):
        return answered
    if answered.kind is EventKind.REJECTED:
        return Result(status=Status.SKIPPED, reason=f"version {version.number}: {said_no(answered)}")
    return None


def _objection(events: Sequence[Event], request: Request, promotion: Event) -> Result | None:
    """Return why the alias must stay where it is, as the log knows at the very moment of the promotion, or None."""
    record, moved = decision_of(events, request), last_move(events)
    since = events[events.index(record.decided) :] if record else []
    rollback = next((event for event in since if event.kind is EventKind.ROLLED_BACK), None)
    champion = moved.version if moved else None
    by_hand = moved is not None and champion == promotion.version and moved.previous == promotion.previous
    if record and record.promoted:
        undone = record.rolled_back
        how = f"was rolled back by {undone.by} ({undone.why})" if undone else "is champion no more"
        reason = (
            f"version {promotion.version} was promoted, and {how}: running its promotion again does not undo that, "
            f"but evergreen rollback {request.model} --to {promotion.version} does"
        )
    elif champion != promotion.previous and not by_hand:
        reason = (
            f"the champion is now version {champion or 'none'}, but the challenger was compared with "
            f"{promotion.previous or 'none'}: train again, so that the two are judged side by side"
        )
    elif rollback:
        reason = f"{rollback.by} rolled back to version {rollback.version} after the decision: train again"
    else:
        return None
    return Result(status=Status.REFUSED, reason=reason)
