"""The rows of Feast's online store as a server reads them: each thread on a connection of its own, and within a time.

Only the store is opened. Feast's SQL registry stays closed: the views are those of feature_repo/<model>.py, which
materialize has applied.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from evergreen.contract import described
from evergreen.environment import add, feast_variables
from evergreen.serving.deadlines import DEADLINES, shut_down
from evergreen.serving.requests import Kind, OverloadedError, Value
from evergreen.settings import get_settings

if TYPE_CHECKING:
    from feast.repo_config import RepoConfig

log = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0
"""So long the store may take for a micro-batch, over all of its views; whoever waits for it is refused then."""
RETRY_SECONDS = 2
"""When a client should come again after the online store was away."""

Key = tuple[Value, ...]


@dataclass(frozen=True)
class Stored:
    """A key's row of a view in the online store; ``at`` is None if there is none."""

    at: datetime | None
    values: Mapping[str, Value]


NOTHING = Stored(None, {})


@dataclass(frozen=True)
class View:
    """A view as the server reads it."""

    name: str
    entities: tuple[str, ...]
    features: tuple[str, ...]
    ttl: timedelta | None
    feast: Any


class _Way:
    """A thread's own store, of which Feast's keeps one connection, and until when the thread may wait for it."""

    def __init__(self) -> None:
        self.store: Any = None
        self.until = math.inf

    def cut(self) -> None:
        """End a read that is under way, from another thread."""
        shut_down(getattr(self.store, "_conn", None))


class OnlineStore:
    """Reads rows for one model.

    Parameters
    ----------
    model
        Its name, for the log.
    kinds
        What each entity key is.
    """

    def __init__(self, model: str, kinds: Mapping[str, Kind]) -> None:
        self._model, self._kinds = model, kinds
        self._local = threading.local()

    @contextmanager
    def in_time(self) -> Iterator[None]:
        """Give the reads of the block, all together, the time that there is."""
        way = self._way()
        way.until = time.monotonic() + ANSWER_SECONDS
        with DEADLINES.within(ANSWER_SECONDS, way.cut):
            yield

    def read(self, view: View, keys: Sequence[Key]) -> list[Stored]:
        """Return the row of each key.

        Raises
        ------
        OverloadedError
            If the store does not answer.
        """
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey

        wanted = {}
        for key in keys:
            with suppress(ValueError):  # a number of more than 64 bits, half a character: no such key can be stored
                values = [self._value(*pair) for pair in zip(view.entities, key, strict=True)]
                wanted[key] = EntityKey(join_keys=view.entities, entity_values=values)
        if not wanted:
            return [NOTHING] * len(keys)
        found = self._found(view, list(wanted.values()))
        rows = dict(zip(wanted, (_stored(at, values) for at, values in found), strict=True))
        return [rows.get(key, NOTHING) for key in keys]

    def _found(self, view: View, keys: Sequence[Any]) -> list[Any]:
        config, way = repo_config(), self._way()
        while True:
            is_new = way.store is None
            try:
                found: list[Any] = _opened(way, config).online_read(config, view.feast, keys, list(view.features))
            except Exception as error:  # of psycopg, redis or whichever store it is
                way.store = None  # its connection is of no use any more: the next read opens another
                # one that the server has closed meanwhile is noticed by its first use, and a new one tried at once
                if is_new or time.monotonic() >= way.until:
                    log.warning("%s: the online store does not answer: %s", self._model, described(error))
                    raise OverloadedError("online_store", "the online store does not answer", RETRY_SECONDS) from error
            else:
                return found

    def _value(self, name: str, value: Value) -> Any:
        from feast.protos.feast.types.Value_pb2 import Value as FeastValue

        if self._kinds[name] == "string":
            return FeastValue(string_val=str(value))
        return FeastValue(int64_val=int(value or 0))

    def _way(self) -> _Way:
        if not hasattr(self._local, "way"):
            self._local.way = _Way()
        way: _Way = self._local.way
        return way


def _opened(way: _Way, config: RepoConfig) -> Any:
    if way.store is None:
        from feast.infra.online_stores.helpers import get_online_store_from_config

        way.store = get_online_store_from_config(config.online_store)
    return way.store


@lru_cache(maxsize=1)
def repo_config() -> RepoConfig:
    """Return what feature_store.yaml says."""
    from feast.repo_config import load_repo_config

    settings = get_settings()
    add(feast_variables(settings))
    return load_repo_config(settings.feature_repo, settings.feature_repo / "feature_store.yaml")


def _stored(at: datetime | None, values: Mapping[str, Any] | None) -> Stored:
    """Return a row as Feast gives it in plain values."""
    if at is None or values is None:
        return NOTHING
    # Feast writes the time without a zone, PostgreSQL reads and shows it in the session's: the clock's face is UTC
    return Stored(at.replace(tzinfo=UTC), {name: _plain(value) for name, value in values.items()})


def _plain(value: Any) -> Value:
    kind = value.WhichOneof("val")
    plain: Value = None if kind is None or kind == "null_val" else getattr(value, kind)
    return None if isinstance(plain, float) and math.isnan(plain) else plain
