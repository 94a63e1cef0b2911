"""What a loop did, one row a period, read from the manifests it left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evergreen.contract import Manifest, RunIdentity, Status, Window
from evergreen.monitoring.proposal import proposal_of
from evergreen.pipelines import PIPELINES, dag_id
from evergreen.spec import ModelSpec
from evergreen.store import ArtifactStore, get_store, read_manifest
from evergreen.stored import Part, Stored
from evergreen_airflow.replay.plan import LoopPlan, Period
from evergreen_airflow.replay.traffic import Traffic


class PeriodRuns(Part):
    """The runs of one period, by pipeline; a pipeline that did not run is absent."""

    backfill: str | None = None
    ingest: str | None = None
    features: str | None = None
    monitor: str | None = None
    retrain: str | None = None
    train: str | None = None


class Row(Part):
    """One period of the loop."""

    period: str
    window: Window
    rows_in: int
    """Rows the sources delivered: published and quarantined."""
    quarantined: int
    verdict: str | None = None
    drifted_share: float | None = None
    champion: float | None = None
    """The champion's deciding metric on the newest labelled window (before any promotion)."""
    challenger: float | None = None
    improvement_low: float | None = None
    """Confidence bounds of challenger minus champion, positive when the challenger is better."""
    improvement_high: float | None = None
    decision: str
    why: str
    report_uri: str | None = None
    runs: PeriodRuns
    traffic: Traffic | None = None
    """What was asked of the server, in the last period and where a challenger was rolled out."""


class Summary(Stored):
    """The whole loop."""

    model: str
    metric: str
    history: Window
    rows: tuple[Row, ...]


def summarize(
    spec: ModelSpec, plan: LoopPlan, runs: list[PeriodRuns], traffic: Mapping[str, Traffic] | None = None
) -> Summary:
    """Build the summary of a finished loop.

    ``runs`` are those of the history and of every period, ``traffic`` that of some periods by their labels.
    """
    periods = [Period(label="history", window=plan.history), *plan.periods]
    made = (make_row(spec, period, ids) for period, ids in zip(periods, runs, strict=True))
    rows = tuple(row.model_copy(update={"traffic": (traffic or {}).get(row.period)}) for row in made)
    return Summary(model=spec.name, metric=spec.gate.metric, history=plan.history, rows=rows)


def make_row(spec: ModelSpec, period: Period, runs: PeriodRuns) -> Row:
    """Build the row of one period from the manifests of its runs."""
    reader = _Reader(get_store(), spec.name, runs)
    published = [reader.facts(pipeline, "publish") for pipeline in ("backfill", "ingest")]
    quarantined = sum(int(facts.get("quarantined", 0)) for facts in published)
    drift = reader.facts("monitor", "check_drift")
    evaluation = reader.metrics("train", "evaluate")
    metric = spec.gate.metric
    decision, why = _decision(reader, period)
    return Row(
        period=period.label,
        window=period.window,
        rows_in=sum(int(facts.get("rows", 0)) for facts in published) + quarantined,
        quarantined=quarantined,
        verdict=drift.get("verdict"),
        drifted_share=drift.get("drifted_share"),
        champion=evaluation.get(f"champion_{metric}", reader.metrics("monitor", "check_performance").get(metric)),
        challenger=evaluation.get(f"challenger_{metric}"),
        improvement_low=evaluation.get("improvement_low"),
        improvement_high=evaluation.get("improvement_high"),
        decision=decision,
        why=why,
        report_uri=drift.get("report_uri"),
        runs=runs,
    )


class _Reader:
    def __init__(self, store: ArtifactStore, model: str, runs: PeriodRuns) -> None:
        self.store, self.model, self.runs = store, model, runs

    def manifest(self, pipeline: str, step: str) -> Manifest | None:
        assert step in {row.name for row in PIPELINES[pipeline]}  # noqa: S101  # a misspelt one would read nothing
        run_id = getattr(self.runs, pipeline)
        if run_id is None:
            return None
        return read_manifest(self.store, RunIdentity(dag_id=dag_id(self.model, pipeline), run_id=run_id, task_id=step))

    def facts(self, pipeline: str, step: str) -> dict[str, Any]:
        manifest = self.manifest(pipeline, step)
        return manifest.facts if manifest else {}

    def metrics(self, pipeline: str, step: str) -> dict[str, float]:
        manifest = self.manifest(pipeline, step)
        return manifest.metrics if manifest else {}


def _decision(reader: _Reader, period: Period) -> tuple[str, str]:
    """Return what came of the period and why: the gate's word if it was reached, else the first no on the way."""
    gate = reader.facts("train", "gate")
    if gate:
        return str(gate["decision"]), str(gate["why"])
    guard = reader.manifest("retrain", "guard")
    if guard is not None and guard.status is Status.REFUSED:
        return "held_back", guard.reason
    drift = reader.manifest("monitor", "check_drift")
    if drift is not None and drift.status is Status.OK:
        proposal = proposal_of(drift, reader.manifest("monitor", "check_performance"))
        if not proposal.retrain:
            return "no_proposal", proposal.why
    for pipeline, step in (("ingest", "ingest"), ("monitor", "check_drift"), ("train", "assemble")):
        manifest = reader.manifest(pipeline, step)
        if manifest is not None and manifest.status is not Status.OK:
            return "skipped", manifest.reason
    return "none", "no training was started"
