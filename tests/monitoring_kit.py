"""What a run of ``<model>.monitor`` leaves: the manifests of its checks, and their reports."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pandas as pd

from evergreen.contract import Manifest, Output, Request, RunIdentity, Status, Window, utc_now
from evergreen.handover import store_output
from evergreen.monitoring.counting import count, frame_batches
from evergreen.monitoring.drift import DriftReport
from evergreen.monitoring.drift import compare as judge
from evergreen.monitoring.learning import learn_reference
from evergreen.monitoring.proposal import report_key
from evergreen.spec import ModelSpec
from evergreen.store import get_store, write_manifest


def compare(spec: ModelSpec, reference: pd.DataFrame, current: pd.DataFrame) -> DriftReport:
    """Compare two frames, without a champion."""
    baseline = learn_reference(spec, reference)
    return judge(spec, baseline, count(baseline.columns, frame_batches(current, list(baseline.columns))))


def leave_check(
    model: str, partition: date, step: str, run_id: str = "monitored", run: RunIdentity | None = None, **fields: Any
) -> Manifest:
    """Store the manifest of a check."""
    manifest = Manifest(
        step=step,
        model=model,
        window=Window(start=partition, end=partition),
        run=run or RunIdentity(dag_id=f"{model}.monitor", run_id=run_id, task_id=step),
        attempt="1",
        code_version="1",
        config_digest="2",
        started=utc_now(),
        finished=utc_now(),
        **{"status": Status.OK, **fields},
    )
    write_manifest(get_store(), manifest)
    return manifest


def leave_drift(model: str, partition: date, verdict: str = "drift", report_id: str = "r-a", **where: Any) -> Manifest:
    """Leave a drift report, and the manifest of the check."""
    facts = {"report_id": report_id, "verdict": verdict, "drifted_share": 0.5}
    output = _report(model, partition, "drift_report", "drift.json", facts, **where)
    return leave_check(model, partition, "check_drift", outputs=(output,), facts=facts, **where)


def leave_performance(
    model: str, partition: date, worse: bool | None, report_id: str = "p-b", run_id: str = "monitored", **found: Any
) -> Manifest:
    """Leave a report of the champion and the manifest of the check; if ``worse`` is None it has measured nothing."""
    if worse is None:
        nothing = {"status": Status.SKIPPED, "reason": "there is no champion yet", "facts": {"proposal": False}}
        return leave_check(model, partition, "check_performance", run_id, **nothing)
    facts = {"proposal": worse, "why": "AUC 0.60 after 0.70", "report_id": report_id, **found}
    output = _report(model, partition, "performance_report", "performance.json", facts, run_id)
    return leave_check(model, partition, "check_performance", run_id, outputs=(output,), facts=facts)


def _report(
    model: str,
    partition: date,
    name: str,
    file: str,
    report: dict[str, Any],
    run_id: str = "monitored",
    run: RunIdentity | None = None,
) -> Output:
    content = json.dumps(report).encode()
    run = run or RunIdentity(dag_id=f"{model}.monitor", run_id=run_id, task_id="check")
    request = Request(step="check", model=model, window=Window(start=partition, end=partition), run=run)
    return store_output(name, report_key(request, file), content)
