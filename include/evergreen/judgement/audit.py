"""The audit log of a model: its events, verified whenever they are read, and added one at a time.

Records in PostgreSQL, chained and signed; before them the files of earlier versions, see `evergreen.judgement.earlier`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evergreen.contract import ConfigurationError
from evergreen.judgement import earlier
from evergreen.judgement.events import DECIDE, OF_THE_ALIAS, Event, EventKind, same_matter
from evergreen.judgement.notices import tell_move
from evergreen.settings import get_settings
from evergreen.store import ArtifactStore, parse_document
from evergreen.trust.audit_log import head_key, insert, models_in_log, read_head, records_of, write_head
from evergreen.trust.chain import BrokenLogError, Head, Record, canonical, chained, faults
from evergreen.trust.checkpoint import verified_up_to, write_checkpoint

log = logging.getLogger(__name__)

_HINT = "Restore the database from a backup: the audit log is never rewritten."
_Objection = TypeVar("_Objection")


@dataclass(frozen=True)
class _Survey:
    """A log as it was found."""

    events: list[Event]
    """All that can be read, oldest first."""
    problems: list[ConfigurationError]
    """What is wrong with the log: nothing may be decided on it."""
    files: Mapping[str, bytes]
    records: Sequence[Record]
    head: Head | None
    verified: int
    """The number up to which a checkpoint stood for the signatures."""


@dataclass(frozen=True)
class AuditLog:
    """Everything that happened to one model."""

    store: ArtifactStore
    model: str

    def read(self) -> list[Event]:
        """Return all events, oldest first.

        Raises
        ------
        ConfigurationError
            If anything is not as it was written: what is decided on the rest could be wrong.
        """
        return self._sound().events

    def survey(self) -> tuple[list[Event], list[ConfigurationError]]:
        """Return all events that can be read, oldest first, and everything that is wrong with the log."""
        found = self._survey(complete=True)
        return found.events, found.problems

    def audit(self) -> tuple[Sequence[Record], list[str]]:
        """Return the records, and what an auditor should know: what is wrong with them, and with the head.

        A head that is lost, or is left behind by a writer that was killed, stops nobody: the next signed record writes
        it again.
        """
        found, key = self._survey(complete=True), head_key(self.model)
        findings = [problem.message.rstrip(".") for problem in found.problems]
        if found.head is not None or self.store.read(key) is None:
            lost = f"its head {self.store.uri(key)} is lost"
            findings += head_findings(self.model, found.records, found.head, lost)
        return found.records, findings

    def append(self, judge: Callable[[Sequence[Event]], Event | _Objection]) -> Event | _Objection:
        """Write what a judge wants to add, and return it; or return what the judge says instead.

        Nothing is locked. A number is taken by one of many writers only: whoever loses reads again and judges again,
        so nothing is written that has not seen all that is before it.

        Parameters
        ----------
        judge
            Told all events there are. Returns a new one; or one of them, when what it would add is there already; or
            anything else, when there must be none.
        """
        while True:
            found = self._sound()
            answer = judge(found.events)
            if not isinstance(answer, Event) or any(answer is event for event in found.events):
                return answer
            event, record = self._next(answer, found)
            if insert(record):
                if record.signature is not None:
                    write_head(self.store, record)
                    one_by_one = sum(one.number > found.verified for one in found.records)
                    write_checkpoint(self.store, record, DECIDE, one_by_one)
                if event.kind in OF_THE_ALIAS - {EventKind.PROMOTED}:
                    tell_move(self.store, event)
                return event

    def _next(self, event: Event, found: _Survey) -> tuple[Event, Record]:
        """Return an event with its place in the log, and the record that it is."""
        last = found.records[-1] if found.records else None
        number = last.number + 1 if last else earlier.last_number(found.files) + 1
        pinned = {} if last else earlier.digests(found.files)
        event = event.model_copy(update={"number": number, "earlier": pinned}).as_recorded()
        signed = event.kind in DECIDE or get_settings().signing_key is not None
        text = canonical(json.loads(event.model_dump_json()))
        return event, chained(last, self.model, number, event.at, text, signed=signed)

    def _sound(self) -> _Survey:
        found = self._survey()
        if found.problems:
            raise found.problems[0]
        if found.head is None and any(record.signature for record in found.records):
            log.warning("the audit log of %s has lost its head: evergreen audit verify %s", self.model, self.model)
        return found

    def _survey(self, *, complete: bool = False) -> _Survey:
        """Return what is there; ``complete``: with every signature verified, whatever was verified before."""
        files = earlier.read_files(self.store, self.model)
        events, problems = earlier.events_in(self.store, files)
        head = None
        try:
            head = read_head(self.store, self.model)  # before the records: one that is written meanwhile is no fault
        except BrokenLogError as error:
            problems.append(error)
        records = records_of(self.model)
        verified = 0 if complete else verified_up_to(self.store, self.model, records, DECIDE)
        recorded, wrong = examined(self.model, records, head, verified)
        if wrong and verified:  # whoever has to find out is told all of it
            recorded, wrong = examined(self.model, records, head)
        pinned = recorded[0].earlier if recorded else {}
        problems += map(BrokenLogError, earlier.changes(files, pinned, self.model) if records else ())
        problems += [problem for _, problem in wrong]
        return _Survey([*events, *recorded], problems, files, records, head, verified)


def examined(
    model: str, records: Sequence[Record], head: Head | None, verified: int = 0
) -> tuple[list[Event], list[tuple[int, ConfigurationError]]]:
    """Return the events that records hold, and what is wrong with these.

    Parameters
    ----------
    model
        Whose log it is.
    records
        All of it, in the order in which they are kept: by the database, or in a copy.
    head
        How far it has come at least, if that is known.
    verified
        The number up to which a checkpoint stands for the signatures.

    Returns
    -------
    events, problems
        Every event that can be read; and each problem with the position of the record that it is about, which is
        the count of the records where the end is wrong.
    """
    events: list[Event] = []
    unreadable: list[tuple[int, ConfigurationError]] = []
    for position, record in enumerate(records):
        where = f"the audit log of {record.model}: record {record.number}"
        try:
            events.append(parse_document(record.event.encode(), where, Event, "an event", _HINT).as_recorded())
        except ConfigurationError as error:
            unreadable.append((position, error))
    first = earlier.last_number(events[0].earlier if events else {}) + 1
    found = faults(model, records, lambda kind: kind in DECIDE, head, first, verified)
    return events, [*((fault.position, BrokenLogError(fault.sentence)) for fault in found), *unreadable]


def head_findings(model: str, records: Sequence[Record], head: Head | None, lost: str) -> Iterator[str]:
    """Yield what an auditor should know of a head, which stops no reader: it is lost, or was left behind."""
    signed = [record.number for record in records if record.signature is not None]
    where = f"the audit log of {model}"
    if signed and head is None:
        yield f"{where}: {lost}: whether the end was cut off cannot be told"
    elif signed and head is not None and head.number < signed[-1]:
        yield (
            f"{where}: its head is record {head.number}, and the last signed one is {signed[-1]}: "
            "its writer was killed in between, or an older head was put in its place"
        )


def log_of(store: ArtifactStore, model: str) -> AuditLog:
    """Return the log of what happened to a model."""
    return AuditLog(store, model)


def read_events(store: ArtifactStore, model: str) -> list[Event]:
    """Return everything that happened to a model, oldest first.

    Raises
    ------
    ConfigurationError
        If the log is not as it was written: what is decided on the rest could be wrong.
    """
    return AuditLog(store, model).read()


def models_with_events(store: ArtifactStore) -> list[str]:
    """Return the models that anything was decided about."""
    keys = (key for folder in (*earlier.FOLDERS, "audit/") for key in store.keys(folder))
    return sorted({*(key.split("/")[1] for key in keys), *models_in_log()})


def append(
    store: ArtifactStore, event: Event, objection: Callable[[Sequence[Event]], _Objection | None] | None = None
) -> Event | _Objection:
    """Add an event; a retry that says the same again adds nothing.

    Parameters
    ----------
    store
        Where the log's head lies.
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
        last = next((known for known in reversed(events) if same_matter(known, event)), None)
        if last is not None and last.recorded and event.repeats(last):
            return last
        return (objection(events) if objection else None) or event

    return AuditLog(store, event.model).append(judge)
