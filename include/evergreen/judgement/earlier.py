"""What happened before the audit log was one: files of the artifact store, which are read and never written any more.

Numbered files hold an event each; documents of the first schema hold a decision with what followed in it, and are read
as the events they were made of. The first record in PostgreSQL pins them all by their digests.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from hashlib import sha256
from itertools import accumulate

from pydantic import JsonValue

from evergreen.contract import ConfigurationError, Output, RunIdentity
from evergreen.judgement.events import Event, Judgement
from evergreen.store import ArtifactStore, parse_document
from evergreen.stored import Part, Stored

_HINT = "Restore it from a backup: what was decided is never rewritten."
_NUMBERED = re.compile(r"decision_log/[^/]+/(\d{1,18})\.json")
FOLDERS = ("decisions/", "decision_log/")


def read_files(store: ArtifactStore, model: str) -> dict[str, bytes]:
    """Return the files about a model, by key, in the order in which they are read."""
    listed = [key for folder in FOLDERS for key in store.keys(f"{folder}{model}/")]
    keys = [key for key in listed if not key.startswith(FOLDERS[1]) or _NUMBERED.fullmatch(key)]  # no editor's backup
    found = ((key, store.read(key)) for key in keys)
    return {key: content for key, content in found if content is not None}


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return what pins the files: the SHA-256 of each."""
    return {key: sha256(content).hexdigest() for key, content in files.items()}


def last_number(keys: Mapping[str, object]) -> int:
    """Return the number of the newest numbered file, 0 if there is none: the audit log goes on from there."""
    return max((int(match[1]) for match in map(_NUMBERED.fullmatch, keys) if match), default=0)


def changes(files: Mapping[str, bytes], pinned: Mapping[str, object], model: str) -> Iterator[str]:
    """Yield what was done to the files since they were pinned, a sentence each."""
    now = digests(files)
    for key in sorted({*now, *pinned}):
        if now.get(key) != pinned.get(key):
            what = "was added" if key not in pinned else "was changed" if key in now else "was deleted"
            yield f"{key}, which the audit log of {model} begins with, {what} since the log was begun"


def events_in(store: ArtifactStore, files: Mapping[str, bytes]) -> tuple[list[Event], list[ConfigurationError]]:
    """Return the events in the files, oldest first, and what is wrong with each file that holds none."""
    timed: list[_Timed] = []
    numbered: list[Event] = []
    problems: list[ConfigurationError] = []
    for key, content in files.items():
        try:
            if match := _NUMBERED.fullmatch(key):
                event = parse_document(content, store.uri(key), Event, "an event of the decision log", _HINT)
                numbered.append(event.model_copy(update={"number": int(match[1])}))
            else:
                document = parse_document(content, store.uri(key), DecisionDocument, "a decision record", _HINT)
                timed += _timed(list(_events_of(document)))
        except ConfigurationError as error:
            problems.append(error)
    # the order of the numbered ones is that of their numbers
    numbered.sort(key=lambda event: event.number)
    return [event for _, event in sorted([*timed, *_timed(numbered)], key=lambda pair: pair[0])], problems


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
