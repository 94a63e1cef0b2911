"""Who signs and who is believed: keys as people give them, and envelopes that were tampered with."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from evergreen.contract import ConfigurationError
from evergreen.environment import complete
from evergreen.settings import SIGNING_KEY, VERIFICATION_KEYS, get_settings
from evergreen.trust import keys

KIND = "application/vnd.evergreen.test+json"
OTHER = "application/vnd.evergreen.other+json"


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A key that this process signs with and believes."""
    private, public = keys.new_key()
    use(monkeypatch, private, public)
    return private, public


def use(monkeypatch: pytest.MonkeyPatch, private: str | None, *public: str) -> None:
    """Give this process keys."""
    if private is None:
        monkeypatch.delenv(SIGNING_KEY, raising=False)
    else:
        monkeypatch.setenv(SIGNING_KEY, private)
    monkeypatch.setenv(VERIFICATION_KEYS, "\n".join(public))
    get_settings.cache_clear()


def pem(kind: str, body: str) -> str:
    return f"-----BEGIN {kind} KEY-----\n{body[:64]}\n{body[64:]}\n-----END {kind} KEY-----\n"


def changed(envelope: str, **fields: object) -> str:
    return json.dumps(json.loads(envelope) | fields)


def test_what_is_signed_comes_back(pair: tuple[str, str]) -> None:
    assert keys.verify(keys.sign(b"a document", KIND), KIND) == b"a document"


def test_who_only_verifies_needs_no_private_key(monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]) -> None:
    envelope = keys.sign(b"a document", KIND)
    use(monkeypatch, None, pair[1])
    assert keys.verify(envelope, KIND) == b"a document"
    with pytest.raises(ConfigurationError, match="has to be signed, and EVERGREEN_SIGNING_KEY is not set"):
        keys.sign(b"another", KIND)


@pytest.mark.parametrize(
    ("tampered", "error", "sentence"),
    [
        (lambda _: None, keys.UnsignedError, "is not signed"),
        (lambda envelope: changed(envelope, signatures=[]), keys.UnsignedError, "is not signed"),
        (lambda envelope: changed(envelope, payload=base64.b64encode(b"b").decode()), keys.ChangedError, "was changed"),
        (lambda envelope: changed(envelope, payloadType=OTHER), keys.ChangedError, "another kind of document"),
        (lambda envelope: envelope[:-1], keys.ChangedError, "no signed envelope"),
        (lambda _: "[" * 100_000, keys.ChangedError, "no signed envelope"),
        (lambda _: "[]", keys.ChangedError, "no signed envelope"),
        (lambda _: '{"signatures": [{"keyid": "a", "sig": "?"}]}', keys.ChangedError, "no signed envelope"),
    ],
)
def test_a_tampered_envelope_is_refused(
    pair: tuple[str, str], tampered: object, error: type[Exception], sentence: str
) -> None:
    envelope = keys.sign(b"a", KIND)
    with pytest.raises(error, match=sentence) as refused:
        keys.verify(tampered(envelope), KIND, "model.json")  # type: ignore[operator]
    assert str(refused.value).startswith("model.json")


def test_another_kind_of_document_does_not_pass_for_this_one(pair: tuple[str, str]) -> None:
    """The type is signed too: an envelope relabelled with the type that is asked for is a changed one."""
    relabelled = changed(keys.sign(b"a", OTHER), payloadType=KIND)
    with pytest.raises(keys.ChangedError, match="was changed"):
        keys.verify(relabelled, KIND)


def test_keys_may_change_and_a_foreign_one_is_refused(monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]) -> None:
    old = keys.sign(b"old", KIND)
    private, public = keys.new_key()
    use(monkeypatch, private, pair[1], public)
    assert [keys.verify(envelope, KIND) for envelope in (old, keys.sign(b"new", KIND))] == [b"old", b"new"]
    use(monkeypatch, private, public)
    with pytest.raises(keys.WrongKeyError, match="is not one of those in EVERGREEN_VERIFICATION_KEYS"):
        keys.verify(old, KIND)


def test_a_foreign_signature_under_the_id_of_a_known_key_is_refused(
    monkeypatch: pytest.MonkeyPatch, pair: tuple[str, str]
) -> None:
    known = json.loads(keys.sign(b"a", KIND))["signatures"][0]["keyid"]
    use(monkeypatch, *(foreign := keys.new_key()))
    forged = json.loads(keys.sign(b"a", KIND))
    forged["signatures"][0]["keyid"] = known
    use(monkeypatch, None, pair[1], foreign[1])
    with pytest.raises(keys.ChangedError):
        keys.verify(json.dumps(forged), KIND)


def test_keys_are_read_as_openssl_writes_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    private, public = tmp_path / "signing.pem", tmp_path / "verification.pem"
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)]
    for command in (make, ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)]):
        subprocess.run(command, check=True, capture_output=True)
    use(monkeypatch, private.read_text(), public.read_text(), pem("PUBLIC", keys.new_key()[1]))
    assert len(keys.verification_keys()) == 2
    assert keys.verify(keys.sign(b"a", KIND), KIND) == b"a"
    body = "".join(public.read_text().splitlines()[1:-1])
    assert keys.published(private.read_text(), public.read_text()) == body
    assert keys.published(keys.in_one_line(private.read_text())) == body


@pytest.mark.parametrize(
    ("private", "public", "sentence"),
    [
        ("s3cret", "public", "EVERGREEN_SIGNING_KEY: key 1 cannot be read"),
        (" ", "public", "has to be signed, and EVERGREEN_SIGNING_KEY is not set"),
        ("private", "s3cret", "EVERGREEN_VERIFICATION_KEYS: key 1 cannot be read"),
        ("private", "", "EVERGREEN_VERIFICATION_KEYS is not set"),
        ("foreign", "public", "public half of EVERGREEN_SIGNING_KEY is not in"),
    ],
)
def test_a_key_that_cannot_be_used_says_so_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, private: str, public: str, sentence: str
) -> None:
    made = dict(zip(("private", "public"), keys.new_key(), strict=True)) | {"foreign": keys.new_key()[0]}
    use(monkeypatch, made.get(private, private), made.get(public, public))
    with pytest.raises(ConfigurationError, match=sentence) as refused:
        keys.sign(b"a", KIND)
    assert "s3cret" not in str(refused.value)


def test_a_key_of_another_curve_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = subprocess.run(
        ["openssl", "ecparam", "-name", "secp384r1", "-genkey", "-noout"], check=True, capture_output=True, text=True
    )
    use(monkeypatch, made.stdout, keys.new_key()[1])
    with pytest.raises(ConfigurationError, match="key 1 is not of the curve P-256"):
        keys.sign(b"a", KIND)


def test_what_a_process_starts_does_not_inherit_the_key(pair: tuple[str, str]) -> None:
    ask = [sys.executable, "-c", f"import os; print({SIGNING_KEY!r} in os.environ)"]
    before = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
    complete(("signing",))
    after = subprocess.run(ask, check=True, capture_output=True, text=True).stdout
    assert (before, after) == ("True\n", "False\n")
    assert keys.verify(keys.sign(b"a", KIND), KIND) == b"a"
