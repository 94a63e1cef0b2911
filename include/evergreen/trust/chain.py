"""The chain of an audit log: a record's hash covers the one before it, and what decides anything is signed.

Nothing here knows where records are kept: what an auditor was given in a file is verified by the same functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from evergreen.contract import ConfigurationError
from evergreen.settings import get_settings
from evergreen.trust.keys import UntrustedError, sign, verify

PAYLOAD_TYPE = "application/vnd.evergreen.audit-record+json"
"""What a record's signature is about; the head bears the same."""
BEGINNING = "0" * 64
"""What the first record has for the hash of the one before."""


class BrokenLogError(ConfigurationError):
    """An audit log is not what was written: nothing is decided on it."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"{problem}.", "docs/troubleshooting.md, section 'The audit log is broken', tells what to do about it."
        )


@dataclass(frozen=True)
class Record:
    """One row of the audit log."""

    model: str
    number: int
    at: datetime
    event: str
    """What happened, as canonical JSON."""
    previous: str
    """The hash of the record before."""
    hash: str
    signature: str | None = None
    """An envelope (DSSE) around what the record is; None where an observer without the key has written it."""

    @property
    def body(self) -> dict[str, Any]:
        """What happened; empty if the text is none of ours."""
        try:
            found = json.loads(self.event)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def unchanged(self) -> bool:
        """Whether its hash is that of its content."""
        return self.hash == hash_of(self.previous, self.model, self.number, self.event)

    @property
    def head(self) -> Head:
        """What is signed of it: enough to say that the log has come this far."""
        return Head(self.model, self.number, self.hash, self.at.astimezone(UTC).isoformat())


@dataclass(frozen=True)
class Head:
    """How far a log has come."""

    model: str
    number: int
    hash: str
    at: str

    @property
    def statement(self) -> bytes:
        """What a signature is made over."""
        return canonical(vars(self)).encode()

    @classmethod
    def verified(cls, envelope: str | bytes, model: str, what: str) -> Head:
        """Return how far a model's log had come, as an envelope says.

        Raises
        ------
        BrokenLogError
            If nobody with the key has signed it, or it is another model's.
        """
        try:
            head = cls(**json.loads(verify(envelope, PAYLOAD_TYPE, what)))
        except UntrustedError as error:
            raise BrokenLogError(error.message.rstrip(".")) from error
        if head.model != model:
            raise BrokenLogError(f"{what} is that of {head.model}")
        return head


class Fault(NamedTuple):
    """Something that is wrong with a log."""

    position: int
    """Of the record among all that there are, from 0; their count, where the end is wrong."""
    sentence: str
    """It names model, record and fault."""


def canonical(value: Any) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hash_of(previous: str, model: str, number: int, event: str) -> str:
    """Return the hash of a record: SHA-256 over the hash of the one before it, whose and which it is, and its text."""
    return sha256("\n".join((previous, model, str(number), event)).encode()).hexdigest()


def chained(before: Record | None, model: str, number: int, at: datetime, event: str, *, signed: bool) -> Record:
    """Return the record that follows another.

    Raises
    ------
    ConfigurationError
        If it has to be signed and this process was not given the key.
    """
    previous = before.hash if before else BEGINNING
    record = Record(model, number, at, event, previous, hash_of(previous, model, number, event))
    signature = sign(record.head.statement, PAYLOAD_TYPE) if signed else None
    return Record(**{**vars(record), "signature": signature})


def faults(
    model: str,
    records: Sequence[Record],
    needs_signature: Callable[[str], bool],
    head: Head | None,
    first: int = 1,
    verified: int = 0,
) -> Iterator[Fault]:
    """Yield what is wrong with a log.

    Parameters
    ----------
    model
        Whose log it is.
    records
        All of it, in the order in which they are kept.
    needs_signature
        Told the kind of an event; returns whether only who has the key may write it.
    head
        How far it has come at least, if that is known.
    first
        The number of the first record.
    verified
        Up to this number somebody with the key has found all to be good: if hashes and their order still are, the rest
        is too.
    """
    expected, previous, present = first, BEGINNING, {record.number for record in records}
    for position, record in enumerate(records):
        where = _where(model, record.number)
        if record.number != expected:
            yield Fault(position, _misplaced(model, record.number, expected, present))
        elif record.previous != previous:
            changed = "one of the two was changed or put in another's place"
            yield Fault(position, f"{where} does not follow the record before it: {changed}")
        if record.number > verified or not record.unchanged:
            yield from (Fault(position, sentence) for sentence in _faults_of(record, needs_signature, where))
        expected, previous = record.number + 1, record.hash
    if head is not None:
        yield from (Fault(len(records), sentence) for sentence in _against_head(model, records, head, first))


def _misplaced(model: str, number: int, expected: int, present: Set[int]) -> str:
    """Say why a record is not the expected one: those in between are lost, or it stands where another belongs."""
    if number < expected or any(expected <= other < number for other in present):
        return f"{_where(model, number)} stands where record {expected} belongs"
    last = number - 1
    missing = f"record {expected} is" if last == expected else f"records {expected} to {last} are"
    return f"the audit log of {model}: {missing} missing"


def _faults_of(record: Record, needs_signature: Callable[[str], bool], where: str) -> Iterator[str]:
    """Yield what is wrong with a record by itself."""
    body = record.body
    try:
        said: tuple[Any, ...] = (body.get("model"), body.get("number"), datetime.fromisoformat(str(body.get("at"))))
    except ValueError:
        said = ()
    if not said or canonical(body) != record.event:  # so that nobody reads another event in it than somebody else
        yield f"{where} holds no event as they are written"
        return
    if said != (record.model, record.number, record.at):
        yield f"{where}: its event is another record's, or of another time: {said[0]} {said[1]}, {said[2].isoformat()}"
    if not record.unchanged:
        yield f"{where} was changed: its hash is not that of its content"
        return
    if record.signature is None:
        if needs_signature(str(body.get("kind"))):
            yield f"{where} ({body.get('kind')}) is not signed: it was not written by who may decide"
        return
    try:
        if _signed(record.signature, where, get_settings().verification_keys) != record.head.statement:
            yield f"{where} bears the signature of another record"
    except UntrustedError as error:
        yield error.message.rstrip(".")


@lru_cache(maxsize=10_000)
def _signed(envelope: str, where: str, _keys: str) -> bytes:
    """Return what is signed, by the keys that are believed: a step reads its log several times."""
    return verify(envelope, PAYLOAD_TYPE, where)


def _against_head(model: str, records: Sequence[Record], head: Head, first: int) -> Iterator[str]:
    last = max((record.number for record in records), default=first - 1)
    if head.number > last:
        cut = f"ends with record {last}" if records else "is empty"
        yield f"the audit log of {model} {cut}, and its signed head is record {head.number}: the end was cut off"
        return
    at_head = next((record for record in records if record.number == head.number), None)
    if at_head is not None and at_head.head != head:
        yield f"{_where(model, head.number)} is not the one that the signed head is: it was replaced"


def _where(model: str, number: int) -> str:
    return f"the audit log of {model}: record {number}"
