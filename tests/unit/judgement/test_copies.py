"""A copy of the audit log, verified on a machine that has the public keys and nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decision_log_kit import MODEL, decided, event, four, invoke, log
from evergreen import cli
from evergreen.judgement.copies import verified_copy
from evergreen.settings import Settings, get_settings
from evergreen.store import get_store
from evergreen.trust.audit_log import head_key, records_of
from evergreen.trust.chain import canonical, hash_of
from evergreen.trust.keys import new_key

OTHER = "rivalled"


@pytest.fixture
def copy(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Export the logs of two models, and leave the machine: no database, no artifact store, no private key."""
    four()
    log(event("registered", "z", model=OTHER, version="7"))
    monkeypatch.delenv("EVERGREEN_SIGNING_KEY")
    get_settings.cache_clear()
    log(event("training_started", "b", by="ada"))
    file = tmp_path / "log.jsonl"
    assert invoke("audit", "export", str(file)) == (f"{file}: 6 records\n", "")
    monkeypatch.setenv("EVERGREEN_ARTIFACT_ROOT", "s3://nowhere/at-all")
    for name in ("DATABASE_URL", "AUDIT_DATABASE_URL"):
        monkeypatch.delenv(f"EVERGREEN_{name}", raising=False)
    get_settings.cache_clear()
    return file


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def test_a_copy_that_is_as_it_was_made_verifies(copy: Path) -> None:
    printed, error = invoke("audit", "verify", "--file", str(copy))
    assert error == ""
    assert printed == f"{MODEL}: ok: 5 records, 4 of them signed\n{OTHER}: ok: 1 records, 1 of them signed\n"
    assert invoke("audit", "verify", OTHER, "--file", str(copy)) == (printed.splitlines(keepends=True)[1], "")


def test_a_copy_passes_through_a_tool_that_writes_json_its_own_way(copy: Path) -> None:
    text = "\r\n".join(json.dumps(row, indent=None, sort_keys=True, ensure_ascii=False) for row in rows(copy))
    copy.write_bytes(f"\r\n{text}".encode())
    assert invoke("audit", "verify", "--file", str(copy))[1] == ""


def edited(file: Path) -> None:
    file.write_text(file.read_text().replace("ada", "eve", 1))


def edited_with_its_hash(file: Path) -> None:
    found = rows(file)
    row = found[2]
    row["event"] = canonical({**json.loads(row["event"]), "by": "eve"})
    row["hash"] = hash_of(row["previous"], row["model"], row["number"], row["event"])
    write(file, found)


def deleted(file: Path) -> None:
    found = rows(file)
    write(file, [*found[:1], *found[2:]])


def swapped(file: Path) -> None:
    one, two, three, *rest = rows(file)
    write(file, [one, three, two, *rest])


def cut_off(file: Path) -> None:
    found = rows(file)
    write(file, [*found[:3], *found[5:]])


def cut_off_with_the_head(file: Path) -> None:
    write(file, rows(file)[:3])


def an_observation_cut_off(file: Path) -> None:
    found = rows(file)
    write(file, [*found[:4], *found[5:]])


def twice(file: Path) -> None:
    found = rows(file)
    write(file, [*found[:2], *found[1:]])


def exported_twice(file: Path) -> None:
    file.write_text(file.read_text() * 2)


def unsigned(file: Path) -> None:
    found = rows(file)
    found[3]["signature"] = None
    write(file, found)


def an_older_head(file: Path) -> None:
    found = rows(file)
    found[5]["head"] = found[1]["signature"]
    write(file, found)


def the_head_of_another(file: Path) -> None:
    found = rows(file)
    found[5]["head"] = found[7]["head"]
    write(file, found)


def without_a_head(file: Path) -> None:
    found = rows(file)
    found[5]["head"] = None
    write(file, found)


def a_head_of_nobody(file: Path) -> None:
    found = rows(file)
    found[5]["head"] = "{}"
    write(file, found)


HERE = f"the audit log of {MODEL}: record"
DAMAGE: list[tuple[Callable[[Path], None], str]] = [
    (edited, f"line 3: {HERE} 3 was changed: its hash is not that of its content"),
    (edited_with_its_hash, f"line 3: {HERE} 3 bears the signature of another record"),
    (edited_with_its_hash, f"line 4: {HERE} 4 does not follow the record before it"),
    (deleted, f"line 2: the audit log of {MODEL}: record 2 is missing"),
    (swapped, f"line 2: {HERE} 3 stands where record 2 belongs"),
    (swapped, f"line 3: {HERE} 2 stands where record 4 belongs"),
    (cut_off, f"line 4: the audit log of {MODEL} ends with record 3, and its signed head is record 4"),
    (cut_off_with_the_head, f"the audit log of {MODEL} has no line with its head: its end was cut off"),
    (an_observation_cut_off, f"line 5: the audit log of {MODEL}: 5 records were copied, and 4 are there"),
    (twice, f"line 3: {HERE} 2 stands where record 3 belongs"),
    (exported_twice, f"the audit log of {MODEL} has several heads"),
    (unsigned, f"line 4: {HERE} 4 (promoted) is not signed"),
    (an_older_head, f"line 6: the audit log of {MODEL}: its head is record 2, and the last signed one is 4"),
    (the_head_of_another, f"line 6: the head of the audit log of {MODEL} is that of {OTHER}"),
    (without_a_head, f"line 6: the audit log of {MODEL}: its head was lost before it was copied"),
    (a_head_of_nobody, f"line 6: the head of the audit log of {MODEL} is no signed envelope"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGE, ids=[f"{one.__name__}-{n}" for n, (one, _) in enumerate(DAMAGE)])
def test_what_was_done_to_a_copy_is_named_with_file_line_model_and_record(
    copy: Path, damage: Callable[[Path], None], said: str
) -> None:
    damage(copy)
    printed, error = invoke("audit", "verify", "--file", str(copy))
    assert f"  {copy}: {said}" in printed
    assert f"{copy} is not what was written" in error
    if damage is not exported_twice and damage is not cut_off_with_the_head:
        assert f"{OTHER}: ok: 1 records" in printed


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "Expecting property name"),
        (b"[]", "Input should be a valid dictionary"),
        (b"\xff", "can't decode byte 0xff"),
        (b'{"model": "raced"}', "number: Field required"),
        (b'{"model": "raced", "model": "other"}', "it has a name twice"),
        (b'{"model": "../raced", "records": 1, "head": null}', "lower-case letters"),
        (b'{"model": "raced", "records": "many", "head": null}', "records: Input should be a valid integer"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_line_that_is_no_record_is_named_and_the_others_are_judged(copy: Path, line: bytes, said: str) -> None:
    whole = copy.read_bytes().splitlines(keepends=True)
    copy.write_bytes(b"".join([*whole[:1], line + b"\n", *whole[1:]]))
    printed, error = invoke("audit", "verify", "--file", str(copy))
    assert f"{copy}: line 2 is no record as it is exported: " in printed
    assert said in printed
    assert len(printed) < 1000
    assert f"{MODEL}: no finding in the lines that can be read: 5 records" in printed
    assert ": ok" not in printed
    assert "is not what was written" in error


@pytest.mark.parametrize(
    ("column", "value"),
    [("note", "fine"), ("number", "2"), ("at", "2013-06-01T12:00:00"), ("at", "0001-01-01T00:00:00+14:00")],
)
def test_what_a_record_never_has_is_no_record(copy: Path, column: str, value: str) -> None:
    found = rows(copy)
    found[1][column] = value
    write(copy, found)
    printed, _ = invoke("audit", "verify", "--file", str(copy))
    assert f"{copy}: line 2 is no record as it is exported" in printed
    assert f"line 3: the audit log of {MODEL}: record 2 is missing" in printed


@pytest.mark.parametrize(
    ("column", "text"),
    [("event", "[" * 100_000), ("event", '{"at": "2013-06-01T12:00:00+00:00", "x": "\ud800"}'), ("previous", "\ud800")],
)
def test_text_that_breaks_readers_is_a_finding(copy: Path, column: str, text: str) -> None:
    found = rows(copy)
    found[1][column] = text
    write(copy, found)
    assert f"{copy}: line 2" in invoke("audit", "verify", "--file", str(copy))[0]


def test_a_forged_beginning_is_a_finding(copy: Path) -> None:
    """A number that Python does not read."""
    found = rows(copy)
    earlier = {f"decision_log/{MODEL}/{'9' * 5000}.json": "0" * 64}
    found[0]["event"] = canonical({**json.loads(found[0]["event"]), "earlier": earlier})
    write(copy, found)
    assert f"{copy}: line 1: {HERE} 1 was changed" in invoke("audit", "verify", "--file", str(copy))[0]


def test_the_exit_code_of_findings_is_78(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(copy)
    monkeypatch.setattr(sys, "argv", ["evergreen", "audit", "verify", "--file", str(copy)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 78


def test_without_keys_it_says_how_to_name_them(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = get_settings().verification_keys
    monkeypatch.setenv("EVERGREEN_VERIFICATION_KEYS", "")
    get_settings.cache_clear()
    error = invoke("audit", "verify", "--file", str(copy))[1]
    assert "EVERGREEN_VERIFICATION_KEYS is not set" in error
    assert "as PEM or in one line; several stand one after another" in error
    _, public = new_key()
    for keys, good in ((public, False), (f"{public} {ours}", True)):
        monkeypatch.setenv("EVERGREEN_VERIFICATION_KEYS", keys)
        get_settings.cache_clear()
        printed, error = invoke("audit", "verify", "--file", str(copy))
        assert ("is signed by the key" in printed, error == "") == (not good, good)


def test_a_file_that_is_not_there_or_has_nothing_is_said(copy: Path, tmp_path: Path) -> None:
    assert "No such file or directory" in invoke("audit", "verify", "--file", str(tmp_path / "none"))[1]
    (tmp_path / "empty").touch()
    assert "it has no record. Models in it: none" in invoke("audit", "verify", "--file", str(tmp_path / "empty"))[1]
    error = invoke("audit", "verify", "churn", "--file", str(copy))[1]
    assert f"it has no record of churn. Models in it: {MODEL}, {OTHER}" in error


def test_what_is_only_observed_has_no_head(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text("")
    log(decided("a"))
    (settings.state_dir / "artifacts" / head_key(MODEL)).unlink()
    invoke("audit", "export", str(file))
    assert "its head was lost before it was copied" in invoke("audit", "verify", "--file", str(file))[0]
    write(file, [{"model": OTHER, "records": 0, "head": None}])
    assert invoke("audit", "verify", "--file", str(file)) == (f"{OTHER}: ok: 0 records, 0 of them signed\n", "")


def test_a_log_that_begins_with_files_of_an_earlier_version_is_copied_from_its_first_record(
    settings: Settings, tmp_path: Path
) -> None:
    get_store().write(
        f"decision_log/{MODEL}/000002.json", event("registered", "a", version="1").model_dump_json().encode()
    )
    log(event("promoted", "a", version="1"))
    assert [record.number for record in records_of(MODEL)] == [3]
    file = tmp_path / "log.jsonl"
    invoke("audit", "export", str(file))
    (log_there,), wrong = verified_copy(file)
    assert ([record.number for record in log_there.records], log_there.findings, wrong) == ([3], [], [])
