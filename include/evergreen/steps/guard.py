"""``guard``: let a proposal pass only when a retraining can tell something new."""

from __future__ import annotations

import logging
from datetime import timedelta

from pydantic import JsonValue

from evergreen.contract import DataError, Request, Result, Status, Window
from evergreen.data.lake import get_lake
from evergreen.judgement.decisions import DecisionRecord, list_decisions
from evergreen.monitoring.proposal import Proposal, read_proposal
from evergreen.spec import ModelSpec
from evergreen.store import get_store

log = logging.getLogger(__name__)


def run(request: Request, spec: ModelSpec) -> Result:
    """Check the proposal, the cool-down and the new labels; time is counted in partitions, never by the clock."""
    proposal = read_proposal(get_store(), spec.name, request.partition)
    if proposal is None:
        raise DataError(
            f"{spec.name} has no drift report of {request.partition}.", f"Run {spec.name}.monitor for it first."
        )
    last = _last_decision(request, spec, proposal)
    labels = _new_labels(request, spec, last)
    facts: dict[str, JsonValue] = {
        "report_id": proposal.report_id,
        "proposal": proposal.why,
        "last_training": str(last.partition) if last else None,
        "new_labels": labels,
    }
    if reason := _objection(request, spec, proposal, last, labels):
        return Result(status=Status.REFUSED, reason=reason, facts=facts)
    return Result(facts=facts)


def _last_decision(request: Request, spec: ModelSpec, proposal: Proposal) -> DecisionRecord | None:
    """Return the newest earlier decision; what followed from this very report does not speak against it."""
    own = f"drift__{proposal.report_id}"
    earlier = [
        record
        for record in list_decisions(get_store(), spec.name)
        if record.partition <= request.partition and record.run.run_id != own
    ]
    return earlier[-1] if earlier else None


def _new_labels(request: Request, spec: ModelSpec, last: DecisionRecord | None) -> int:
    """Count the labelled examples since the newest label that the last training knew."""
    start = last.evaluation.window.end + timedelta(days=1) if last else spec.schedule.start
    if start > request.partition:
        return 0
    label = spec.features.examples.label
    rows = get_lake().read(spec.name, "examples", Window(start=start, end=request.partition), columns=[label])
    return int(rows.num_rows - rows[label].null_count)


def _objection(
    request: Request, spec: ModelSpec, proposal: Proposal, last: DecisionRecord | None, labels: int
) -> str | None:
    rule = spec.retraining
    if not proposal.retrain:
        return f"no drift: {proposal.why}"
    if last and (passed := (request.partition - last.partition).days) < rule.cooldown_days:
        return (
            f"cool-down: {passed} days of partitions since the training of {last.partition} "
            f"({last.run.run_id}), retraining.cooldown_days asks for {rule.cooldown_days}"
        )
    if labels < rule.minimum_new_labels:
        return (
            f"{labels} new labels since the last training, retraining.minimum_new_labels is {rule.minimum_new_labels}"
        )
    return None
