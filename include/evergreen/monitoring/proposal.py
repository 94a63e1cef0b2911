"""What the checks of a monitored partition report, and whether they propose a retraining."""

from __future__ import annotations

import hashlib
from datetime import date
from typing import TYPE_CHECKING

from evergreen.contract import DataError, Frozen, Manifest
from evergreen.handover import REPORTS, read_bytes
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
    """Empty where nothing was measured, and in reports of before it had one."""


class Proposal(Frozen):
    """What the checks of one partition say about retraining."""

    report_id: str
    retrain: bool
    why: str


def report_key(model: str, partition: date, file: str) -> str:
    """Return the artifact key under which a check stores its report of a partition, for people to read."""
    return f"{REPORTS}{model}/{partition}/{file}"


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
        If a check has left no report.
    """
    reasons, reports = [], [drift.output("drift_report").version]
    verdict = drift.facts["verdict"]
    if verdict == "drift":
        reasons.append(f"drift in {drift.facts['drifted_share'] or 0:.0%} of the monitored columns")
    if performance is not None and performance.facts.get("proposal"):
        reasons.append(f"the champion has become worse: {performance.facts['why']}")
        # its rows may have changed when those of the other have not
        reports.append(performance.output("performance_report").version.rpartition("-")[2])
    why = "; ".join(reasons) or f"the inputs of {drift.window.end} are {verdict}: nothing proposes a retraining"
    return Proposal(report_id="-".join(reports), retrain=bool(reasons), why=why)


def check_report(manifest: Manifest, name: str) -> None:
    """Refuse the manifest of a check whose report is not the file it wrote: people see there why a training started.

    Raises
    ------
    DataError
        If the report is gone or was changed, or an older version wrote the manifest, without the report's digest.
    """
    if not manifest.output(name).digest:
        raise DataError(
            f"{manifest.run.key}/result.json: outputs: {name} has no digest: an older version of Evergreen wrote it.",
            f"Run {manifest.model}.monitor for {manifest.window.end} again.",
        )
    read_bytes(manifest, name)
