"""Whether a monitored partition proposes a retraining: read from its reports in the artifact store."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from evergreen.contract import ConfigurationError, Frozen
from evergreen.store import ArtifactStore

DRIFT_REPORT = "drift.json"
PERFORMANCE_REPORT = "performance.json"


class Proposal(Frozen):
    """What the reports of one partition say about retraining."""

    report_id: str
    partition: date
    retrain: bool
    why: str


def report_key(model: str, partition: date, file: str) -> str:
    """Return the artifact key of a partition's report."""
    return f"reports/{model}/{partition}/{file}"


def read_proposal(store: ArtifactStore, model: str, partition: date) -> Proposal | None:
    """Return what the reports of a partition propose, or None when it has no drift report yet.

    Drift proposes, and so does a champion that has become worse; stable inputs and samples too small for a
    verdict do not.

    Raises
    ------
    ConfigurationError
        If a report is there but cannot be read.
    """
    drift = _report(store, report_key(model, partition, DRIFT_REPORT), ("report_id", "verdict"))
    if drift is None:
        return None
    performance = _report(store, report_key(model, partition, PERFORMANCE_REPORT), ("proposal",)) or {}
    reasons = []
    if drift["verdict"] == "drift":
        reasons.append(f"drift in {drift.get('drifted_share', 0):.0%} of the monitored columns")
    if performance.get("proposal"):
        reasons.append(f"the champion has become worse: {performance.get('why', 'see the performance report')}")
    why = "; ".join(reasons) or f"the inputs of {partition} are {drift['verdict']}: nothing proposes a retraining"
    return Proposal(report_id=str(drift["report_id"]), partition=partition, retrain=bool(reasons), why=why)


def _report(store: ArtifactStore, key: str, required: tuple[str, ...]) -> dict[str, Any] | None:
    content = store.read(key)
    if content is None:
        return None
    try:
        report = json.loads(content)
        missing = [name for name in required if name not in report]
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{store.uri(key)}: not a report: {error}.", "Clear the check that writes it."
        ) from error
    if missing:
        raise ConfigurationError(
            f"{store.uri(key)}: fields missing: {', '.join(missing)}.", "Clear the check that writes it."
        )
    return dict(report)
