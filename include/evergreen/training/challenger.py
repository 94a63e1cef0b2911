"""One training of one request: on Ray, logged and signed in MLflow with its lineage, and never done twice."""

from __future__ import annotations

import hashlib
import logging
import os
from importlib.metadata import version
from typing import TYPE_CHECKING

from evergreen.catalog import config_digest
from evergreen.contract import Output, Request, Result, Window
from evergreen.spec import ModelSpec
from evergreen.training.graph_export import GRAPH_REFUSED, INT8_LOSS, INT8_REFUSED
from evergreen.training.graph_int8 import Metric
from evergreen.training.loading import DIGEST
from evergreen.training.preparation import window_of
from evergreen.training.ray_training import train
from evergreen.training.tracking import find_run, log_training, model_output, start_run
from evergreen.trust.keys import signing_key
from evergreen.version import code_version

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_LIBRARIES = ("numpy", "pandas", "ray", "torch")
"""What learns: another version of one of them gives another model."""


def trained_once(
    request: Request,
    spec: ModelSpec,
    dataset: Output,
    frame: pd.DataFrame,
    tables: tuple[Output, ...],
    metric: Metric,
    refit_of: str = "",
) -> Result:
    """Return the result of a step that trains; a training that is done is found again, and not repeated.

    The MLflow run is named by the model, the Airflow run, the configuration, the code, the libraries and the data set:
    with all of them equal a finished training is returned as it is, and an interrupted one goes on from its last
    checkpoint. Cleared after a fix it trains anew.

    Parameters
    ----------
    request, spec
        For whom.
    dataset, frame, tables
        What to learn from: its address and version, its rows, and what it was made of.
    metric
        By which a smaller graph is measured.
    refit_of
        The MLflow run of the challenger that has won with this configuration; empty for a challenger.
    """
    key = run_key(request, spec, dataset)
    begun, tags = find_run(spec.name, key) or (None, {})
    if begun and DIGEST in tags:
        log.info("the MLflow run %s already holds this training", begun)
        return _result(begun, dataset, tables, tags)
    signing_key(f"What {request.step} makes of {spec.name}")  # not found out when hours of training are over
    tags = _tags(request, spec, tables, dataset, window_of(frame)) | ({"refit_of": refit_of} if refit_of else {})
    name = f"{spec.name}-{request.partition}-{request.run.run_id}{'-refit' if refit_of else ''}"
    run_id = start_run(spec.name, name, key, tags, {**spec.training.model_dump(), "rows": len(frame)})
    trained = train(spec, frame, f"checkpoints/{spec.name}", f"{request.partition}-{key}")
    for epoch in trained.history:
        log.info("epoch %d: loss %.4f in %.1f s", epoch["epoch"], epoch["train_loss"], epoch["seconds"])
    known = log_training(run_id, spec, trained, frame, tags, metric)
    return _result(run_id, dataset, tables, {**tags, **known})


def run_key(request: Request, spec: ModelSpec, dataset: Output) -> str:
    """Return what a training is found again by."""
    run = (request.run.dag_id, request.run.run_id, str(request.window))
    libraries = (f"{name} {version(name)}" for name in _LIBRARIES)
    parts = (*run, config_digest(spec), code_version(), *libraries, dataset.digest)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _tags(
    request: Request, spec: ModelSpec, tables: tuple[Output, ...], dataset: Output, window: Window
) -> dict[str, str]:
    snapshots = {f"snapshot.{table.name}": table.version for table in tables}
    return {
        "model": spec.name,
        "partition": str(request.partition),
        "dag_id": request.run.dag_id,
        "run_id": request.run.run_id,
        "training_start": str(window.start),
        "training_end": str(window.end),
        "dataset_uri": dataset.uri,
        "dataset_version": dataset.version,
        "dataset_digest": dataset.digest,
        "config_digest": config_digest(spec),
        "code_version": code_version(),
        "image": os.environ.get("EVERGREEN_IMAGE", ""),
        **snapshots,
    }


def _result(run_id: str, dataset: Output, tables: tuple[Output, ...], tags: dict[str, str]) -> Result:
    return Result(
        outputs=(model_output(run_id, tags[DIGEST]),),
        inputs=(dataset, *tables),
        facts={
            "run_id": run_id,
            "training_start": tags["training_start"],
            "training_end": tags["training_end"],
            "rows": dataset.rows,
            "refit_of": tags.get("refit_of", ""),
            **{name: tags[name] for name in (GRAPH_REFUSED, INT8_LOSS, INT8_REFUSED) if name in tags},
        },
    )
