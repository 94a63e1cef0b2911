"""Whether a monitored partition proposes a retraining: read from its reports in the artifact store."""

from __future__ import annotations

import hashlib
from datetime import date
from typing import TYPE_CHECKING

from evergreen.contract import Frozen
from evergreen.store import ArtifactStore, read_document
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
    """What the reports of one partition say about retraining."""

    report_id: str
    partition: date
    retrain: bool
    why: str


def report_key(model: str, partition: date, file: str) -> str:
    """Return the artifact key of a partition's report."""
    return f"reports/{model}/{partition}/{file}"


def report_id(model: str, partition: date, config_digest: str, *frames: pd.DataFrame) -> str:
    """Return the name of a report: other rows give another one, so that a day that came late is judged anew.

    It is the rows that name it, not the snapshots they were read from: these move whenever any day is written, and a
    check that is cleared months later must find its proposal answered.
    """
    import pyarrow as pa

    from evergreen.data.arrow import content_digest

    parts = [config_digest, *(content_digest(pa.Table.from_pandas(frame, preserve_index=False)) for frame in frames)]
    return f"{model}-{partition}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


def read_proposal(store: ArtifactStore, model: str, partition: date) -> Proposal | None:
    """Return what the reports of a partition propose, or None when it has no drift report yet.

    Drift proposes, and so does a champion that has become worse; stable inputs and samples too small for a
    verdict do not.

    Raises
    ------
    ConfigurationError
        If a report is there but cannot be read.
    """
    hint = "Clear the check that writes it."
    drift = read_document(store, report_key(model, partition, DRIFT_REPORT), DriftDocument, "a drift report", hint)
    if drift is None:
        return None
    key = report_key(model, partition, PERFORMANCE_REPORT)
    performance = read_document(store, key, PerformanceDocument, "a performance report", hint)
    reasons, proposed_by = [], [drift.report_id]
    if drift.verdict == "drift":
        reasons.append(f"drift in {drift.drifted_share or 0:.0%} of the monitored columns")
    if performance is not None and performance.proposal:
        reasons.append(f"the champion has become worse: {performance.why or 'see the performance report'}")
        if performance.report_id:  # its rows may have changed when those of the other have not
            proposed_by.append(performance.report_id.rpartition("-")[2])
    why = "; ".join(reasons) or f"the inputs of {partition} are {drift.verdict}: nothing proposes a retraining"
    return Proposal(report_id="-".join(proposed_by), partition=partition, retrain=bool(reasons), why=why)
