"""A copy of audit logs in a file, and whether it is what was written.

Who verifies a copy needs the public keys, and neither the database nor the artifact store. A line is a record with all
its columns; the line after a model's records is how far its log has come, signed, so that a cut end is found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from pydantic import AwareDatetime, StrictInt, ValidationError

from evergreen.contract import ConfigurationError, Frozen, Name, printable
from evergreen.judgement.audit import examined, head_findings
from evergreen.store import ArtifactStore
from evergreen.trust.audit_log import head_key, records_of
from evergreen.trust.chain import BrokenLogError, Head, Record
from evergreen.trust.keys import verification_keys


class _RecordLine(Frozen):
    """A record, as a line has it: the names are the columns of the table, and there are no others."""

    model: Name
    number: StrictInt
    at: AwareDatetime
    event: str
    previous: str
    hash: str
    signature: str | None


class _HeadLine(Frozen):
    """What follows the records of a model: how far its log had come when the copy was made."""

    model: Name
    records: StrictInt
    """How many were copied. Nobody has signed that; it tells of observations that were lost at the end."""
    head: str | None
    """The envelope; None where it was lost, or nothing is signed."""


@dataclass
class CopiedLog:
    """What a file has of one model's log."""

    model: str
    records: list[Record] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    """What is wrong with it, a sentence each, with file, line, model and record."""
    lines: list[int] = field(default_factory=list)
    """The number of each record's line."""
    heads: list[tuple[int, _HeadLine]] = field(default_factory=list)
    """With the number of its line; there has to be one."""


def lines_of(store: ArtifactStore, models: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a copy of some models' logs, without their ends."""
    for model in models:
        records, head = _as_of_now(store, model)
        yield from (json.dumps({**vars(record), "at": record.at.isoformat()}) for record in records)
        yield json.dumps({"model": model, "records": len(records), "head": head})


def _as_of_now(store: ArtifactStore, model: str) -> tuple[Sequence[Record], str | None]:
    """Return records and head as they belong together, also while somebody adds one."""
    records, head = records_of(model), store.read(head_key(model))
    text = None if head is None else head.decode(errors="replace")
    if text not in {None, *(record.signature for record in records)}:  # it may have come further meanwhile
        records = records_of(model)
    return records, text


def verified_copy(file: Path) -> tuple[list[CopiedLog], list[str]]:
    """Return the logs in a file, with what is wrong with each; and a sentence for each line that is no record.

    Raises
    ------
    ConfigurationError
        If there is no such file, or no key is known that signatures could be verified by.
    """
    verification_keys()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{file}: {error.strerror}.", "Name a file that evergreen audit export made."
        ) from error
    logs: dict[str, CopiedLog] = {}
    wrong: list[str] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            _take(logs, number, _row(line))
        except (ValueError, OverflowError, RecursionError) as error:
            wrong.append(f"{file}: line {number} is no record as it is exported: {_why(error)}")
    for log in logs.values():
        log.findings += _findings(file, log)
    return [logs[model] for model in sorted(logs)], wrong


def _row(line: bytes) -> Record | _HeadLine:
    row = json.loads(line.decode(), object_pairs_hook=_named_once)
    json.dumps(row, ensure_ascii=False).encode()  # half a character has no hash
    if isinstance(row, dict) and "head" in row:
        return _HeadLine.model_validate(row)
    record = _RecordLine.model_validate(row)
    return Record(**{**record.model_dump(), "at": record.at.astimezone(UTC)})


def _take(logs: dict[str, CopiedLog], number: int, row: Record | _HeadLine) -> None:
    log = logs.setdefault(row.model, CopiedLog(row.model))
    if isinstance(row, _HeadLine):
        log.heads.append((number, row))
    else:
        log.records.append(row)
        log.lines.append(number)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that is there twice: two readers would read two things."""
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        raise ValueError("it has a name twice")
    return dict(pairs)


def _why(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problems = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}".removeprefix(": ") for one in error.errors())
        return printable("; ".join(problems))
    return printable(str(error) or type(error).__name__)


def _findings(file: Path, log: CopiedLog) -> Iterator[str]:
    """Yield what is wrong with a model's lines; the place of a fault at the end is the line of the head."""
    where = f"the audit log of {log.model}"
    if len(log.heads) != 1:
        what = "no line with its head: its end was cut off" if not log.heads else "several heads: it is put together"
        yield f"{file}: {where} has {what}, or the file is not as it was exported"
    number, last = log.heads[0] if log.heads else (log.lines[-1], None)
    place = f"{file}: line {number}"
    head = None
    if last is not None and last.head is not None:
        try:
            head = Head.verified(last.head, log.model, f"{place}: the head of {where}")
        except BrokenLogError as error:
            yield error.message.rstrip(".")
    lost = "its head was lost before it was copied"
    _, problems = examined(log.model, log.records, head)
    lines = [*log.lines, number]
    yield from (f"{file}: line {lines[at]}: {problem.message.rstrip('.')}" for at, problem in problems)
    if last is not None and (head is not None or last.head is None):
        yield from (f"{place}: {finding}" for finding in head_findings(log.model, log.records, head, lost))
    if last is not None and not problems and last.records != len(log.records):
        yield f"{place}: {where}: {last.records} records were copied, and {len(log.records)} are there"
