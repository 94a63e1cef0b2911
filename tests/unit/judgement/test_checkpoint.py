"""A checkpoint saves time and nothing else: what was done to a log past the steps is found as without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from audit_log_kit import TAMPERED, found, sign_with_that_of_another, superuser, unsign
from decision_log_kit import MODEL, decided, event, four, invoke, log
from evergreen.contract import ConfigurationError
from evergreen.judgement.audit import append, read_events
from evergreen.judgement.events import DECIDE, EventKind
from evergreen.settings import Settings, get_settings
from evergreen.store import get_store
from evergreen.trust import chain
from evergreen.trust.audit_log import records_of
from evergreen.trust.checkpoint import PAYLOAD_TYPE, Checkpoint, checkpoint_key, write_checkpoint
from evergreen.trust.keys import new_key, sign, verify

KEY = checkpoint_key(MODEL)


@pytest.fixture
def eager(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a checkpoint with every signed record, and ask for it at the first."""
    monkeypatch.setattr("evergreen.trust.checkpoint.WORTH", 0)


def verified() -> int:
    """Read the log; returns how many signatures of records that took."""
    chain._signed.cache_clear()
    read_events(get_store(), MODEL)
    return chain._signed.cache_info().misses


def checkpoint(**changes: Any) -> None:
    """Change what the checkpoint says, and sign that."""
    content = json.loads(verify(get_store().read(KEY), PAYLOAD_TYPE))
    get_store().write(KEY, sign(chain.canonical({**content, **changes}).encode(), PAYLOAD_TYPE).encode())


def test_signatures_are_verified_from_the_checkpoint_on(
    settings: Settings, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    four()
    assert verified() == 0
    monkeypatch.setattr("evergreen.trust.checkpoint.WORTH", 3)
    log(decided("b"), event("registered", "b", version="3"))
    assert verified() == 2, "too few for another one"
    log(decided("c"), decided("d"))
    assert verified() == 0, "three were verified one by one before the last was added"


def test_a_short_log_has_none(settings: Settings) -> None:
    four()
    assert get_store().read(KEY) is None
    assert verified() == 4


FOUND = [(tamper, said) for tamper, said in TAMPERED if tamper not in {unsign, sign_with_that_of_another}]


@pytest.mark.parametrize(("tamper", "said"), FOUND, ids=[f"{one.__name__}-{n}" for n, (one, _) in enumerate(FOUND)])
def test_every_change_of_what_is_told_is_found_in_the_same_words(
    settings: Settings, eager: None, tamper: Callable[[], None], said: str
) -> None:
    four()
    tamper()
    assert said in found()


def antedate_the_second() -> None:
    superuser("UPDATE audit_log SET at = at - interval '1 day' WHERE number = 2")


@pytest.mark.parametrize("tamper", [antedate_the_second, unsign, sign_with_that_of_another])
def test_what_changes_no_event_changes_no_decision_and_the_auditor_finds_it(
    settings: Settings, eager: None, tamper: Callable[[], None]
) -> None:
    """The columns beside the text: the checkpoint stands for the signature that was good, the text has the time."""
    four()
    before = read_events(get_store(), MODEL)
    tamper()
    assert read_events(get_store(), MODEL) == before
    printed, error = invoke("audit", "verify", MODEL)
    assert f"the audit log of {MODEL}: record " in printed
    assert "is not as it was written" in error
    log(decided("later"))
    assert "finding" in invoke("audit", "verify", MODEL)[0], "nothing that is added heals it"


def refuses() -> str:
    with pytest.raises(ConfigurationError) as refused:
        read_events(get_store(), MODEL)
    return str(refused.value)


def test_a_checkpoint_of_a_key_that_is_not_believed_any_more_stands_for_nothing(
    settings: Settings, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stolen key has signed a record; a good one a checkpoint, while both were believed."""
    private, public = new_key()
    log(decided("forged"))
    monkeypatch.setenv("EVERGREEN_SIGNING_KEY", private)
    monkeypatch.setenv("EVERGREEN_VERIFICATION_KEYS", f"{get_settings().verification_keys} {public}")
    get_settings.cache_clear()
    log(event("registered", "forged", version="7"))
    assert verified() == 0
    monkeypatch.setenv("EVERGREEN_VERIFICATION_KEYS", public)
    get_settings.cache_clear()
    assert "record 1 is signed by the key" in refuses()


def test_a_key_more_changes_nothing(settings: Settings, eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    four()
    monkeypatch.setenv("EVERGREEN_VERIFICATION_KEYS", f"{get_settings().verification_keys} {new_key()[1]}")
    get_settings.cache_clear()
    assert verified() == 0


def test_a_checkpoint_of_who_let_more_pass_unsigned_stands_for_nothing(settings: Settings, eager: None) -> None:
    """During an upgrade an older version signs on top of a kind of record that it takes for an observation."""
    four()
    superuser("UPDATE audit_log SET signature = NULL WHERE number = 3")
    assert verified() == 0
    checkpoint(kinds=sorted(DECIDE - {EventKind.APPROVED}))
    assert "record 3 (approved) is not signed" in refuses()
    checkpoint(kinds=sorted({*DECIDE, "of a newer version"}))
    assert verified() == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"rules": 0},
        {"model": "another"},
        {"number": 3},
        {"hash": "0" * 64},
        {"number": 9},
        {"more": "of a newer version"},
    ],
    ids=str,
)
def test_a_checkpoint_of_other_rules_or_other_records_stands_for_nothing(
    settings: Settings, eager: None, changes: dict[str, Any]
) -> None:
    four()
    checkpoint(**changes)
    assert verified() == 4


def test_an_older_checkpoint_leaves_more_to_verify(settings: Settings, eager: None) -> None:
    four()
    write_checkpoint(get_store(), records_of(MODEL)[1], DECIDE, 4)
    assert verified() == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[]"])
def test_a_forged_checkpoint_stands_for_nothing_and_stops_nobody(
    settings: Settings, eager: None, content: bytes
) -> None:
    four()
    get_store().write(KEY, content)
    assert verified() == 4
    log(decided("b"))
    assert verified() == 0, "the next signed record writes it again"


def test_a_checkpoint_that_a_stranger_signed_stands_for_nothing(
    settings: Settings, eager: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    four()
    ours = {name: getattr(get_settings(), name) for name in ("signing_key", "verification_keys")}
    private, public = new_key()
    monkeypatch.setenv("EVERGREEN_SIGNING_KEY", private)
    monkeypatch.setenv("EVERGREEN_VERIFICATION_KEYS", public)
    get_settings.cache_clear()
    write_checkpoint(get_store(), records_of(MODEL)[-1], DECIDE, 4)
    monkeypatch.setenv("EVERGREEN_SIGNING_KEY", ours["signing_key"].get_secret_value())
    monkeypatch.setenv("EVERGREEN_VERIFICATION_KEYS", ours["verification_keys"])
    get_settings.cache_clear()
    assert verified() == 4


def test_a_record_s_own_signature_is_no_checkpoint(settings: Settings, eager: None) -> None:
    """DSSE covers the kind of document."""
    four()
    signature = records_of(MODEL)[-1].signature
    assert signature
    get_store().write(KEY, signature.encode())
    assert verified() == 4


def test_what_is_added_after_it_is_verified(settings: Settings, eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    four()
    monkeypatch.setattr("evergreen.trust.checkpoint.WORTH", 2)
    log(decided("b"))
    superuser("UPDATE audit_log SET signature = NULL WHERE number = 5")
    assert "record 5 (decided) is not signed" in refuses()
    with pytest.raises(ConfigurationError):
        append(get_store(), decided("later"))


def test_what_a_checkpoint_says(settings: Settings, eager: None) -> None:
    four()
    last = records_of(MODEL)[-1]
    said = Checkpoint(**json.loads(verify(get_store().read(KEY), PAYLOAD_TYPE)))
    assert (said.model, said.number, said.hash) == (MODEL, 4, last.hash)
    assert said.covers(MODEL, [last], DECIDE)
    assert not said.covers("another", [last], DECIDE)
