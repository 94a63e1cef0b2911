"""Claims: which proposals may become trainings, so that however many guards run at once, one a cool-down passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime

from pydantic import JsonValue

from evergreen.contract import Result, RunIdentity
from evergreen.judgement.log import Log, LogEntry
from evergreen.store import ArtifactStore


class Claim(LogEntry):
    """One proposal that a guard let pass."""

    model: str
    partition: date
    report_id: str
    run: RunIdentity
    """The guard that took it."""
    facts: dict[str, JsonValue]
    """What that guard answered, and answers again when it is asked again."""
    claimed_at: datetime


def claim_training(
    store: ArtifactStore, model: str, report_id: str, judge: Callable[[Sequence[Claim]], Claim | Result]
) -> Claim | Result:
    """Claim a report's training, unless something speaks against it; returns the claim, or what the judge refused with.

    No claim is written that has not seen all those before it. A report that has a claim keeps it, and is not judged
    again.

    Parameters
    ----------
    store
        Where the claims lie.
    model, report_id
        Whose claims, and the report that proposes the training.
    judge
        Told all claims there are; returns the one to write, or why there must be none.
    """
    hint = "Restore it, or delete it: then its report may lead to another training."
    log = Log(store, f"claims/{model}", Claim, "a claim", hint)

    def claimed_or_judged(claims: Sequence[Claim]) -> Claim | Result:
        return next((claim for claim in claims if claim.report_id == report_id), None) or judge(claims)

    return log.append(claimed_or_judged)
