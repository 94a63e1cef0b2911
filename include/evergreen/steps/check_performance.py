"""``check_performance``: how good the champion is on the newest labels, against how good it was when promoted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import timedelta

from pydantic import JsonValue

from evergreen.catalog import config_digest
from evergreen.contract import Request, Result, Status, Window
from evergreen.data.lineage import current_together
from evergreen.features.feature_store import feature_tables, training_set
from evergreen.handover import store_output
from evergreen.judgement.champions import champion_of
from evergreen.judgement.evaluation import score
from evergreen.monitoring.proposal import PERFORMANCE_REPORT, PerformanceDocument, report_id, report_key
from evergreen.spec import METRICS, Direction, ModelSpec
from evergreen.training.loading import load_version
from evergreen.training.registry import Version

log = logging.getLogger(__name__)


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``performance.json``; a drop beyond ``retraining.performance_drop`` proposes a retraining.

    Skipped while there is no champion, or too few labelled rows that it has not learned from. As with drift, the inputs
    of the manifest are the snapshots that were read.
    """
    champion = champion_of(request)
    if champion is None:
        return _skip("there is no champion yet")
    newest = request.partition - timedelta(days=spec.features.examples.label_delay_days)
    start = max(newest - timedelta(days=spec.drift.current_days - 1), spec.first_unseen(champion.training))
    if start > newest:
        why = f"the champion learned from {champion.training}: it has seen every label up to {newest}"
        return _skip(why)
    window = Window(start=max(start, spec.schedule.start), end=newest)
    inputs = current_together(spec.name, feature_tables(spec))
    snapshots = {table.name: table.version for table in inputs}
    frame, least = training_set(spec, window, snapshots=snapshots), spec.windows.minimum_evaluation_rows
    if len(frame) < least:
        return _skip(f"{len(frame)} labelled rows in {window}, {least} are needed")
    metrics = score(spec, frame, [load_version(champion)])[0].metrics()
    name = report_id(spec.name, request.partition, config_digest(spec), frame)
    facts = {"report_id": name, **_judged(spec, champion, window, metrics)}
    log.info("%s", facts["why"])
    details = {**facts, "metrics": metrics, "limit": spec.retraining.performance_drop, "inputs": snapshots}
    document = PerformanceDocument.model_validate(details).model_dump_json(indent=2)
    return Result(
        outputs=(store_output("performance_report", report_key(request, PERFORMANCE_REPORT), document.encode()),),
        inputs=(champion.output("champion"), *inputs),
        metrics=metrics,
        facts=facts,
    )


def _skip(why: str) -> Result:
    return Result(status=Status.SKIPPED, reason=why, facts={"proposal": False})


def _judged(spec: ModelSpec, champion: Version, window: Window, metrics: Mapping[str, float]) -> dict[str, JsonValue]:
    """Return whether the champion has become so much worse that it proposes a retraining."""
    name, limit = spec.gate.metric, spec.retraining.performance_drop
    now, before = metrics.get(name), champion.tags.get(f"metric.{name}")
    drop: float | None = None
    if now is not None and before is not None:
        drop = (float(before) - now) * (1 if METRICS[name][1] is Direction.MAXIMIZE else -1)
    return {
        "proposal": limit is not None and drop is not None and drop > limit,
        "why": f"{name} of version {champion.number} on {window}: {_shown(now)}; when promoted: {_shown(before)}",
        "window": str(window),
        "champion": champion.number,
        "drop": drop,
    }


def _shown(value: float | str | None) -> str:
    return "unknown" if value is None else f"{float(value):.4f}"
