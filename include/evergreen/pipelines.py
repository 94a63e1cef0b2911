"""The pipelines of every model: their steps in order, and the upstream manifests each step reads.

The DAG files compose the same steps for Airflow (a test holds them to this table); the loop runs them in one
process, and finds their manifests by it.
"""

from __future__ import annotations

from collections.abc import Mapping

PIPELINES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "ingest": {"ingest": (), "validate": ("ingest",), "publish": ("ingest", "validate")},
    "features": {"build_features": (), "materialize": ("build_features",)},
    "monitor": {"check_drift": (), "check_performance": ()},
    "retrain": {"guard": ()},
    "train": {
        "assemble": (),
        "train": ("assemble",),
        "evaluate": ("assemble", "train"),
        "gate": ("train", "evaluate"),
        "register": ("train", "gate"),
        "promote": ("register", "gate"),
    },
    "rollback": {"rollback": ()},
    "backfill": {
        "ingest": (),
        "validate": ("ingest",),
        "publish": ("ingest", "validate"),
        "build_features": (),
        "materialize": ("build_features",),
    },
}
"""Pipeline -> step -> the steps of the same run whose manifests it is given. A task is called like its step."""

APPROVED, REJECTED = "Approve", "Reject"
"""What a person answers between ``register`` and ``promote``, where a model asks for it."""


def dag_id(model: str, pipeline: str) -> str:
    """Return the DAG that runs a pipeline of a model."""
    return f"{model}.{pipeline}"
