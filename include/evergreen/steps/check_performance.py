"""``check_performance``: how good the champion is on the newest labels, and whether they mean what it learned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pydantic import JsonValue

from evergreen.catalog import config_digest
from evergreen.contract import Output, Request, Result, Status, Window
from evergreen.data.lake import PARTITION, get_lake
from evergreen.data.lineage import current_together
from evergreen.data.served import FEEDBACK, SERVED, Outcomes, served_with_outcomes
from evergreen.features.feature_store import feature_tables, training_set
from evergreen.handover import store_output
from evergreen.judgement.champions import champion_of
from evergreen.judgement.decline import MeasuredMetric, drop_limit, measured_metric
from evergreen.judgement.estimate import estimate
from evergreen.judgement.evaluation import score
from evergreen.judgement.metrics import Scored, aligned
from evergreen.judgement.variants import Variant, variants_of
from evergreen.monitoring.concept import compare_concept
from evergreen.monitoring.earlier import performance_reports
from evergreen.monitoring.evidence import Evidence, ServedPerformance, VariantPerformance
from evergreen.monitoring.proposal import (
    PERFORMANCE_REPORT,
    ConceptDrift,
    MetricInterval,
    PerformanceDocument,
    report_id,
    report_key,
)
from evergreen.monitoring.reference import concept_reference
from evergreen.spec import METRICS, ModelSpec, Task
from evergreen.store import get_store
from evergreen.training.loading import load_version
from evergreen.training.registry import Version
from evergreen.training.scorer import Scorer
from evergreen.training.tracking import log_monitoring

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``performance.json``; a drop beyond ``retraining.performance_drop`` proposes a retraining.

    So does a label whose relation to the inputs is another than in the rows that the champion learned from.

    The deciding metric is that of what the champion itself answered, where it is known of enough answers what became of
    them; else of what it says of the labelled examples.

    Skipped while there is no champion, or too few such rows that it has not learned from. As with drift, the inputs
    of the manifest are the snapshots that were read.
    """
    champion = champion_of(request)
    if champion is None:
        return _skip("there is no champion yet")
    newest = request.partition - timedelta(days=spec.features.examples.label_delay_days)
    unseen = spec.first_unseen(champion.training)
    if unseen > newest:
        why = f"the champion learned from {champion.training}: it has seen every label up to {newest}"
        return _skip(why)
    window = Window(start=max(spec.monitored_window(newest).start, unseen), end=newest)
    logs = [table for table in (SERVED, FEEDBACK) if get_lake().has(spec.name, table)]
    inputs = current_together(spec.name, [*feature_tables(spec), *logs])
    snapshots = {table.name: table.version for table in inputs}
    read = partial(training_set, spec, snapshots=snapshots)
    answers = served_with_outcomes(spec, window, snapshots) if SERVED in logs else None
    rows = _Labelled(window, inputs, read(window), read, answers, variants_of(spec, answers.rows) if answers else [])
    least = spec.windows.minimum_evaluation_rows
    if rows.own(champion, least) is None and len(rows.frame) < least:
        return _skip(f"{len(rows.frame)} labelled rows in {window}, {least} are needed")
    return _check(request, spec, champion, rows)


@dataclass(frozen=True)
class _Labelled:
    """The newest labelled rows that the champion has not learned from.

    Parameters
    ----------
    window, frame
        Their days, and the rows.
    inputs
        The snapshots that they were read from.
    read
        Reads rows of other days from the same snapshots.
    answers, variants
        What was served in these days, with what became of it, and how good each variant was; None without a log.
    """

    window: Window
    inputs: Sequence[Output]
    frame: pd.DataFrame
    read: Callable[..., pd.DataFrame]
    answers: Outcomes | None
    variants: Sequence[Variant]

    def own(self, champion: Version, least: int) -> Variant | None:
        """Return the champion's own answers with outcomes; None if there are fewer than so many."""
        own = (one for one in self.variants if (one.name, one.version) == ("champion", champion.number))
        return next((one for one in own if len(one.rows) >= least), None)


class _Known(NamedTuple):
    """Predictions of the champion beside the truth."""

    scores: Scored
    rows: pd.DataFrame
    labels: pd.Series
    evidence: Evidence


def _known(spec: ModelSpec, champion: Version, model: Scorer, rows: _Labelled) -> _Known:
    """Return what was served where enough is known of it, else what the champion says of the labelled rows."""
    least, window = spec.windows.minimum_evaluation_rows, str(rows.window)
    if own := rows.own(champion, least):
        evidence = Evidence(source="served", rows=len(own.rows), window=window)
        return _Known(own.scores, own.rows, own.rows["outcome"], evidence)
    count = sum(len(one.rows) for one in rows.variants if (one.name, one.version) == ("champion", champion.number))
    why = f"{count} answers of version {champion.number} with a known outcome, {least} are needed"
    why = "no prediction log was ingested" if rows.answers is None else why
    evidence = Evidence(source="offline", rows=len(rows.frame), window=window, why=why)
    scores = score(spec, rows.frame, [model])[0]
    return _Known(scores, rows.frame, rows.frame[spec.features.examples.label], evidence)


def _served(spec: ModelSpec, rows: _Labelled) -> ServedPerformance | None:
    """Return how good what was served was, by variant."""
    found = rows.answers
    if found is None:
        return None
    variants = []
    for one in rows.variants:
        interval = _interval(spec, rows.window, one.measured.interval)
        ends = {"low": interval.low, "high": interval.high} if interval else {}
        role = {"variant": one.name, "version": one.version, "answers": one.answers, "outcomes": len(one.rows)}
        variants.append(VariantPerformance(**role, value=one.measured.value, **ends))
    return ServedPerformance(
        answers=len(found.rows),
        outcomes=int(found.rows["outcome"].notna().sum()),
        disagreements=found.disagreements,
        ambiguous=found.ambiguous,
        unreadable=found.unreadable,
        variants=tuple(variants),
    )


def _check(request: Request, spec: ModelSpec, champion: Version, rows: _Labelled) -> Result:
    """Score the champion on labelled rows, and store and log what was found."""
    model = load_version(champion)
    known = _known(spec, champion, model, rows)
    metrics = known.scores.metrics()
    measured = measured_metric(spec, known.rows, known.scores, metrics)
    reference, files = concept_reference(spec, champion, rows.read)
    concept = compare_concept(spec, reference, rows.frame)
    facts = {
        "report_id": report_id(spec.name, request.partition, config_digest(spec), *_named_by(rows, known)),
        **_judged(spec, champion, rows.window, measured),
        **_concept_facts(spec, concept),
        "evidence": known.evidence.model_dump(mode="json"),
    }
    log.info("%s; %s", facts["why"], concept.why)
    details = {
        **facts,
        "run": request.run.address,
        "metric": spec.gate.metric,
        "measured": _interval(spec, rows.window, measured.interval),
        "metrics": metrics,
        "limit": spec.retraining.performance_drop,
        "inputs": {table.name: table.version for table in rows.inputs},
        "concept": concept,
        "estimate": _estimate(request, spec, champion, model, known, rows),
        "served": _served(spec, rows),
        **_told_before(spec, rows.window, metrics.get(spec.gate.metric)),
    }
    document = PerformanceDocument.model_validate(details).model_dump_json(indent=2)
    report = store_output("performance_report", report_key(request, PERFORMANCE_REPORT), document.encode())
    log_monitoring(champion.run_id, request.partition, metrics=metrics)
    return Result(
        outputs=(report,),
        inputs=(champion.output("champion"), *rows.inputs, *files),
        metrics=metrics,
        facts=facts,
    )


def _named_by(rows: _Labelled, known: _Known) -> list[pd.DataFrame]:
    """Return the rows that name a report: other ones are another report."""
    served = known.evidence.source == "served"
    return [rows.frame, known.rows[["prediction_id", "outcome"]]] if served else [rows.frame]


def _estimate(
    request: Request, spec: ModelSpec, champion: Version, model: Scorer, known: _Known, labelled: _Labelled
) -> MetricInterval | None:
    """Return how good the champion probably is on the newest days, whose labels are to come; None where they are there.

    Regressions have no estimate: a predicted value does not say how far off it may be.
    """
    if not spec.features.examples.label_delay_days or spec.task is Task.REGRESSION:
        return None
    start = spec.monitored_window(request.partition).start
    window = Window(start=max(start, spec.first_unseen(champion.training)), end=request.partition)
    rows = labelled.read(window, labelled=False)
    prediction, days = (
        aligned(spec.task, known.labels, model.predict(rows[list(model.inputs)])),
        rows[PARTITION].to_numpy(),
    )
    found = estimate(spec.gate.metric, known.scores, known.rows[PARTITION].to_numpy(), prediction, days)
    return _interval(spec, window, (found.value, found.low, found.high) if found else None)


def _interval(spec: ModelSpec, window: Window, bounds: tuple[float, float, float] | None) -> MetricInterval | None:
    """Return the deciding metric's value and bounds as they are stored: none of them is what the metric cannot be."""
    if bounds is None:
        return None
    value, low, high = bounds
    return MetricInterval(window=str(window), value=value, low=low, high=high).within(spec.gate.metric)


def _told_before(spec: ModelSpec, window: Window, truth: float | None) -> dict[str, object]:
    """Return what was estimated of a window before its labels came, and whether that was right."""
    for document in performance_reports(get_store(), spec.name, window.end):
        told = document.estimate if document.metric == spec.gate.metric else None
        if told is not None and told.window == str(window) and truth is not None:
            return {"estimated_before": told, "estimate_held": told.low <= truth <= told.high}
    return {}


def _skip(why: str) -> Result:
    return Result(status=Status.SKIPPED, reason=why, facts={"proposal": False})


def _judged(spec: ModelSpec, champion: Version, window: Window, now: MeasuredMetric) -> dict[str, JsonValue]:
    """Return whether the champion has become so much worse that it proposes a retraining."""
    name = spec.gate.metric
    before = champion.tags.get(f"metric.{name}")
    drop: float | None = None
    if now.value is not None and before is not None:
        drop = (float(before) - now.value) * METRICS[name][1].sign
    error = champion.tags.get("metric.error")
    limit = drop_limit(spec, None if error is None else float(error), now)
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


def _concept_facts(spec: ModelSpec, concept: ConceptDrift) -> dict[str, JsonValue]:
    return {
        "concept": concept.verdict,
        "concept_why": concept.why,
        "concept_columns": [*concept.changed],
        "concept_proposes": concept.verdict == "drift" and "concept" in spec.proposals,
        "label_drifted": concept.label_drifted,
    }


def _shown(value: float | str | None) -> str:
    return "unknown" if value is None else f"{float(value):.4f}"
