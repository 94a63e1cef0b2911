"""Claims: which proposals may become trainings, so that however many guards run at once, one a cool-down passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime

from pydantic import JsonValue

from evergreen.contract import Result, RunIdentity
from evergreen.store import ArtifactStore, read_document
from evergreen.stored import Stored


class Claim(Stored):
    """One proposal that a guard let pass."""

    model: str
    partition: date
    report_id: str
    run: RunIdentity
    """The guard that took it."""
    facts: dict[str, JsonValue]
    """What that guard answered, and answers again when it is asked again."""
    claimed_at: datetime


def take(
    store: ArtifactStore, model: str, report_id: str, judge: Callable[[Sequence[Claim]], Claim | Result]
) -> Claim | Result:
    """Claim a report's training, unless something speaks against it; returns the claim, or what the judge refused with.

    The claims of a model are a log of numbered files. A new one is written under the next number, which only one of
    many can create: whoever loses reads the log again and judges again, so no claim is written that has not seen all
    those before it. Nothing is locked, so nothing stays locked when a guard is killed. A report that has a claim keeps
    it, and is not judged again.

    Parameters
    ----------
    store
        Where the log lies.
    model, report_id
        Whose log, and the report that proposes the training.
    judge
        Told all claims there are; returns the one to write, or why there must be none.
    """
    while True:
        claims = _read_all(store, model)
        own = [claim for claim in claims.values() if claim.report_id == report_id]
        if own:
            return own[0]
        answer = judge(list(claims.values()))
        if isinstance(answer, Result):
            return answer
        number = max(claims, default=0) + 1
        store.create(_key(model, number), answer.model_dump_json(indent=2).encode())


def _key(model: str, number: int) -> str:
    return f"claims/{model}/{number:06d}.json"


def _read_all(store: ArtifactStore, model: str) -> dict[int, Claim]:
    """Return the claims of a model by number."""
    numbers = [int(key.rpartition("/")[2].removesuffix(".json")) for key in store.keys(f"claims/{model}/")]
    found = {}
    # every number up to the newest: a listing that is made while files are may leave out one before it
    for number in range(1, max(numbers, default=0) + 1):
        hint = "Restore it, or delete it: then its report may lead to another training."
        claim = read_document(store, _key(model, number), Claim, "a claim", hint)
        if claim is not None:  # else somebody deleted it
            found[number] = claim
    return found
