"""What earlier partitions said, and in how many windows drift must be before it proposes."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from drift_kit import spec_with
from evergreen.contract import utc_now
from evergreen.monitoring.earlier import earlier_reports, measured_before, proposes, report_keys
from evergreen.monitoring.proposal import DriftDocument, PerformanceDocument, proposal_of
from evergreen.settings import Settings
from evergreen.store import get_store, write_manifest
from monitoring_kit import leave_check, leave_drift, leave_performance

DAY = date(2013, 4, 10)


def verdicts(before: date = DAY, most: int = 9) -> list[tuple[date, str]]:
    store = get_store()
    return [(day, report.verdict) for day, report in earlier_reports(store, report_keys(store, "toy"), before, most)]


def test_the_last_partitions_before_are_read_in_order(settings: Settings) -> None:
    for day, verdict in ((1, "drift"), (9, "stable"), (2, "insufficient"), (10, "drift"), (11, "drift")):
        leave_drift("toy", date(2013, 4, day), verdict)
    leave_drift("other", date(2013, 4, 3))
    leave_performance("toy", date(2013, 4, 4), worse=True)
    assert verdicts() == [
        (date(2013, 4, 1), "drift"),
        (date(2013, 4, 2), "insufficient"),
        (date(2013, 4, 9), "stable"),
    ]
    assert verdicts(most=1) == [(date(2013, 4, 9), "stable")]
    assert verdicts(date(2013, 4, 1)) == []


def test_of_several_reports_of_a_partition_the_one_that_ended_last_counts(settings: Settings) -> None:
    now = utc_now()
    for run_id, verdict, ended in (("b", "drift", -2), ("a", "stable", -1), ("c", "drift", -3)):
        written = leave_drift("toy", DAY - timedelta(days=1), verdict, run_id=run_id)
        path = Path(written.output("drift_report").uri)
        path.write_text(DriftDocument(report_id="r", verdict=verdict, run=written.run.address).model_dump_json())
        write_manifest(get_store(), written.model_copy(update={"finished": now + timedelta(hours=ended)}))
    assert verdicts() == [(DAY - timedelta(days=1), "stable")]


def test_performances_are_read_up_to_a_partition_the_newest_run_of_each(settings: Settings) -> None:
    now = utc_now()
    for day, run_id, why, ended in ((1, "a", "old", -2), (1, "b", "new", -1), (2, "c", "own", -1), (3, "d", "late", 0)):
        written = leave_performance("toy", date(2013, 4, day), worse=False, run_id=run_id)
        path = Path(written.output("performance_report").uri)
        path.write_text(PerformanceDocument(proposal=False, why=why, run=written.run.address).model_dump_json())
        write_manifest(get_store(), written.model_copy(update={"finished": now + timedelta(hours=ended)}))
    store = get_store()
    listed = report_keys(store, "toy")
    found = measured_before(store, listed, date(2013, 4, 2), 9)
    assert [(day.day, document.why) for day, document in found] == [(1, "new"), (2, "own")]
    assert [day.day for day, _ in measured_before(store, listed, date(2013, 4, 3), 2)] == [2, 3]


@pytest.mark.parametrize(
    ("earlier", "verdict", "proposed", "said"),
    [
        ("", "drift", False, "1 of the last 1 windows"),
        ("drift", "drift", True, "2 of the last 2 windows"),
        ("drift stable", "drift", True, "2 of the last 3 windows"),
        ("drift stable stable", "drift", False, "1 of the last 3 windows"),
        ("drift drift", "stable", False, "2 of the last 3 windows"),
        ("drift drift", "insufficient", False, "2 of the last 3 windows"),
        ("drift insufficient", "drift", True, "2 of the last 3 windows"),
    ],
)
def test_two_of_three(earlier: str, verdict: str, proposed: bool, said: str) -> None:
    assert proposes(spec_with(windows_needed=2, windows_of=3), verdict, earlier.split()) == (proposed, said)


@pytest.mark.parametrize("verdict", ["drift", "stable", "insufficient"])
def test_one_window_is_enough_by_default(verdict: str) -> None:
    assert proposes(spec_with(), verdict, ["drift", "drift"]) == (verdict == "drift", "")


def test_a_verdict_that_waits_for_more_windows_proposes_nothing(settings: Settings) -> None:
    facts = {"report_id": "r", "verdict": "drift", "drifted_share": 0.5, "windows": "1 of the last 3 windows"}
    outputs = leave_drift("toy", DAY).outputs

    def proposal(proposed: bool) -> str:
        check = leave_check("toy", DAY, "check_drift", outputs=outputs, facts={**facts, "proposes": proposed})
        found = proposal_of(check, None)
        assert found.retrain is proposed
        return found.why

    assert proposal(True) == "drift in 50% of the monitored columns in 1 of the last 3 windows"
    why_not = "the inputs of 2013-04-10 have drift in 1 of the last 3 windows, too few to propose"
    assert proposal(False) == f"nothing proposes a retraining: {why_not}"
