"""The decision log: what was decided about a model, and what people and steps did about it, one event after another.

An event is written once and never changed. Documents of the first schema, one a decision with what followed in it,
are read as the events they were made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import accumulate
from typing import TypeVar

from pydantic import Field, JsonValue

from evergreen.contract import ConfigurationError, Output, RunIdentity
from evergreen.judgement.evidence import Check, Decision, Evaluation
from evergreen.judgement.log import Log, LogEntry
from evergreen.store import ArtifactStore, read_document
from evergreen.stored import OpenEnum, Part, Stored

_HINT = "Restore it from a backup: the log of decisions is never rewritten."


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


MOVES = frozenset({EventKind.PROMOTED, EventKind.ROLLED_BACK, EventKind.ALIAS_MOVED})
"""The events that say which version is champion."""
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
    checks: tuple[Check, ...] = ()
    """What each of them came to."""
    config_digest: str
    code_version: str

    @property
    def compared_with(self) -> str | None:
        """The version that was champion then; None when there was none."""
        return self.evaluation.champion.version if self.evaluation.champion else None


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

    def repeats(self, other: Event) -> bool:
        """Tell whether this says again what another event has said."""
        return self.model_copy(update={"at": other.at, "number": other.number}) == other


@dataclass(frozen=True)
class DecisionLog(Log[Event]):
    """The events of a model: its numbered files, and among them those of the documents of the first schema."""

    model: str

    def survey(self) -> tuple[list[Event], list[ConfigurationError]]:
        """Return what can be read of what happened to the model, oldest first, and what is wrong with the rest."""
        earlier, problems = _first_schema(self.store, self.model)
        numbered, more = super().survey()
        # the order of the numbered ones is that of their numbers
        events = [event for _, event in sorted([*earlier, *_timed(numbered)], key=lambda pair: pair[0])]
        return events, [*problems, *more]


def log_of(store: ArtifactStore, model: str) -> DecisionLog:
    """Return the log of what happened to a model."""
    return DecisionLog(store, f"decision_log/{model}", Event, "an event of the decision log", _HINT, model)


def read_events(store: ArtifactStore, model: str) -> list[Event]:
    """Return everything that happened to a model, oldest first.

    Raises
    ------
    ConfigurationError
        If a file is no event: what is decided on the rest could be wrong.
    """
    return log_of(store, model).read()


def models_with_events(store: ArtifactStore) -> list[str]:
    """Return the models that anything was decided about."""
    keys = [*store.keys("decisions/"), *store.keys("decision_log/")]
    return sorted({key.split("/")[1] for key in keys})


_Objection = TypeVar("_Objection")


def append(
    store: ArtifactStore, event: Event, objection: Callable[[Sequence[Event]], _Objection | None] | None = None
) -> Event | _Objection:
    """Add an event; a retry that says the same again adds nothing.

    Parameters
    ----------
    store
        Where the log lies.
    event
        What happened.
    objection
        Told everything that has happened; returns why the event must not be, or None. Nothing can come between that
        answer and the event.

    Returns
    -------
    Event or objection
        The event as it stands in the log, or why it is not there.
    """

    def judge(events: Sequence[Event]) -> Event | _Objection:
        last = next((earlier for earlier in reversed(events) if _same_matter(earlier, event)), None)
        if last is not None and event.repeats(last):
            return last
        return (objection(events) if objection else None) or event

    return log_of(store, event.model).append(judge)


def last_move(events: Sequence[Event]) -> Event | None:
    """Return the event that says which version is champion."""
    return next((event for event in reversed(events) if event.kind in MOVES), None)


def _same_matter(earlier: Event, later: Event) -> bool:
    """Tell whether of two events the later one replaces what the earlier one said."""
    if earlier.kind in MOVES or later.kind in MOVES:
        return earlier.kind in MOVES and later.kind in MOVES
    same = earlier.kind == later.kind or {earlier.kind, later.kind} <= ANSWERS
    return same and (earlier.training, earlier.partition) == (later.training, later.partition)


_Timed = tuple[datetime, Event]


def _timed(events: Sequence[Event]) -> list[_Timed]:
    """Return events with times that keep their order, whatever the clocks of those who wrote them said."""
    return list(zip(accumulate((event.at for event in events), max), events, strict=True))


class _Promotion(Part):
    version: str
    previous: str | None
    approved_by: str | None
    promoted_at: datetime


class _Rejection(Part):
    rejected_by: str | None
    rejected_at: datetime


class DecisionDocument(Judgement, Stored):
    """A decision of the first schema, with what followed from it; nothing writes it any more."""

    schema_version: int = 1
    model: str
    partition: date
    run: RunIdentity
    decided_at: datetime
    evidence: tuple[Output, ...]
    gate: dict[str, JsonValue]
    registered_version: str | None = None
    promotion: _Promotion | None = None
    rejection: _Rejection | None = None


def _first_schema(store: ArtifactStore, model: str) -> tuple[list[_Timed], list[ConfigurationError]]:
    events: list[_Timed] = []
    problems: list[ConfigurationError] = []
    for key in store.keys(f"decisions/{model}/"):
        try:
            document = read_document(store, key, DecisionDocument, "a decision record", _HINT)
        except ConfigurationError as error:
            problems.append(error)
            continue
        if document is not None:
            events += _timed(list(_events_of(document)))
    return events, problems


def _events_of(document: DecisionDocument) -> Iterator[Event]:
    run = document.run
    about = {"model": document.model, "run": run, "partition": document.partition, "training": run.run_id}
    judgement = Judgement.model_validate({name: getattr(document, name) for name in Judgement.model_fields})
    decided = Event.model_validate(
        {**about, "kind": "decided", "at": document.decided_at, "by": document.requested_by, "judgement": judgement}
    )
    yield decided.model_copy(update=dict(document.model_extra or {}))
    if document.registered_version:
        version = document.registered_version
        yield Event.model_validate({**about, "kind": "registered", "at": document.decided_at, "version": version})
    if rejected := document.rejection:
        yield Event.model_validate(
            {**about, "kind": "rejected", "at": rejected.rejected_at, "by": rejected.rejected_by}
        )
    if promoted := document.promotion:
        moved = {"at": promoted.promoted_at, "version": promoted.version, "by": promoted.approved_by}
        if promoted.approved_by:
            yield Event.model_validate({**about, **moved, "kind": "approved"})
        yield Event.model_validate({**about, **moved, "kind": "promoted", "previous": promoted.previous})
