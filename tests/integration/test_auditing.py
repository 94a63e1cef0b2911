"""docs/auditing.md, as an auditor types it: with the public keys only."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from decision_log_kit import decided, event
from documented import page_commands, run_cli
from evergreen.judgement.audit import append
from evergreen.settings import PROJECT_ROOT, Settings, get_settings
from evergreen.store import get_store

pytestmark = pytest.mark.integration

MODEL = "flight_delay"


def test_the_commands_answer_what_the_page_asks(
    audit_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    append(get_store(), decided("a", model=MODEL, champion=None, why="better than no model"))
    append(get_store(), event("promoted", "a", model=MODEL, version="1", by="ada"))
    monkeypatch.delenv("EVERGREEN_SIGNING_KEY")
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    shown = page_commands(PROJECT_ROOT / "docs/auditing.md")
    printed = {" ".join(words[1:]): run_cli(words, monkeypatch, capsys) for words in shown}
    assert printed["audit verify"] == printed["audit verify flight_delay"]
    assert printed["audit verify"] == "flight_delay: ok: 2 records, 2 of them signed\n"
    then = printed["history flight_delay --at 2013-06-01T12:00"]
    assert then.startswith("flight_delay: version 1 at 2013-06-01 12:00 UTC, since 2013-06-01 12:00\n")
    for said in ("auc: baseline 0.5000, challenger 0.7500", "better than no model", "by drift"):
        assert said in then
    assert "2013-05-31  promote: version 1" in printed["history flight_delay"]
    assert "promoted version 1" in printed["audit show flight_delay"]
    assert printed["audit export audit.jsonl"] == "audit.jsonl: 2 records\n"
    assert (tmp_path / "audit.jsonl").read_text() == printed["audit export --model flight_delay -"]
    first, second, head = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert (head["records"], head["head"]) == (2, second["signature"])
    assert printed["audit verify --file audit.jsonl"] == printed["audit verify flight_delay --file audit.jsonl"]
    assert printed["audit verify --file audit.jsonl"] == printed["audit verify"]
    assert second["previous"] == first["hash"]
    for row in (first, second):  # as the page says
        parts = (row["previous"], row["model"], str(row["number"]), row["event"])
        assert row["hash"] == sha256("\n".join(parts).encode()).hexdigest()
    assert len(printed) == len(shown)
