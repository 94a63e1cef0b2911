"""``check_performance``: how good the champion is on the newest labels, against how good it was when promoted."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from pydantic import JsonValue

from evergreen.catalog import config_digest
from evergreen.contract import Request, Result, Status, Window
from evergreen.data.lake import PARTITION
from evergreen.data.lineage import current_together
from evergreen.features.feature_store import feature_tables, training_set
from evergreen.handover import store_output
from evergreen.judgement.champions import champion_of
from evergreen.judgement.evaluation import score
from evergreen.judgement.interval import performance
from evergreen.judgement.metrics import Scored
from evergreen.monitoring.proposal import PERFORMANCE_REPORT, PerformanceDocument, report_id, report_key
from evergreen.spec import METRICS, Direction, ModelSpec
from evergreen.training.loading import load_version
from evergreen.training.registry import Version

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_RISK = 0.01
"""The chance that a champion as good as at its promotion is called worse by ``noise``."""


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
    scores = score(spec, frame, [load_version(champion)])[0]
    metrics = scores.metrics()
    name = report_id(spec.name, request.partition, config_digest(spec), frame)
    facts = {"report_id": name, **_judged(spec, champion, window, _level(spec, frame, scores))}
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


class _Level(NamedTuple):
    """The deciding metric on some days, with its standard error; ``days`` is how many independent ones they are."""

    value: float | None
    error: float | None
    days: float | None


def _level(spec: ModelSpec, frame: pd.DataFrame, scores: Scored) -> _Level:
    value = scores.metrics().get(spec.gate.metric)
    known = performance(scores, spec.gate.metric, frame[PARTITION].to_numpy())
    return _Level(value, *known.error()) if known else _Level(value, None, None)


def _judged(spec: ModelSpec, champion: Version, window: Window, now: _Level) -> dict[str, JsonValue]:
    """Return whether the champion has become so much worse that it proposes a retraining."""
    name = spec.gate.metric
    before = champion.tags.get(f"metric.{name}")
    drop: float | None = None
    if now.value is not None and before is not None:
        drop = (float(before) - now.value) * (1 if METRICS[name][1] is Direction.MAXIMIZE else -1)
    error = champion.tags.get("metric.error")
    limit = drop_limit(spec, None if error is None else float(error), now.error, now.days)
    worse = limit is not None and drop is not None and drop > limit
    return {
        "proposal": worse and "performance" in spec.proposals,
        "why": f"{name} of version {champion.number} on {window}: {_shown(now.value)}; when promoted: {_shown(before)}"
        + ("" if limit is None else f"; worse by more than {limit:.4f} would propose a retraining"),
        "window": str(window),
        "champion": champion.number,
        "drop": drop,
        "drop_limit": limit,
        "error": now.error,
    }


def drop_limit(spec: ModelSpec, then: float | None, now: float | None, days: float | None) -> float | None:
    """Return the drop beyond which a champion is worse; None where none is asked for, or none is known.

    Parameters
    ----------
    spec
        ``retraining.performance_drop`` says which.
    then, now
        Standard errors of the deciding metric at the promotion, and now.
    days
        How many independent days tell of it now.
    """
    limit = spec.retraining.performance_drop
    if limit != "noise":
        return limit
    if then is None or now is None or not days:
        return None
    from scipy import stats

    return float(stats.t.ppf(1 - _RISK, max(days - 1, 1))) * math.hypot(then, now)


def _shown(value: float | str | None) -> str:
    return "unknown" if value is None else f"{float(value):.4f}"
