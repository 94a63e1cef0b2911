"""``register``: make a version of a challenger that passed the gate, and call it ``challenger``."""

from __future__ import annotations

from collections.abc import Sequence

from evergreen.contract import Manifest, Request, Result
from evergreen.handover import upstream
from evergreen.judgement.audit import append, read_events
from evergreen.judgement.champions import refuse_in_backfill
from evergreen.judgement.decisions import DecisionRecord, decision_of, event_of, fold
from evergreen.judgement.events import Event, EventKind
from evergreen.judgement.notices import withdraw
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.registration import register
from evergreen.training.registry import CHALLENGER, REFIT_REFUSED, set_alias
from evergreen.training.signatures import stated_of_run
from evergreen.training.tracking import logged_model

_LONGEST_TAG = 1000


def run(request: Request, spec: ModelSpec) -> Result:
    """Register the run's model once, with the tags that later steps and people need."""
    refuse_in_backfill(request)
    trained, judged = upstream(request, "refit"), upstream(request, "gate")
    run_id, model = str(trained.facts["run_id"]), logged_model(trained)
    signed = stated_of_run(spec.name, run_id)
    scores = {
        f"metric.{name.removeprefix('challenger_')}": repr(value)
        for name, value in judged.metrics.items()
        if name.startswith("challenger_")
    }
    # what it learned from is what was signed, whatever the manifests have become since
    decided = {name: str(judged.facts[name]) for name in ("decision", "decision_key")}
    why = {REFIT_REFUSED: str(trained.facts[REFIT_REFUSED])[:_LONGEST_TAG]} if REFIT_REFUSED in trained.facts else {}
    tags = {**signed.bound.facts, **_baseline_tags(trained), **decided, **why, **scores}
    version = register(signed, spec.description, tags)
    set_alias(version, CHALLENGER)
    asked = spec.approval.approvers
    append(get_store(), event_of(request, EventKind.REGISTERED, version=version.number, approvers=asked))
    if spec.approval.required:
        _supersede(request, version.number)
    return Result(
        outputs=(version.output("version"),),
        inputs=(model,),
        facts={"version": version.number, "run_id": run_id},
    )


def _baseline_tags(trained: Manifest) -> dict[str, str]:
    """Return where the counts of the training rows lie; who trained before there were any has none."""
    found = next((output for output in trained.outputs if output.name == "baseline"), None)
    return {"baseline_uri": found.uri, "baseline_digest": found.digest} if found else {}


def _supersede(request: Request, version: str) -> None:
    """Withdraw the older challengers that wait for a person: their question is not worth an answer any more."""
    store = get_store()
    events = read_events(store, request.model)
    for older in _waiting_before(events, request):
        event = event_of(
            request,
            EventKind.SUPERSEDED,
            training=older.decided.training,
            partition=older.partition,
            version=older.registered.version if older.registered else None,
            why=f"version {version} came from {request.run.run_id}",
        )

        def answered(events: Sequence[Event], older: DecisionRecord = older) -> str | None:
            waiting = [record.registered for record in _waiting_before(events, request)]
            return None if older.registered in waiting else "it was answered meanwhile"

        append(store, event, answered)
    for event in read_events(store, request.model):  # a register before this one may have been killed here
        if event.kind is EventKind.SUPERSEDED and event.run == request.run:
            withdraw(store, event)


def _waiting_before(events: Sequence[Event], request: Request) -> list[DecisionRecord]:
    """Return what waits and was registered before this run's challenger, whenever this step runs again."""
    record = decision_of(events, request)
    if record is None or record.registered is None:
        return []
    last = events.index(record.registered)
    return [record for record in fold(events) if record.waiting and events.index(record.registered) < last]
