"""The lake as Feast sees it: a source that names a table of it.

Only Feast loads this module (the definitions in feature_repo/ name it), so Feast is imported at the top. Stock
``IcebergSource`` keeps the catalog's address, password and all, in the registry; `LakeSource` does not. What reads the
tables is in `evergreen.features.feast_offline`: a server of predictions has the definitions and none of its libraries.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from feast.infra.data_sources.contrib.iceberg_catalog.iceberg_source import IcebergSource  # noqa: TID253
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto  # noqa: TID253

from evergreen.data.lake import get_lake

if TYPE_CHECKING:
    from feast.repo_config import RepoConfig


class LakeSource(IcebergSource):  # type: ignore[misc]  # Feast has no types
    """A table of the lake.

    Parameters
    ----------
    model
        The model it belongs to.
    table
        The feature view's table.
    """

    def __init__(
        self,
        *,
        model: str,
        table: str,
        name: str | None = None,
        timestamp_field: str = "event_timestamp",
        description: str = "",
        tags: dict[str, str] | None = None,
        owner: str = "",
    ) -> None:
        # nothing else of Feast's: a field_mapping, say, would not be in the registry, and so be lost
        super().__init__(
            name=name or f"{model}_{table}",
            warehouse="lake",
            catalog_type="sql",
            namespace=model,
            table=table,
            timestamp_field=timestamp_field,
            description=description,
            tags=tags,
            owner=owner,
        )

    def get_catalog_client(self) -> Any:
        """Return the catalog of the configured lake."""
        return get_lake().catalog

    def source_type(self) -> Any:
        """Return Feast's type for sources that Feast does not know."""
        return DataSourceProto.CUSTOM_SOURCE

    def validate(self, config: RepoConfig) -> None:
        """Accept a table that is not there yet: ``feast apply`` comes before the first features are built."""

    @staticmethod
    def from_proto(data_source: Any) -> LakeSource:
        """Read the source back from the registry."""
        options = json.loads(data_source.custom_options.configuration)
        return LakeSource(
            name=data_source.name,
            model=options["model"],
            table=options["table"],
            timestamp_field=data_source.timestamp_field,
            description=data_source.description,
            tags=dict(data_source.tags),
            owner=data_source.owner,
        )

    def _to_proto_impl(self) -> Any:
        options = json.dumps({"model": self.namespace, "table": self.iceberg_table})
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=f"{LakeSource.__module__}.{LakeSource.__name__}",
            custom_options=DataSourceProto.CustomSourceOptions(configuration=options.encode()),
            timestamp_field=self.timestamp_field,
            description=self.description,
            tags=self.tags,
            owner=self.owner,
        )
