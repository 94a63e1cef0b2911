"""What was decided about a model, and what people and steps did about it: the events that the audit log holds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from pydantic import Field, JsonValue, PrivateAttr

from evergreen.contract import Output, RunIdentity
from evergreen.judgement.evidence import Check, Decision, Evaluation
from evergreen.judgement.log import LogEntry
from evergreen.stored import OpenEnum, Part


class EventKind(OpenEnum):
    """What can happen to a challenger and to the alias ``champion``."""

    DECIDED = "decided"
    REGISTERED = "registered"
    APPROVED = "approved"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ALIAS_MOVED = "alias_moved"
    """The alias was seen where no step had put it."""
    REFUSED = "refused"
    """A promotion that the gate had opened the way for did not come about."""
    TRAINING_STARTED = "training_started"
    """A person had a challenger trained."""
    BACKFILL_STARTED = "backfill_started"
    """A person had history brought in."""
    QUARANTINE_RELEASED = "quarantine_released"
    """A person has exempted rows from expectations that they do not meet."""
    ROLLOUT_STARTED = "rollout_started"
    """A challenger answers beside the champion, or gets its traffic step by step; it ends a rollout before it."""
    ROLLOUT_MOVED = "rollout_moved"
    ROLLOUT_PAUSED = "rollout_paused"
    ROLLOUT_RESUMED = "rollout_resumed"
    ROLLOUT_ENDED = "rollout_ended"
    """A rollout ended and the champion stays. One that succeeds ends in a promotion."""


MOVES = frozenset({EventKind.PROMOTED, EventKind.ROLLED_BACK})
"""The events that say which version is champion."""
OF_A_ROLLOUT = frozenset(
    {
        *(EventKind.ROLLOUT_STARTED, EventKind.ROLLOUT_MOVED, EventKind.ROLLOUT_PAUSED),
        *(EventKind.ROLLOUT_RESUMED, EventKind.ROLLOUT_ENDED),
    }
)
"""The events that tell which part of the traffic a challenger gets."""
DECIDE = (MOVES | OF_A_ROLLOUT) | {
    *(EventKind.DECIDED, EventKind.REGISTERED, EventKind.APPROVED, EventKind.REJECTED),
    *(EventKind.SUPERSEDED, EventKind.REFUSED, EventKind.QUARANTINE_RELEASED),
}
"""The events that count for something: only a step with the key may write them. The others tell what was seen."""
OF_THE_ALIAS = MOVES | {EventKind.ALIAS_MOVED}
"""The events that tell where the alias ``champion`` is."""
ANSWERS = frozenset({EventKind.APPROVED, EventKind.REJECTED})


class Judgement(Part):
    """What a gate decided, and on which evidence."""

    decision: Decision
    why: str
    requested_by: str
    """A person, a drift report or the DAG: whatever asked for the training."""
    evaluation: Evaluation
    evidence: tuple[Output, ...] = ()
    """The evaluation, the model and the data sets, each with address and version."""
    gate: dict[str, JsonValue] = Field(default_factory=dict)
    """The rules as they were."""
    config_digest: str
    code_version: str

    @property
    def compared_with(self) -> str | None:
        """The version that was champion then; None when there was none."""
        return self.evaluation.champion.version if self.evaluation.champion else None

    @property
    def evaluation_digest(self) -> str:
        """The digest of the evaluation's document, as manifests have it; the data set of that name comes after it."""
        return next((output.digest for output in self.evidence if output.name == "evaluation"), "")


class Release(Part):
    """Which rows of a source's partition are published although they do not meet what is expected of them."""

    source: str
    exempt: dict[str, tuple[str, ...]]
    """The name of an expectation -> the digests of the rows that need not meet it. Other content is not released."""
    asked: dict[str, str] = Field(default_factory=dict)
    """The name of an expectation -> the digest of what it asked: another limit is another expectation. One without is
    waived for nobody: what was looked at is not known."""

    @property
    def rows(self) -> int:
        """How many rows it is about."""
        return len({digest for digests in self.exempt.values() for digest in digests})


class Guarded(Part):
    """What a check of a rollout measured for one guardrail, and what it made of it."""

    guardrail: str
    """As model.yaml has it: ``error_rate``, ``metric_drop``."""
    champion: float | None = None
    challenger: float | None = None
    difference: float | None = None
    """How much worse the challenger is; None where nothing could be measured."""
    low: float | None = None
    """What the difference is at least, however often it was looked at."""
    limit: float
    """More than this ends the rollout, once it is certain."""
    champion_rows: int = 0
    challenger_rows: int = 0
    broken: bool = False


class RolloutOutcome(OpenEnum):
    """How a rollout ended."""

    FINISHED = "finished"
    ROLLED_BACK = "rolled_back"
    EXPIRED = "expired"


class RolloutStep(Part):
    """What holds of a rollout from an event on; the event has the versions."""

    experiment: str
    """By which the prediction log knows its rows."""
    strategy: str
    share: float
    """Of the entities whose answer is the challenger's, from 0 to 1."""
    shadow: bool = False
    """Whether the challenger also answers what nobody sees."""
    step: int = 0
    """Of the strategy's steps, from 0."""
    salt: str
    """What decides, with an entity's key, which variant answers it."""
    split_by: tuple[str, ...]
    delivery: dict[str, JsonValue] = Field(default_factory=dict)
    """Of the event that begins it: the section ``delivery`` of model.yaml as it was, which it is judged by."""
    outcome: RolloutOutcome | None = None
    """Of the event that ends it."""
    evidence: tuple[Guarded, ...] = ()
    """What was measured when it was decided to go on or to end."""
    unreadable_files: int = 0
    """Files of the prediction log and of feedback that could not be read, so that what they hold was not measured."""


class Event(LogEntry):
    """One thing that happened."""

    kind: EventKind
    model: str
    at: datetime
    by: str | None = None
    """A person, or whatever asked for it; None when nobody did: an answer that never came."""
    run: RunIdentity
    """The task that wrote it."""
    partition: date
    training: str = ""
    """The run of ``<model>.train`` it is about; empty when it is about none."""
    why: str = ""
    version: str | None = None
    """The registered version it is about; of a move, the champion from then on."""
    previous: str | None = None
    """Of a move: the champion before."""
    judgement: Judgement | None = None
    """Of a decision."""
    checks: tuple[Check, ...] = ()
    """Of a decision: all that its gate has asked, and the answers."""
    shown: str = ""
    """Of an answer: the digest of the question as the person saw it."""
    question: int = 1
    """Of an answer: which of the questions it is to; there is a second one where two people have to approve."""
    by_id: str = ""
    """Of an answer: the id in Airflow of who gave it. It tells people apart: names may repeat."""
    approvers: int = 1
    """Of a registration: how many people have to approve, where the model asks any."""
    release: Release | None = None
    """Of a release from quarantine."""
    rollout: RolloutStep | None = None
    """Of an event of a rollout, and of the promotion that finishes one."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """Of a run that somebody started: with what."""
    earlier: dict[str, JsonValue] = Field(default_factory=dict)
    """Of the first event in PostgreSQL: the files that hold what came before, each with its digest."""

    _recorded: bool = PrivateAttr(default=False)

    @property
    def recorded(self) -> bool:
        """Whether it is a record in PostgreSQL, chained and signed; else it is of a file, as anybody may write."""
        return self._recorded

    def as_recorded(self) -> Event:
        """Return the event as one that is."""
        event = self.model_copy()
        event._recorded = True
        return event

    def repeats(self, other: Event) -> bool:
        """Tell whether this says again what another event has said."""
        place = {"at": other.at, "number": other.number, "earlier": other.earlier}
        return self.model_copy(update=place).model_dump() == other.model_dump()


def last_move(events: Sequence[Event]) -> Event | None:
    """Return the event that says which version is champion."""
    return next((event for event in reversed(events) if event.kind in MOVES), None)


def same_matter(earlier: Event, later: Event) -> bool:
    """Tell whether of two events the later one replaces what the earlier one said."""
    if earlier.kind in OF_THE_ALIAS or later.kind in OF_THE_ALIAS:
        return earlier.kind in OF_THE_ALIAS and later.kind in OF_THE_ALIAS
    answers = {earlier.kind, later.kind} <= ANSWERS and earlier.question == later.question
    same = answers or (earlier.kind == later.kind and later.kind not in ANSWERS)
    return same and (earlier.training, earlier.partition) == (later.training, later.partition)
