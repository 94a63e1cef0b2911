"""The partitioned assets that connect a model's pipelines: one event per daily partition."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Asset, BaseOperator

from evergreen.spec import ModelSpec
from evergreen_airflow.partition import resolve_window

if TYPE_CHECKING:
    from airflow.sdk import Context


def _asset(spec: ModelSpec, stage: str) -> Asset:
    name = f"{spec.name}.{stage}"
    return Asset(name=name, uri=f"evergreen://{spec.name}/{stage}", group=spec.name, extra={"model": spec.name})


def published(spec: ModelSpec) -> Asset:
    """Return the asset of a model's validated, published partitions."""
    return _asset(spec, "published")


def features(spec: ModelSpec) -> Asset:
    """Return the asset of a model's materialized feature partitions."""
    return _asset(spec, "features")


def monitored(spec: ModelSpec) -> Asset:
    """Return the asset of a model's partitions whose drift and performance are known."""
    return _asset(spec, "monitored")


class PartitionDone(BaseOperator):
    """Publishes the run's partition of its outlets, once the tasks before it have ended without a failure.

    For pipelines whose last step may be skipped: a skipped task publishes nothing. The partition is named in the
    event, because a run that was started with a form has no partition key of its own.
    """

    def execute(self, context: Context) -> None:
        """Name the partition in the event of every outlet."""
        partition = resolve_window(context).end.isoformat()
        for outlet in self.outlets:
            context["outlet_events"][outlet].add_partitions(partition)
