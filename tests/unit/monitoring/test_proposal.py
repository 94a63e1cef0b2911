"""What the checks of a partition propose."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pandas as pd
import pytest

from evergreen.contract import DataError
from evergreen.handover import read_bytes
from evergreen.monitoring.proposal import ColumnDrift, Index, MetricInterval, proposal_of, report_id
from evergreen.settings import Settings
from evergreen.spec import METRICS, RANGES
from monitoring_kit import leave_check, leave_drift, leave_performance

DAY = date(2013, 4, 30)


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
def test_drift_or_a_worse_champion_proposes(
    settings: Settings, verdict: str, worse: bool | None, retrain: bool
) -> None:
    drift, performance = leave_drift("toy", DAY, verdict), leave_performance("toy", DAY, worse)
    proposal = proposal_of(drift, performance)
    assert proposal.retrain is retrain
    assert ("the champion has become worse: AUC 0.60 after 0.70" in proposal.why) is bool(worse)
    assert ("drift in 50% of the monitored columns" in proposal.why) is (verdict == "drift")
    assert (f"the inputs of 2013-04-30 are {verdict}" in proposal.why) is not retrain
    if not retrain:  # what was found of the champion is said all the same
        found = "there is no champion yet" if worse is None else "AUC 0.60 after 0.70"
        stable = f"the inputs of 2013-04-30 are {verdict}"
        assert proposal.why == f"nothing proposes a retraining: {stable}; {found}"


@pytest.mark.parametrize("worse", [False, True])
def test_a_changed_relation_proposes_where_it_may_and_says_of_which_columns(settings: Settings, worse: bool) -> None:
    drift = leave_drift("toy", DAY, "stable")
    found = {"concept": "drift", "concept_why": "2 of 11 relations to late changed: hour, temp"}
    proposal = proposal_of(drift, leave_performance("toy", DAY, worse, **found, concept_proposes=True))
    assert (proposal.retrain, proposal.report_id) == (True, "r-a-b")
    assert "the label's relation to inputs has changed: 2 of 11 relations to late changed: hour, temp" in proposal.why
    assert ("the champion has become worse: AUC 0.60 after 0.70; " in proposal.why) is worse
    reported = proposal_of(drift, leave_performance("toy", DAY, worse, **found, concept_proposes=False))
    assert reported.retrain is worse
    changed = "the label's relation to inputs has changed, and does not propose: 2 of 11 relations to late changed"
    assert (changed in reported.why) is not worse


def test_a_proposal_is_named_by_every_report_that_makes_it(settings: Settings) -> None:
    """Labels that came late change the one report and not the other: that is another proposal."""
    drift = leave_drift("toy", DAY, "stable", "toy-2013-04-30-a")

    def named(worse: bool, report_id: str) -> str:
        return proposal_of(drift, leave_performance("toy", DAY, worse, report_id)).report_id

    assert named(True, "toy-2013-04-30-b") == "toy-2013-04-30-a-b"
    assert named(True, "toy-2013-04-30-c") == "toy-2013-04-30-a-c"
    assert named(False, "toy-2013-04-30-c") == "toy-2013-04-30-a"
    assert proposal_of(drift, None).report_id == "toy-2013-04-30-a"


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


def test_a_check_that_left_no_report_proposes_nothing(settings: Settings) -> None:
    with pytest.raises(DataError, match=r"check_drift/result\.json: no output 'drift_report'"):
        proposal_of(leave_check("toy", DAY, "check_drift"), None)


def test_a_report_that_was_changed_since_is_refused(settings: Settings) -> None:
    drift, performance = leave_drift("toy", DAY), leave_performance("toy", DAY, worse=True)
    read_bytes(drift, "drift_report")
    read_bytes(performance, "performance_report")
    Path(drift.output("drift_report").uri).write_text('{"verdict": "stable"}')
    with pytest.raises(DataError, match=r"drift_report\.digest is '.*', but the file .*drift\.json has '") as changed:
        read_bytes(drift, "drift_report")
    assert "run the task 'check_drift' of toy.monitor (monitored) again" in changed.value.hint
    Path(performance.output("performance_report").uri).unlink()
    with pytest.raises(DataError, match="but the file is gone"):
        read_bytes(performance, "performance_report")


def test_each_run_of_the_checks_keeps_its_own_report(settings: Settings) -> None:
    """A day that is published again is checked by another run, while the first one's guard may still be at work."""
    first = leave_drift("toy", DAY, run_id="first")
    again = leave_drift("toy", DAY, "stable", run_id="second")
    for manifest, verdict in ((first, b"drift"), (again, b"stable")):
        assert verdict in read_bytes(manifest, "drift_report")


@pytest.mark.parametrize(
    ("metric", "low", "high"),
    [
        *((metric, 0, 1) for metric in ("auc", "average_precision", "brier", "accuracy", "macro_f1")),
        *((metric, 0, 40) for metric in ("log_loss", "rmse", "mae")),
        ("r2", -40, 1),
    ],
)
def test_an_interval_ends_where_its_metric_does(metric: str, low: float, high: float) -> None:
    interval = MetricInterval(window="w", value=0.5, low=-40, high=40).within(metric)
    assert (interval.low, interval.value, interval.high) == (low, 0.5, high)
    assert interval.within(metric) == interval


def test_each_metric_has_a_range() -> None:
    assert set(RANGES) == set(METRICS)


@pytest.mark.parametrize(
    ("values", "deciding"),
    [
        ({"missing": 0.0, "values": 0.1, "new": 0.2}, "new"),
        ({"missing": 0.3, "values": 0.1}, "missing"),
        ({"missing": 0.001, "values": 0.002}, "values"),
        ({}, ""),
    ],
)
def test_the_index_that_decides_is_the_one_that_is_furthest_beyond_its_limit(
    values: dict[str, float], deciding: str
) -> None:
    limits = {"missing": 0.02, "values": 0.02, "new": 0.03}
    indices = {kind: Index(value=value, limit=limits[kind]) for kind, value in values.items()}
    assert ColumnDrift(indices=indices).deciding == deciding
