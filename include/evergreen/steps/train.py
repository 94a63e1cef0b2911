"""``train``: learn from the assembled training set on Ray, and log the model with its lineage in MLflow."""

from __future__ import annotations

import hashlib
import logging
from importlib.metadata import version
from typing import TYPE_CHECKING

from evergreen.catalog import config_digest
from evergreen.contract import Manifest, Output, Request, Result, Window
from evergreen.handover import read_frame, store_output, upstream
from evergreen.monitoring.learning import learn_reference
from evergreen.monitoring.predictions import with_prediction
from evergreen.spec import ModelSpec
from evergreen.training.preparation import window_of
from evergreen.training.ray_training import train
from evergreen.training.registry import load
from evergreen.training.tracking import DIGEST, find_run, log_training, model_output, start_run
from evergreen.version import code_version

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_LIBRARIES = ("numpy", "pandas", "ray", "torch")
"""What learns: another version of one of them gives another model."""


def run(request: Request, spec: ModelSpec) -> Result:
    """Train a challenger; its MLflow run is found again, never repeated, when the step runs again.

    The run is named by the model, the Airflow run, the configuration, the code, the libraries and the training set:
    with all of them equal a finished training is returned as it is, and an interrupted one goes on from its last
    checkpoint. Cleared after a fix it trains anew.
    """
    assembled = upstream(request, "assemble")
    dataset, frame = assembled.output("training"), read_frame(assembled, "training")
    key = run_key(request, spec, dataset)
    begun, tags = find_run(spec.name, key) or (None, {})
    if begun and DIGEST in tags:
        log.info("the MLflow run %s already holds this training", begun)
        return _result(begun, tags[DIGEST], assembled, tags, _baseline(request, spec, begun, frame))
    window = window_of(frame)
    tags = _tags(request, spec, assembled, dataset, window)
    name = f"{spec.name}-{request.partition}-{request.run.run_id}"
    run_id = start_run(spec.name, name, key, tags, {**spec.training.model_dump(), "rows": len(frame)})
    trained = train(spec, frame, f"checkpoints/{spec.name}", f"{request.partition}-{key}")
    for epoch in trained.history:
        log.info("epoch %d: loss %.4f in %.1f s", epoch["epoch"], epoch["train_loss"], epoch["seconds"])
    digest = log_training(run_id, spec, trained, frame)
    return _result(run_id, digest, assembled, tags, _baseline(request, spec, run_id, frame))


def run_key(request: Request, spec: ModelSpec, dataset: Output) -> str:
    """Return what a training is found again by."""
    run = (request.run.dag_id, request.run.run_id, str(request.window))
    libraries = (f"{name} {version(name)}" for name in _LIBRARIES)
    parts = (*run, config_digest(spec), code_version(), *libraries, dataset.digest)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _tags(request: Request, spec: ModelSpec, assembled: Manifest, dataset: Output, window: Window) -> dict[str, str]:
    snapshots = {f"snapshot.{source.name}": source.version for source in assembled.inputs}
    return {
        "model": spec.name,
        "partition": str(request.partition),
        "dag_id": request.run.dag_id,
        "run_id": request.run.run_id,
        "training_start": str(window.start),
        "training_end": str(window.end),
        "dataset_uri": dataset.uri,
        "dataset_version": dataset.version,
        "config_digest": config_digest(spec),
        "code_version": code_version(),
        **snapshots,
    }


def _baseline(request: Request, spec: ModelSpec, run_id: str, frame: pd.DataFrame) -> Output:
    """Store what the model learned from, as counts: with them drift is measured for as long as the version lives."""
    learned = learn_reference(spec, with_prediction(spec, load(model_output(run_id, "").uri), frame))
    content = learned.model_dump_json().encode()
    return store_output("baseline", f"{request.run.key}/baseline.json", content, rows=learned.rows)


def _result(run_id: str, digest: str, assembled: Manifest, tags: dict[str, str], baseline: Output) -> Result:
    dataset = assembled.output("training")
    return Result(
        outputs=(model_output(run_id, digest), baseline),
        inputs=(dataset, *assembled.inputs),
        facts={
            "run_id": run_id,
            "training_start": tags["training_start"],
            "training_end": tags["training_end"],
            "rows": dataset.rows,
        },
    )
