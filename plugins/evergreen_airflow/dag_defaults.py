"""What every pipeline has in common: who owns it, how it is tagged, retried and limited in time."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import (
    DAG,
    CronPartitionTimetable,
    IdentityMapper,
    Param,
    PartitionedAssetTimetable,
    get_parsing_context,
)
from airflow.sdk.definitions.asset import BaseAsset

from evergreen.catalog import load_model, survey
from evergreen.pipelines import PIPELINES
from evergreen.spec import ModelSpec
from evergreen_airflow.alerts.notifier import failure_callback

PARTITION_FORMAT = "%Y-%m-%d"
"""A partition key is its day."""
TRAINING_POOL = "training"
"""Declared in airflow_settings.yaml: how many trainings the machine or cluster takes at once."""


class Tag(enum.StrEnum):
    """The kinds of DAG; each also carries its team, and its model if it is a pipeline."""

    INGESTION = "ingestion"
    FEATURES = "features"
    TRAINING = "training"
    MONITORING = "monitoring"
    RETRAINING = "retraining"
    PREDICTION = "prediction"
    BACKFILL = "backfill"
    DELIVERY = "delivery"
    ROLLBACK = "rollback"
    RELEASE = "release"
    MAINTENANCE = "maintenance"


def models() -> list[ModelSpec]:
    """Return the models that a DAG file makes a DAG of: every one that is right.

    The others are left out, and reported by dags/models.py: Airflow drops all DAGs of a file that raises. When the
    file is parsed to run a task, that task's model is enough, right or wrong.
    """
    model, _, pipeline = (get_parsing_context().dag_id or "").rpartition(".")
    return [load_model(model)] if pipeline in PIPELINES else survey().models


def dag_options(spec: ModelSpec, tag: Tag, doc: str | None) -> dict[str, Any]:
    """Return the DAG arguments that every pipeline of a model shares.

    ``doc`` is the DAG file's module docstring: what it does, when it fires, what it publishes, triage notes.
    """
    return {
        "description": f"{tag.capitalize()} of {spec.name}: {spec.description}",
        "doc_md": f"{doc}\n\nModel `{spec.name}`, owned by {spec.owner} ({spec.team}). {spec.contact}".rstrip(),
        "start_date": datetime.combine(spec.schedule.start, time(), ZoneInfo(spec.schedule.timezone)),
        "catchup": False,
        "tags": [tag, f"model:{spec.name}", f"team:{spec.team}"],
        "owner_links": {},
        "default_args": {
            "owner": spec.owner,
            # Only temporary failures retry: the StepOperator fails at once on every other class.
            "retries": 3,
            "retry_delay": timedelta(seconds=15),
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": timedelta(minutes=10),
            "execution_timeout": timedelta(hours=1),
            **failure_callback(spec),
        },
        "max_active_runs": 4,
        "max_consecutive_failed_dag_runs": 0,
    }


def maintenance_options(doc: str | None) -> dict[str, Any]:
    """Return the DAG arguments that every task of maintenance shares: one run at a time, and no catching up."""
    return {
        "doc_md": doc,
        "start_date": datetime(2026, 1, 1, tzinfo=UTC),
        "catchup": False,
        "is_paused_upon_creation": False,
        "tags": [Tag.MAINTENANCE, "team:platform"],
        "default_args": {
            "owner": "platform",
            "retries": 2,
            "retry_delay": timedelta(minutes=1),
            "execution_timeout": timedelta(minutes=5),
        },
        "max_active_runs": 1,
    }


def daily(spec: ModelSpec) -> CronPartitionTimetable:
    """Return the schedule of ingestion: each tick of the model's cron works on the day before it."""
    return CronPartitionTimetable(
        spec.schedule.cron, timezone=spec.schedule.timezone, run_offset=-1, key_format=PARTITION_FORMAT
    )


def each_partition_of(asset: BaseAsset) -> PartitionedAssetTimetable:
    """Return the schedule that runs once for every partition event of an asset."""
    return PartitionedAssetTimetable(assets=asset, default_partition_mapper=IdentityMapper())


def form(dag: DAG, **fields: Param) -> None:
    """Give the runs that are started by hand a form; call it when the tasks are there.

    Airflow copies the parameters that a DAG has into each task that joins it, validates them when it makes the DAG and
    every copy when it serializes it: added last, they cost a third of the parse and half of the serialization less.
    """
    dag.params.update(fields)


def partition_param() -> Param:
    """Return the form field of a manual run: which daily partition to work on."""
    return Param(
        default=None,
        type=["null", "string"],
        format="date",
        title="Partition",
        description="The day to work on. Leave it empty when the run has a partition key.",
    )


def day_param(title: str, description: str) -> Param:
    """Return a form field for a day that must be given."""
    return Param(type="string", format="date", title=title, description=description)


def optional_day_param(title: str, description: str) -> Param:
    """Return a form field for a day that may be left out."""
    return Param(default=None, type=["null", "string"], format="date", title=title, description=description)
