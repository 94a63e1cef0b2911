"""``guard``: let a proposal pass only when a retraining can tell something new."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from functools import partial

from pydantic import JsonValue

from evergreen.contract import Frozen, Request, Result, Status, Window, utc_now
from evergreen.data.arrow import count_known
from evergreen.data.lake import get_lake
from evergreen.handover import read_bytes, upstream
from evergreen.judgement.claims import Claim, claim_training
from evergreen.judgement.decisions import list_decisions
from evergreen.monitoring.proposal import Proposal, proposal_of
from evergreen.pipelines import training_run
from evergreen.spec import ModelSpec
from evergreen.store import get_store


class _Training(Frozen):
    """A training that was judged, or that another guard has let start."""

    partition: date
    title: str
    newest_label: date
    """The newest partition whose labels it has seen."""


def run(request: Request, spec: ModelSpec) -> Result:
    """Check the proposal, the cool-down and the new labels; time is counted in partitions, never by the clock.

    A proposal that passes is claimed, so that of many guards at once one a cool-down passes; asked again about the
    same report, the guard answers the same. A claim whose training never came to a decision speaks against the days
    of its own cool-down and no others.

    Raises
    ------
    DataError
        If the manifest of ``check_drift`` is missing, or a report is not the one that its manifest is about.
    """
    drift, performance = upstream(request, "check_drift"), request.upstream.get("check_performance")
    read_bytes(drift, "drift_report")  # people see in the reports why a training started: they must be as they were
    if performance is not None:
        read_bytes(performance, "performance_report")
    proposal = proposal_of(drift, performance)
    facts = _facts(request, proposal)
    if not proposal.retrain:
        return Result(status=Status.REFUSED, reason=f"no drift: {proposal.why}", facts=facts)
    judge = partial(_judge, request, spec, proposal, _judged(spec, proposal))
    answer = claim_training(get_store(), spec.name, proposal.report_id, judge)
    return answer if isinstance(answer, Result) else Result(facts=facts | answer.facts)


def _judge(
    request: Request, spec: ModelSpec, proposal: Proposal, judged: Sequence[_Training], claims: Sequence[Claim]
) -> Claim | Result:
    """Return the claim of a proposal, or why it may not become a training."""
    trainings = [*judged, *(_claimed(claim, spec) for claim in claims)]
    earlier = [training for training in trainings if training.partition <= request.partition]
    last = max(earlier, key=lambda training: (training.partition, training.newest_label), default=None)
    labels = _new_labels(request, spec, last)
    facts = {**_facts(request, proposal), "last_training": str(last.partition) if last else None, "new_labels": labels}
    if reason := _objection(request, spec, trainings, labels):
        return Result(status=Status.REFUSED, reason=reason, facts=facts)
    return Claim(
        model=spec.name,
        partition=request.partition,
        report_id=proposal.report_id,
        run=request.run,
        facts=facts,
        claimed_at=utc_now(),
    )


def _facts(request: Request, proposal: Proposal) -> dict[str, JsonValue]:
    return {
        "report_id": proposal.report_id,
        "proposal": proposal.why,
        "evidence": {**proposal.evidence},
        "partition": str(request.partition),
    }


def _judged(spec: ModelSpec, proposal: Proposal) -> list[_Training]:
    """Return the trainings that came to a decision; what followed from this very report does not speak against it."""
    return [
        _Training(
            partition=record.partition,
            title=f"the training of {record.partition} ({record.run.run_id})",
            newest_label=record.judgement.evaluation.window.end,
        )
        for record in list_decisions(get_store(), spec.name)
        if record.run.run_id != training_run(proposal.report_id)
    ]


def _claimed(claim: Claim, spec: ModelSpec) -> _Training:
    return _Training(
        partition=claim.partition,
        title=f"the training of {claim.partition} ({training_run(claim.report_id)})",
        newest_label=claim.partition - timedelta(days=spec.features.examples.label_delay_days),
    )


def _new_labels(request: Request, spec: ModelSpec, last: _Training | None) -> int:
    """Count the labels that a training would take and the last one did not: up to the newest that is due."""
    start = last.newest_label + timedelta(days=1) if last else spec.schedule.start
    newest = request.partition - timedelta(days=spec.features.examples.label_delay_days)
    if start > newest:
        return 0
    label = spec.features.examples.label
    rows = get_lake().read(spec.name, "examples", Window(start=start, end=newest), columns=[label])
    return count_known(rows[label])


def _objection(request: Request, spec: ModelSpec, trainings: Sequence[_Training], labels: int) -> str | None:
    rule = spec.retraining
    # a later one counts too: guards of many days may come in any order
    for near in sorted(trainings, key=lambda training: training.partition, reverse=True):
        between = abs((request.partition - near.partition).days)
        if between < rule.cooldown_days:
            return (
                f"cool-down: {between} days of partitions from {near.title}, "
                f"retraining.cooldown_days asks for {rule.cooldown_days}"
            )
    if labels < rule.minimum_new_labels:
        return (
            f"{labels} new labels since the last training, retraining.minimum_new_labels is {rule.minimum_new_labels}"
        )
    return None
