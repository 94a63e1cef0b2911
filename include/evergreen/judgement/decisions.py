"""The decisions about a model's challengers, with what followed from each: the audit log, folded."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from pydantic import BaseModel, Field

from evergreen.contract import Request, RunIdentity, Window, utc_now
from evergreen.judgement.audit import append, read_events
from evergreen.judgement.events import MOVES, OF_A_ROLLOUT, Event, EventKind, Judgement
from evergreen.judgement.evidence import Check, Decision
from evergreen.store import ArtifactStore

_END_ROLLOUTS = MOVES | {EventKind.ROLLOUT_STARTED, EventKind.ROLLOUT_ENDED}


class DecisionRecord(BaseModel):
    """One training: how its challenger was judged, and what came of it. Each part is the event that says so."""

    decided: Event
    """The newest judgement: a gate that runs again after a change decides again."""
    registered: Event | None = None
    answers: dict[int, Event] = Field(default_factory=dict)
    """What people have answered about the registered version, by question, where the model asks them."""
    superseded: Event | None = None
    """A newer challenger came while this one waited for its answer."""
    promoted: Event | None = None
    refused: Event | None = None
    """The last attempt to promote it was refused."""
    rolled_back: Event | None = None
    """The promoted version gave way to an earlier champion."""
    rollout: Event | None = None
    """The newest event of its rollout."""
    rollout_ended: Event | None = None
    """What ended its rollout: an event that says so, a newer rollout, a promotion or a rollback."""

    @property
    def judgement(self) -> Judgement:
        """What was decided and why."""
        assert self.decided.judgement is not None  # noqa: S101  # only such events are folded into records
        return self.decided.judgement

    @property
    def decision(self) -> Decision:
        """What the gate said."""
        return self.judgement.decision

    @property
    def partition(self) -> date:
        """The partition of the training."""
        return self.decided.partition

    @property
    def run(self) -> RunIdentity:
        """The gate that judged."""
        return self.decided.run

    @property
    def answered(self) -> Event | None:
        """What the answers come to: a rejection if there is one, else the last approval."""
        answers = tuple(self.answers.values())
        return next((answer for answer in answers if answer.kind is EventKind.REJECTED), None) or next(
            reversed(answers), None
        )

    @property
    def waiting(self) -> bool:
        """Whether it is registered and nothing has come of it yet: no rejection, and not all approvals it needs."""
        if self.registered is None or self.promoted or self.superseded or self.rollout:
            return False
        rejected = any(answer.kind is EventKind.REJECTED for answer in self.answers.values())
        return not rejected and len(self.answers) < self.registered.approvers


def in_words(answers: Iterable[Event]) -> str:
    """Return who has answered what, in words, a rejection first."""
    given = sorted(answers, key=lambda answer: (answer.kind is EventKind.APPROVED, answer.question))
    noes = [
        f"rejected by {answer.by}" if answer.by else "rejected: nobody answered in time"
        for answer in given
        if answer.kind is EventKind.REJECTED
    ]
    people = " and ".join(str(answer.by) for answer in given if answer.kind is EventKind.APPROVED)
    return "; ".join([*dict.fromkeys(noes), *([f"approved by {people}"] if people else [])])


def event_of(request: Request, kind: EventKind, **fields: object) -> Event:
    """Return an event that a step writes about the training it belongs to, as of now."""
    about = {"kind": kind, "model": request.model, "at": utc_now(), "run": request.run, "partition": request.partition}
    return Event.model_validate({**about, "training": request.run.run_id, **fields})


def write_start(store: ArtifactStore, request: Request, kind: EventKind) -> None:
    """Log that a person has started this run (parameter ``triggered_by``, else the run tells), and with what."""
    by = str(request.params.get("triggered_by") or request.run.run_id)
    given = {name: value for name, value in request.params.items() if name != "triggered_by"}
    append(store, event_of(request, kind, by=by, params={"window": str(request.window), **given}))


def write_decision(store: ArtifactStore, request: Request, judgement: Judgement, checks: tuple[Check, ...] = ()) -> str:
    """Log a judgement, unless the training's newest one says the same; returns ``audit/<model>/<number>``."""
    event = event_of(request, EventKind.DECIDED, by=judgement.requested_by, judgement=judgement, checks=checks)
    written = append(store, event)
    return f"audit/{request.model}/{written.number if isinstance(written, Event) else 0}"


def fold(events: Iterable[Event]) -> list[DecisionRecord]:
    """Return what a model's events come to: a record a training, in the order in which they were first judged.

    What follows a judgement stays when the training is judged again: a promotion has happened, whatever is decided
    later. A new answer replaces the answer before it, and a new version has none yet.
    """
    records: dict[tuple[str, date], DecisionRecord] = {}
    for event in events:
        training = (event.training, event.partition)
        if event.kind in _END_ROLLOUTS:
            _end_rollouts(records.values(), event)
        if event.kind is EventKind.ROLLED_BACK:
            _roll_back(records.values(), event)
        elif event.kind is EventKind.DECIDED and event.judgement is not None:
            records.setdefault(training, DecisionRecord(decided=event)).decided = event
        elif training in records:
            _follow(records[training], event)
    return list(records.values())


def _follow(record: DecisionRecord, event: Event) -> None:
    match event.kind:
        case EventKind.REGISTERED:
            if record.registered and record.registered.version != event.version:  # the training was done again
                record.answers.clear()
            record.registered = event
        case EventKind.APPROVED | EventKind.REJECTED:
            record.answers[event.question] = event
        case EventKind.SUPERSEDED:
            record.superseded = event
        case EventKind.REFUSED:
            record.refused = event
        case kind if kind in OF_A_ROLLOUT:
            record.rollout = event
        case EventKind.PROMOTED:
            record.promoted, record.refused, record.rolled_back = event, None, None


def _end_rollouts(records: Iterable[DecisionRecord], event: Event) -> None:
    for record in records:
        if record.rollout is not None and record.rollout_ended is None:
            record.rollout_ended = event


def _roll_back(records: Iterable[DecisionRecord], event: Event) -> None:
    for record in records:
        version = record.promoted.version if record.promoted else None
        if version is not None and version == event.version:  # it serves again
            record.rolled_back = None
        elif version is not None and version == event.previous:
            record.rolled_back = event


def list_decisions(store: ArtifactStore, model: str) -> list[DecisionRecord]:
    """Return all decisions about a model, the oldest partition first."""
    records = fold(read_events(store, model))
    return sorted(records, key=lambda record: (record.partition, record.decided.at, record.run.run_id))


def look_at(events: Iterable[Event], champion: str | None, run_id: str, window: Window) -> int:
    """Return which look a judgement is, of those at challengers of one champion on days that overlap its own.

    The same challenger on the same days is the same look, however often it is judged.

    Parameters
    ----------
    events
        What has happened to the model.
    champion
        The version compared with; None when there is none.
    run_id, window
        The challenger's MLflow run, and the evaluation window.
    """
    looks: list[tuple[str, Window]] = []
    for event in events:
        judged = event.judgement.evaluation if event.judgement else None
        if judged is None or (judged.champion.version if judged.champion else None) != champion:
            continue
        look = (judged.challenger.run_id, judged.window)
        if look == (run_id, window):
            break  # later ones do not make this one stricter when it is judged again
        if look not in looks and judged.window.start <= window.end and window.start <= judged.window.end:
            looks.append(look)
    return len(looks) + 1


def refused_in_a_row(events: Iterable[Event], request: Request) -> list[str]:
    """Return the trainings that the gate has refused one after another up to that of a request, the first one first."""
    row: list[str] = []
    for record in fold(events):
        row = [] if record.decision.passed else [*row, f"{record.decided.training} {record.partition}"]
        if (record.decided.training, record.partition) == (request.run.run_id, request.partition):
            break
    return row


def decision_of(events: Iterable[Event], request: Request) -> DecisionRecord | None:
    """Return the decision about the training that a request belongs to, or None."""
    return decision_about(events, request.run.run_id, request.partition)


def decision_about(events: Iterable[Event], training: str, partition: date) -> DecisionRecord | None:
    """Return the decision about a training, a run of ``<model>.train``, or None."""
    about = (record for record in fold(events) if (record.decided.training, record.partition) == (training, partition))
    return next(about, None)
