"""The partitioned assets that connect a model's pipelines: one event per daily partition."""

from __future__ import annotations

from airflow.sdk import Asset

from evergreen.spec import ModelSpec


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
