"""What may be done to an audit log past the steps, and how whoever reads it then says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import pytest

from decision_log_kit import MODEL, decided, event, invoke
from evergreen.contract import ConfigurationError
from evergreen.judgement.audit import append, read_events
from evergreen.settings import get_settings
from evergreen.store import get_store
from evergreen.trust.audit_log import head_key, insert, records_of
from evergreen.trust.chain import canonical, chained, hash_of

NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)
HEAD = head_key(MODEL)


def superuser(statement: str, *values: object) -> None:
    """Change what nobody may change: a session that replicates fires no trigger."""
    address = get_settings().database("audit").replace("+psycopg", "")
    with psycopg.connect(address) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement, values)


def found() -> str:
    """Return what the auditor's command finds, and every reader refuses for too."""
    printed, error = invoke("audit", "verify", MODEL)
    assert f"The audit log of {MODEL} is not as it was written" in error
    with pytest.raises(ConfigurationError) as refused:
        read_events(get_store(), MODEL)
    assert refused.value.message.rstrip(".") in printed
    with pytest.raises(ConfigurationError):
        append(get_store(), decided("later"))
    return printed


def rewritten(number: int, **changes: object) -> None:
    """Edit an event and its hash, as one does who knows how the log is made."""
    record = records_of(MODEL)[number - 1]
    text = canonical({**record.body, **changes})
    digest = hash_of(record.previous, MODEL, number, text)
    superuser("UPDATE audit_log SET event = %s, hash = %s WHERE number = %s", text, digest, number)


def edit() -> None:
    superuser("UPDATE audit_log SET event = replace(event, 'ada', 'eve') WHERE number = 3")


def edit_and_hash() -> None:
    rewritten(3, by="eve")


def delete() -> None:
    superuser("DELETE FROM audit_log WHERE number = 2")


def delete_the_first_two() -> None:
    superuser("DELETE FROM audit_log WHERE number < 3")


def swap() -> None:
    for now, then in ((2, 12), (3, 2), (12, 3)):
        superuser("UPDATE audit_log SET number = %s WHERE number = %s", then, now)


def cut_the_end() -> None:
    superuser("DELETE FROM audit_log WHERE number = 4")


def empty() -> None:
    superuser("DELETE FROM audit_log")


def antedate() -> None:
    superuser("UPDATE audit_log SET at = at - interval '1 day' WHERE number = 4")


def unsign() -> None:
    superuser("UPDATE audit_log SET signature = NULL WHERE number = 1")


def sign_with_that_of_another() -> None:
    superuser("UPDATE audit_log SET signature = (SELECT signature FROM audit_log WHERE number = 1) WHERE number = 2")


def add_unsigned() -> None:
    last = records_of(MODEL)[-1]
    body = json.loads(event("promoted", "a", version="7", previous="2").model_dump_json())
    text = canonical({**body, "number": 5})
    assert insert(chained(last, MODEL, 5, NOON, text, signed=False))


def add_nonsense() -> None:
    assert insert(chained(records_of(MODEL)[-1], MODEL, 5, NOON, "{", signed=False))


def write_a_head() -> None:
    get_store().write(HEAD, b"{}")


TAMPERED: list[tuple[Callable[[], None], str]] = [
    (edit, "record 3 was changed: its hash is not that of its content"),
    (edit_and_hash, "record 3 bears the signature of another record"),
    (edit_and_hash, "record 4 does not follow the record before it"),
    (delete, "record 2 is missing"),
    (delete_the_first_two, "records 1 to 2 are missing"),
    (swap, "record 2: its event is another record's"),
    (cut_the_end, "ends with record 3, and its signed head is record 4: the end was cut off"),
    (empty, "is empty, and its signed head is record 4: the end was cut off"),
    (antedate, "record 4: its event is another record's, or of another time"),
    (unsign, "record 1 (decided) is not signed: it was not written by who may decide"),
    (sign_with_that_of_another, "record 2 bears the signature of another record"),
    (add_unsigned, "record 5 (promoted) is not signed: it was not written by who may decide"),
    (add_nonsense, "record 5 holds no event as they are written"),
    (write_a_head, "the head of the audit log of raced is no signed envelope"),
]
