"""``train``: learn from the assembled training set on Ray, and log the model with its lineage in MLflow."""

from __future__ import annotations

from evergreen.contract import Request, Result
from evergreen.handover import read_frame, upstream
from evergreen.judgement.metrics import deciding_metric
from evergreen.monitoring.reference import with_baseline
from evergreen.spec import ModelSpec
from evergreen.training.challenger import trained_once


def run(request: Request, spec: ModelSpec) -> Result:
    """Train a challenger; its MLflow run is found again, never repeated, when the step runs again."""
    assembled = upstream(request, "assemble")
    dataset, frame = assembled.output("training"), read_frame(assembled, "training")
    result = trained_once(request, spec, dataset, frame, assembled.inputs, deciding_metric)
    return with_baseline(request, spec, result, frame)
