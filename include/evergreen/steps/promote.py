"""``promote``: move the alias ``champion`` to a version whose gate said yes."""

from __future__ import annotations

from collections.abc import Sequence

from evergreen.catalog import SPEC_FILE
from evergreen.contract import ConfigurationError, DataError, Manifest, Output, Request, Result, Status
from evergreen.handover import checked, upstream
from evergreen.judgement.champions import notice, refuse_in_backfill
from evergreen.judgement.decisions import DecisionRecord, decision_of, event_of, said_no
from evergreen.judgement.events import Event, EventKind, append, read_events
from evergreen.pipelines import APPROVED
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.registry import CHAMPION, REPLACED, Version, by_alias, by_run, set_alias, set_tags


def _registered(manifest: Manifest, spec: ModelSpec, record: DecisionRecord) -> Version:
    """Return the version of the run that was judged, which must be the one that ``register`` names."""
    run_id = record.judgement.evaluation.challenger.run_id
    version = by_run(spec.name, run_id)
    if version is None:
        raise DataError(f"{spec.name}: no version is registered from the run {run_id}.", "Run register again.")
    checked(manifest, Output(name="version", uri=version.uri, version=version.number), "MLflow")
    return version


def run(request: Request, spec: ModelSpec) -> Result:
    """Promote, once: a second run finds the alias where it belongs and reports the same.

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
    champion = by_alias(spec.name, CHAMPION)
    serves = champion is not None and champion.number == version.number
    if not serves:
        notice(store, request, champion)
    if not (serves and record.promoted) and (no := _answer(request, spec, record, version)):
        return no
    if serves:
        previous = _number(version.tags.get(REPLACED, "0"))
    else:
        previous = champion.number if champion else None
        if no := _objection(request, version, previous, record.judgement.compared_with):
            return no
        set_tags(version, {REPLACED: previous or "0"})  # before the alias: a crash in between loses nothing
        set_alias(version, CHAMPION)
    if not record.promoted:
        by = _answered_by(request) or record.judgement.requested_by
        append(store, event_of(request, EventKind.PROMOTED, version=version.number, previous=previous, by=by))
    return Result(
        outputs=(Output(name="champion", uri=version.uri, version=version.number),),
        inputs=(registered.output("version"),),
        facts={"version": version.number, "previous": previous},
    )


def _number(tag: str) -> str | None:
    return None if tag == "0" else tag


def _answered_by(request: Request) -> str | None:
    return str(request.params.get("answered_by") or "") or None


def _answer(request: Request, spec: ModelSpec, record: DecisionRecord, version: Version) -> Result | None:
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
        found = decision_of(events, request)
        if found is None or found.superseded is None:
            return None
        reason = f"version {version.number}: superseded, {found.superseded.why}"
        return Result(status=Status.SKIPPED, reason=reason)

    said = append(get_store(), event, superseded)
    if isinstance(said, Result):
        return said
    if said.kind is EventKind.REJECTED:
        return Result(status=Status.SKIPPED, reason=f"version {version.number}: {said_no(said)}")
    return None


def _objection(request: Request, version: Version, champion: str | None, compared: str | None) -> Result | None:
    """Return why the alias must stay where it is, or None."""
    events = read_events(get_store(), request.model)
    record = decision_of(events, request)
    since = events[events.index(record.decided) :] if record else []
    rollback = next((event for event in since if event.kind is EventKind.ROLLED_BACK), None)
    if record and record.promoted:
        undone = record.rolled_back
        how = f"was rolled back by {undone.by} ({undone.why})" if undone else "is champion no more"
        reason = (
            f"version {version.number} was promoted, and {how}: running its promotion again does not undo that, "
            f"but evergreen rollback {request.model} --to {version.number} does"
        )
    elif champion != compared:
        reason = (
            f"the champion is now version {champion or 'none'}, but the challenger was compared with "
            f"{compared or 'none'}: train again, so that the two are judged side by side"
        )
    elif rollback:
        reason = f"{rollback.by} rolled back to version {rollback.version} after the decision: train again"
    else:
        return None
    return Result(status=Status.REFUSED, reason=reason)
