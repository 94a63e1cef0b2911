"""What the checks of a monitored partition report, and whether they propose a retraining."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import date
from typing import TYPE_CHECKING

from evergreen.contract import Frozen, Manifest, Request, Status, folder_name
from evergreen.stored import Stored

if TYPE_CHECKING:
    import pandas as pd

DRIFT_REPORT = "drift.json"
PERFORMANCE_REPORT = "performance.json"


class DriftDocument(Stored):
    """What ``drift.json`` says; the figures behind the verdict are kept in it as they are."""

    report_id: str
    verdict: str
    why: str = ""
    drifted_share: float | None = None


class PerformanceDocument(Stored):
    """What ``performance.json`` says."""

    proposal: bool
    why: str = ""
    report_id: str = ""
    """Empty in reports of before it had one."""


class Proposal(Frozen):
    """What the checks of one partition say about retraining."""

    report_id: str
    retrain: bool
    why: str


def report_key(request: Request, file: str) -> str:
    """Return the artifact key of a check's report: each run keeps its own, whatever another one finds later."""
    return f"reports/{request.model}/{request.partition}/{folder_name(request.run.run_id)}/{file}"


def report_id(model: str, partition: date, config_digest: str, *frames: pd.DataFrame) -> str:
    """Return the name of a report: other rows give another one, so that a day that came late is judged anew.

    It is the rows that name it, not the snapshots they were read from: these move whenever any day is written, and a
    check that is cleared months later must find its proposal answered.
    """
    import pyarrow as pa

    from evergreen.data.arrow import content_digest

    parts = [config_digest, *(content_digest(pa.Table.from_pandas(frame, preserve_index=False)) for frame in frames)]
    return f"{model}-{partition}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


def proposal_of(drift: Manifest, performance: Manifest | None) -> Proposal:
    """Return what the checks of a partition propose: that of the inputs, and that of the champion if it was run.

    Drift proposes, and so does a champion that has become worse; stable inputs and samples too small for a
    verdict do not.

    Raises
    ------
    DataError
        If ``check_drift`` has left no report.
    """
    drift.output("drift_report")  # what it proposes must be there for people to read
    reasons, reports = [], [str(drift.facts["report_id"])]
    verdict = drift.facts["verdict"]
    if verdict == "drift" and drift.facts.get("proposes", True):  # reports of before all proposed
        reasons.append(f"drift in {drift.facts['drifted_share'] or 0:.0%} of the monitored columns")
    if performance is not None and performance.facts.get("proposal"):
        reasons.append(f"the champion has become worse: {performance.facts['why']}")
        # its rows may have changed when those of the other have not
        reports.append(str(performance.facts.get("report_id", "")).rpartition("-")[2])
    why = "; ".join(reasons) or f"the inputs of {drift.window.end} are {verdict}: nothing proposes a retraining"
    return Proposal(report_id="-".join(reports), retrain=bool(reasons), why=why)


def addresses_of(checks: Iterable[Manifest]) -> dict[str, str]:
    """Return the addresses of the checks that found something out, by step: what the guard reads."""
    return {check.step: check.run.address for check in checks if check.status is Status.OK}
