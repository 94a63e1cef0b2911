"""What the reports of a partition propose."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from evergreen.contract import ConfigurationError
from evergreen.monitoring.proposal import read_proposal, report_id, report_key
from evergreen.store import LocalStore

DAY = date(2013, 4, 30)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def write(store: LocalStore, file: str, report: dict[str, object]) -> None:
    store.write(report_key("toy", DAY, file), json.dumps(report).encode())


@pytest.mark.parametrize(
    ("verdict", "worse", "retrain"),
    [
        ("drift", None, True),
        ("drift", False, True),
        ("stable", None, False),
        ("stable", False, False),
        ("stable", True, True),
        ("insufficient", None, False),
        ("insufficient", True, True),
    ],
)
def test_drift_or_a_worse_champion_proposes(store: LocalStore, verdict: str, worse: bool | None, retrain: bool) -> None:
    write(store, "drift.json", {"report_id": "r", "verdict": verdict, "drifted_share": 0.4})
    if worse is not None:
        write(store, "performance.json", {"proposal": worse, "why": "AUC 0.60 after 0.70"})
    proposal = read_proposal(store, "toy", DAY)
    assert proposal is not None
    assert proposal.retrain is retrain
    assert ("AUC 0.60 after 0.70" in proposal.why) is bool(worse)


def test_a_proposal_is_named_by_every_report_that_makes_it(store: LocalStore) -> None:
    """Labels that came late change the one report and not the other: that is another proposal."""

    def named(worse: bool, report_id: str) -> str:
        write(store, "performance.json", {"proposal": worse, "why": "w", "report_id": report_id})
        proposal = read_proposal(store, "toy", DAY)
        assert proposal is not None
        return proposal.report_id

    write(store, "drift.json", {"report_id": "toy-2013-04-30-a", "verdict": "stable"})
    assert named(True, "toy-2013-04-30-b") == "toy-2013-04-30-a-b"
    assert named(True, "toy-2013-04-30-c") == "toy-2013-04-30-a-c"
    assert named(False, "toy-2013-04-30-c") == "toy-2013-04-30-a"
    assert named(True, "") == "toy-2013-04-30-a"  # a report of before it had a name


def test_a_report_is_named_by_the_rows_it_is_about() -> None:
    rows = pd.DataFrame({"x": [1.0, None], "late": [0, 1], "dest": ["LAX", None]})
    first = report_id("toy", DAY, "c", rows, rows)
    assert report_id("toy", DAY, "c", rows.copy(), rows.copy()) == first
    others = [
        report_id("toy", DAY, "d", rows, rows),
        report_id("toy", DAY, "c", rows),
        report_id("toy", DAY, "c", rows, rows.assign(late=1)),
        report_id("toy", DAY, "c", rows.assign(x=[1.0, 2.0]), rows),
    ]
    assert len({first, *others}) == 5


def test_no_report_is_no_answer(store: LocalStore) -> None:
    assert read_proposal(store, "toy", DAY) is None
    write(store, "performance.json", {"proposal": True})
    assert read_proposal(store, "toy", DAY) is None


@pytest.mark.parametrize(("content", "said"), [(b"{", "not a drift report"), (b'{"verdict": "drift"}', "report_id")])
def test_a_broken_report_is_named(store: LocalStore, content: bytes, said: str) -> None:
    store.write(report_key("toy", DAY, "drift.json"), content)
    with pytest.raises(ConfigurationError, match=said) as error:
        read_proposal(store, "toy", DAY)
    assert "drift.json" in error.value.message
