"""Feast's offline store over the lake, which reads only what it needs.

Only Feast loads this module (feature_store.yaml names it), so Feast is imported at the top. Stock ``IcebergSource``
reads the whole table for every join and every materialization; `LakeOfflineStore` pushes the time range into the scan,
so that cost follows the window and not the history.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from feast.infra.offline_stores.duckdb import (  # noqa: TID253
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    _write_data_source,
)
from feast.infra.offline_stores.ibis import (  # noqa: TID253
    get_historical_features_ibis,
    pull_all_from_table_or_query_ibis,
    pull_latest_from_table_or_query_ibis,
)

from evergreen.data.lake import get_lake, scan

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureView
    from feast.infra.offline_stores.offline_store import RetrievalJob
    from feast.repo_config import RepoConfig

    from evergreen.features.feast_lake import LakeSource

_pinned: ContextVar[Mapping[tuple[str, str], str]] = ContextVar("pinned", default=MappingProxyType({}))


@contextmanager
def pinned_snapshots(model: str, snapshots: Mapping[str, str]) -> Iterator[None]:
    """Make Feast read these snapshots of a model's tables, and not the current ones."""
    token = _pinned.set({(model, table): snapshot for table, snapshot in snapshots.items()})
    try:
        yield
    finally:
        _pinned.reset(token)


class LakeOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    """Configuration of `LakeOfflineStore`; Feast finds it by its name."""

    type: str = "evergreen.features.feast_offline.LakeOfflineStore"


class LakeOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """Feast's DuckDB offline store, reading from the lake only the rows whose time can matter."""

    @staticmethod
    def pull_latest_from_table_or_query(*, config: RepoConfig, **arguments: Any) -> RetrievalJob:
        """Return the latest row of each entity between two times."""
        times = arguments["start_date"], arguments["end_date"]
        return pull_latest_from_table_or_query_ibis(config=config, **arguments, **_io(config, lambda _: times))

    @staticmethod
    def pull_all_from_table_or_query(*, config: RepoConfig, **arguments: Any) -> RetrievalJob:
        """Return all rows between two times."""
        times = arguments.get("start_date"), arguments.get("end_date")
        return pull_all_from_table_or_query_ibis(config=config, **arguments, **_io(config, lambda _: times))

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame,
        *arguments: Any,
        **options: Any,
    ) -> RetrievalJob:
        """Join the features known at each row's time: nothing after the last row, nothing older than the ttl."""
        times = entity_df["event_timestamp"]
        first, last = times.min().to_pydatetime(), times.max().to_pydatetime()
        ttls: dict[str, timedelta | None] = {view.batch_source.name: view.ttl for view in feature_views}

        def needed(source: str) -> tuple[datetime | None, datetime | None]:
            ttl = ttls.get(source)
            return (first - ttl if ttl else None), last

        views = [_with_plain_ttl(view) for view in feature_views]
        return get_historical_features_ibis(
            config, views, feature_refs, entity_df, *arguments, **options, **_io(config, needed)
        )


def _with_plain_ttl(view: FeatureView) -> FeatureView:
    """Return a view whose ttl ibis understands: of Python's, not one of days and hours together, as 36 hours are."""
    import pandas as pd

    view = copy.copy(view)
    view.ttl = pd.Timedelta(view.ttl) if view.ttl else None
    return view


def _io(config: RepoConfig, needed: Callable[[str], tuple[datetime | None, datetime | None]]) -> dict[str, Any]:
    """Return how Feast reads a source: the rows between the two times that are ``needed`` of the one of that name."""

    def read(source: LakeSource, _repo_path: str) -> Any:
        import ibis

        table = get_lake().load(source.namespace, source.iceberg_table)
        snapshot = _pinned.get().get((source.namespace, source.iceberg_table))
        return ibis.memtable(scan(table, between(source.timestamp_field, *needed(source.name)), snapshot))

    return {
        "data_source_reader": read,
        "data_source_writer": _write_data_source,
        "staging_location": config.offline_store.staging_location,
        "staging_location_endpoint_override": config.offline_store.staging_location_endpoint_override,
    }


def between(column: str, start: datetime | None, end: datetime | None) -> Any:
    """Return the filter that keeps the rows between two times, both included; None leaves an end open."""
    from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, LessThanOrEqual

    return And(
        GreaterThanOrEqual(column, start) if start else AlwaysTrue(),
        LessThanOrEqual(column, end) if end else AlwaysTrue(),
    )
