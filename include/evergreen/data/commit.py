"""Several tables of the lake in one commit.

PyIceberg commits a table at a time. Its catalogue is a table of PostgreSQL with a row for each Iceberg table, so one
transaction of that database around several commits makes them one: all rows change at once, or none.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evergreen.contract import Window
from evergreen.data.arrow import PARTITION
from evergreen.data.records import PREFIX, named
from evergreen.data.scan import in_window

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table, Transaction


@contextmanager
def one_transaction(catalog: SqlCatalog, isolation: str = "READ COMMITTED") -> Iterator[SqlCatalog]:
    """Yield a catalog all of whose reads and writes happen in one transaction, committed at the end."""
    with (
        catalog.engine.execution_options(isolation_level=isolation).connect() as connection,
        # PyIceberg opens its sessions on ``engine``; on a connection inside a transaction their commits end nothing
        connection.begin(),
    ):
        inside = copy.copy(catalog)
        inside.engine = connection
        yield inside


@dataclass(frozen=True, eq=False)
class Change:
    """Rows that take the place of a window of a table, and of single days beside it."""

    table: str
    rows: pa.Table
    window: Window
    also: Collection[str]
    digest: str
    properties: Mapping[str, str]
    """Recorded in the snapshot, under the project's prefix."""

    @property
    def recorded(self) -> dict[str, str]:
        """What the snapshot records."""
        told = {**self.properties, "window": named(self.window, self.also), "digest": self.digest}
        return {f"{PREFIX}{name}": value for name, value in told.items()}


def replacing(table: Table, change: Change) -> Transaction:
    """Write the files of a change; they count once the result is committed."""
    from pyiceberg.expressions import In, Or

    window = in_window(change.window)
    replaced = Or(window, In(PARTITION, sorted(change.also))) if change.also else window
    transaction = table.transaction()
    transaction.overwrite(change.rows, overwrite_filter=replaced, snapshot_properties=change.recorded)
    return transaction


def commit_together(catalog: SqlCatalog, staged: Iterable[tuple[Table, Transaction]]) -> None:
    """Commit what `replacing` has staged: everything, or nothing. The tables are left as of this commit."""
    with one_transaction(catalog) as inside:
        for table, transaction in staged:
            table.catalog = inside
            transaction.commit_transaction()
            table.catalog = catalog
