"""``promote``: move the alias ``champion`` to a version whose gate said yes."""

from __future__ import annotations

from evergreen.catalog import SPEC_FILE
from evergreen.contract import ConfigurationError, DataError, Manifest, Output, Request, Result, Status, utc_now
from evergreen.handover import checked, upstream
from evergreen.judgement.decisions import DecisionRecord, Promotion, Rejection, amend_decision, read_decision, said_no
from evergreen.judgement.evidence import Decision
from evergreen.pipelines import APPROVED
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.registry import CHAMPION, REPLACED, Version, by_alias, by_run, set_alias, set_tags


def refuse_in_backfill(request: Request) -> None:
    """Stop a step that would move an alias from a backfill: history must not decide what serves today.

    Raises
    ------
    ConfigurationError
        If the step runs in a DAG called ``<model>.backfill``.
    """
    if request.run.dag_id.endswith(".backfill"):
        raise ConfigurationError(
            f"{request.step} of {request.model} runs in {request.run.dag_id}: a backfill never moves a model alias.",
            f"Run {request.model}.train for the partition instead.",
        )


def _rejection(request: Request, spec: ModelSpec, record: DecisionRecord) -> Rejection | None:
    """Return who said no (parameters ``answer`` and ``answered_by``); None when the promotion may happen."""
    answer, who = request.params.get("answer"), request.params.get("answered_by")
    if not spec.approval.required or answer == APPROVED:
        return None
    if answer is None:
        raise ConfigurationError(
            f"{spec.folder / SPEC_FILE}: approval.required: nobody has approved this promotion of {spec.name}.",
            f"Run {spec.name}.train, and answer under Required actions.",
        )
    said = record.rejection.rejected_at if record.rejection else utc_now()
    return Rejection(rejected_by=str(who) if who else None, rejected_at=said)


def _registered(manifest: Manifest, spec: ModelSpec, record: DecisionRecord) -> Version:
    """Return the version of the run that was judged, which must be the one that ``register`` names."""
    version = by_run(spec.name, record.evaluation.challenger.run_id)
    if version is None:
        raise DataError(
            f"{spec.name}: no version is registered from the run {record.evaluation.challenger.run_id}.",
            "Run register again.",
        )
    checked(manifest, Output(name="version", uri=version.uri, version=version.number), "MLflow")
    return version


def run(request: Request, spec: ModelSpec) -> Result:
    """Promote, once: a second run finds the alias where it belongs and reports the same.

    Skipped when a person, asked by the model, said no or nothing; that is kept with the decision. Refused when the
    champion is no longer the one the challenger was compared with: the evidence is about another.
    """
    refuse_in_backfill(request)
    registered, judged = upstream(request, "register"), upstream(request, "gate")
    key, store = str(judged.facts["decision_key"]), get_store()
    record = read_decision(store, key)
    if record is None or record.decision is Decision.NOT_JUSTIFIED:
        raise ConfigurationError(
            f"{store.uri(key)}: the gate did not let this challenger pass.", "Only the gate opens the way to promote."
        )
    if rejection := _rejection(request, spec, record):
        amend_decision(store, key, rejection=rejection)
        number = registered.output("version").version
        return Result(status=Status.SKIPPED, reason=f"version {number}: {said_no(rejection)}")
    version = _registered(registered, spec, record)
    champion = by_alias(spec.name, CHAMPION)
    judged_against = judged.facts["champion"]
    if champion and champion.number == version.number:
        replaced = version.tags.get(REPLACED, "0")
        previous = None if replaced == "0" else replaced
    else:
        previous = champion.number if champion else None
        if previous != judged_against:
            return Result(
                status=Status.REFUSED,
                reason=f"the champion is now version {previous or 'none'}, but the challenger was compared with "
                f"{judged_against or 'none'}: train again, so that the two are judged side by side",
            )
        set_tags(version, {REPLACED: previous or "0"})  # before the alias: a crash in between loses nothing
        set_alias(version, CHAMPION)
    approver = request.params.get("answered_by")
    promotion = Promotion(
        version=version.number,
        previous=previous,
        approved_by=str(approver) if approver else None,
        promoted_at=record.promotion.promoted_at if record.promotion else utc_now(),
    )
    amend_decision(store, key, promotion=promotion, rejection=None, registered_version=version.number)
    return Result(
        outputs=(Output(name="champion", uri=version.uri, version=version.number),),
        inputs=(registered.output("version"),),
        facts={"version": version.number, "previous": previous},
    )
