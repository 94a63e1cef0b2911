"""``promote``: move the alias ``champion`` to a version whose gate said yes, or begin its rollout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pydantic import JsonValue

from evergreen.contract import ConfigurationError, DataError, Manifest, Request, Result, Status
from evergreen.handover import checked, upstream
from evergreen.judgement.answers import about_another, answers_given, as_events, does_not_count, outcome
from evergreen.judgement.audit import append, read_events
from evergreen.judgement.champions import champion_of, refuse_in_backfill, settle
from evergreen.judgement.decisions import DecisionRecord, decision_of, event_of
from evergreen.judgement.events import Event, EventKind, last_move
from evergreen.judgement.notices import tell_rollout
from evergreen.judgement.questions import Answer
from evergreen.judgement.rollouts import first_step, rollout_of
from evergreen.judgement.rules import decide
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.registry import REPLACED, Version, by_challenger, set_tags
from evergreen.training.signatures import stated_of_version


def _registered(manifest: Manifest, spec: ModelSpec, record: DecisionRecord) -> Version:
    """Return the version of the challenger that was judged, as signed; it must be the one that ``register`` names."""
    run_id = record.judgement.evaluation.challenger.run_id
    version = by_challenger(spec.name, run_id)
    if version is None:
        raise DataError(f"{spec.name}: no version is registered from the run {run_id}.", "Run register again.")
    signed = stated_of_version(version).bound
    if (signed.facts.get("refit_of") or signed.run_id) != run_id:
        raise DataError(
            f"{version.uri} is signed as another challenger's than that of the run {run_id}, which was judged.",
            "Its tag evergreen.refit_of was changed in MLflow: remove it, then run register again.",
        )
    checked(manifest, version.output("version"), "MLflow")
    return version


def run(request: Request, spec: ModelSpec) -> Result:
    """Promote, once: a second run finds the alias where it belongs and reports the same.

    Where model.yaml has a strategy, and there is a champion to compare with, it begins a rollout instead, which ends
    one that is under way: `evergreen.steps.rollout` promotes when that has gone well.

    What the gate has found is not believed but found again, from the evaluation in its signed record: a manifest may
    say anything. The log comes first and the alias follows: of two promotions at once the log lets one pass, and
    whoever watches the alias finds nothing that the log does not explain.

    Skipped when a person, asked by the model, said no or nothing, or a newer challenger came meanwhile; all answers
    are kept with the decision. Refused, on record, when the evidence does not justify it; when not enough people said
    yes, or to something else than this version and its evaluation; when the champion is no longer the one the
    challenger was compared with, because the evidence is about another; and when it was moved since, so that clearing
    an old task does not undo a rollback.
    """
    refuse_in_backfill(request)
    registered, _ = upstream(request, "register"), upstream(request, "gate")
    store = get_store()
    record = decision_of(read_events(store, spec.name), request)
    if record is None or not record.decided.recorded or not record.decision.passed:
        raise ConfigurationError(
            f"{spec.name}: the audit log has no decision that lets the challenger of {request.run.run_id} pass.",
            "Only the gate opens the way to promote: clear gate.",
        )
    version = _registered(registered, spec, record)
    champion_of(request)
    if record.rollout is not None and record.rollout_ended is None:
        return _rolls_out(registered, record.rollout)
    promoted = record.promoted
    if promoted is None or promoted != last_move(read_events(store, spec.name)):
        answers = answers_given(request, spec)
        if no := _answered(request, spec, record, version, answers):
            return no
        by = " and ".join(answer.by for answer in answers if answer.by)
        logged = _logged(request, spec, record, version, by or record.judgement.requested_by)
        if isinstance(logged, Result):
            return logged
        if logged.kind is EventKind.ROLLOUT_STARTED:
            return _rolls_out(registered, logged)
        promoted = logged
    set_tags(version, {REPLACED: promoted.previous or "0"})  # before the alias: a crash in between loses nothing
    settle(request)
    return Result(
        outputs=(version.output("champion"),),
        inputs=(registered.output("version"),),
        facts={"version": version.number, "previous": promoted.previous},
    )


def _logged(request: Request, spec: ModelSpec, record: DecisionRecord, version: Version, by: str) -> Event | Result:
    """Log the promotion, or why it must not be; returns what the log then has of it, a refusal as the step's result."""
    compared = record.judgement.compared_with
    stages = spec.delivery.stages if compared is not None else ()
    if stages:
        tell_rollout(get_store(), spec.name, under_way=True)  # before it is: nobody misses one if this is killed
    kind = EventKind.ROLLOUT_STARTED if stages else EventKind.PROMOTED
    begins = {"rollout": first_step(spec, version.number)} if stages else {}
    event = event_of(request, kind, version=version.number, previous=compared, by=by, **begins)
    verdict = decide(record.judgement.evaluation, spec)
    reason = f"version {version.number}: its evaluation does not justify a promotion: {verdict.why}"
    logged = append(
        get_store(), event, lambda events: (None if verdict.passed else reason) or _objection(events, request, event)
    )
    if isinstance(logged, Event):
        return logged
    return _refuse(request, version, by, logged)


def _rolls_out(registered: Manifest, at: Event) -> Result:
    """Return that a rollout is under way, as the step's result."""
    tell_rollout(get_store(), at.model, under_way=True)  # again: a check may have found none a moment ago
    assert at.rollout is not None  # noqa: S101  # an event of a rollout
    facts: dict[str, JsonValue] = {"version": at.version, "previous": at.previous}
    rollout = {"rollout": at.rollout.experiment, "strategy": at.rollout.strategy, "share": at.rollout.share}
    return Result(inputs=(registered.output("version"),), facts={**facts, **rollout})


def _refuse(request: Request, version: Version, by: str | None, why: str) -> Result:
    """Put on record that a promotion does not come about, and return that as the step's result."""
    append(get_store(), event_of(request, EventKind.REFUSED, version=version.number, by=by, why=why))
    return Result(status=Status.REFUSED, reason=why)


def _answered(
    request: Request, spec: ModelSpec, record: DecisionRecord, version: Version, given: Sequence[Answer]
) -> Result | None:
    """Log what people have answered; returns why it is not yes, or None."""
    if why := about_another(given, record, version.number):
        return _refuse(request, version, None, f"version {version.number}: {why}")
    answers = as_events(given, request, version.number)
    for number, answer in enumerate(answers):
        objection = partial(does_not_count, request=request, spec=spec, answer=answer, before=answers[:number])
        logged = append(get_store(), answer, objection)
        if isinstance(logged, Result):
            refused = logged.status is Status.REFUSED
            return _refuse(request, version, answer.by, logged.reason) if refused else logged
    no = outcome(answers, given)
    return _refuse(request, version, None, no.reason) if no and no.status is Status.REFUSED else no


def _objection(events: Sequence[Event], request: Request, promotion: Event) -> str | None:
    """Return why the alias must stay where it is, as the log knows at the very moment of the promotion, or None."""
    record, moved = decision_of(events, request), last_move(events)
    since = events[events.index(record.decided) :] if record else []
    # one that put back what a hand had moved changed nothing
    rollbacks = (event for event in since if event.kind is EventKind.ROLLED_BACK and event.version != event.previous)
    rollback, champion = next(rollbacks, None), moved.version if moved else None
    if record and record.promoted:
        undone = record.rolled_back
        how = f"was rolled back by {undone.by} ({undone.why})" if undone else "is champion no more"
        return (
            f"version {promotion.version} was promoted, and {how}: running its promotion again does not undo that, "
            f"but evergreen rollback {request.model} --to {promotion.version} does"
        )
    if record and record.rollout_ended:
        why = record.rollout_ended.why or record.rollout_ended.kind.value.replace("_", " ")
        return f"version {promotion.version} was rolled out, and that has ended ({why}): train again"
    if champion != promotion.previous:
        return (
            f"the champion is now version {champion or 'none'}, but the challenger was compared with "
            f"{promotion.previous or 'none'}: train again, so that the two are judged side by side"
        )
    if rollback:
        return f"{rollback.by} rolled back to version {rollback.version} after the decision: train again"
    rollout = rollout_of(events)
    if rollout is not None and rollout.partition > promotion.partition:
        return (
            f"version {rollout.challenger}, which learned from newer days ({rollout.partition}), is being rolled out: "
            f"version {promotion.version} does not end that"
        )
    return None
