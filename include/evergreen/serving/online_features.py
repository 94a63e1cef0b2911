"""The features of a micro-batch, from Feast's online store, judged at the time of each row's event.

docs/decisions/online-features.md says what is missing, what is stale, and for how long a row is kept here.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from evergreen.contract import ConfigurationError
from evergreen.features.feast_repo import definitions
from evergreen.serving.metrics import UNAVAILABLE_FEATURES
from evergreen.serving.online_store import NOTHING, Key, OnlineStore, Stored, View
from evergreen.serving.requests import Column, Kind, Problem, Value
from evergreen.spec import ModelSpec
from evergreen.spec.serving import Unavailable

CACHED_SECONDS = 5.0
"""How long after a materialization an old row may still be answered with."""
MOST_CACHED = 50_000
"""Rows of views."""


@dataclass
class FeatureRows:
    """What a micro-batch's rows are answered with.

    Parameters
    ----------
    values
        By feature, a value for each row.
    ages
        By view, how many seconds old each row's features are; None where there is nothing.
    problems
        By row, why it is refused; ``Problem.row`` is counted as in the batch.
    """

    values: dict[str, list[Value]] = field(default_factory=dict)
    ages: dict[str, list[float | None]] = field(default_factory=dict)
    problems: dict[int, list[Problem]] = field(default_factory=dict)


class OnlineFeatures:
    """Reads the features of one model.

    Parameters
    ----------
    spec
        The model.
    clock
        Seconds that only grow.

    Raises
    ------
    ConfigurationError
        If the definitions are not those of model.yaml, or a key is neither text nor a whole number.
    """

    def __init__(self, spec: ModelSpec, clock: Callable[[], float] = time.monotonic) -> None:
        self._spec = spec
        self._clock = clock
        objects = definitions(spec) if spec.features.views else []
        feast_views = {one.name: one for one in objects if hasattr(one, "join_keys")}
        self._views = [
            View(view.name, view.entities, view.features, feast_view.ttl or None, feast_view)
            for view in spec.features.views
            for feast_view in [feast_views[spec.feast_name(view)]]
        ]
        self.key_kinds: dict[str, Kind] = {}
        for view in self._views:
            self.key_kinds |= {name: _kind(view, name) for name in view.entities}
        self._store = OnlineStore(spec.name, self.key_kinds)
        self._cache: OrderedDict[tuple[str, Key], tuple[float, Stored]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def columns(self) -> tuple[Column, ...]:
        """What a request of the model is made of: the keys, then the inputs that no view provides."""
        features = self._spec.features
        keys = [Column(name, kind) for name, kind in self.key_kinds.items()]
        inputs = [name for name in features.request_inputs if name not in self.key_kinds]
        return (*keys, *(Column(name, "category" if name in features.categorical else "number") for name in inputs))

    def read(self, keys: Mapping[str, Sequence[Value]], at: Sequence[datetime]) -> FeatureRows:
        """Return the features of every row as they are known, judged at the time of the row's event.

        Raises
        ------
        OverloadedError
            If the online store does not answer.
        """
        found = FeatureRows()
        with self._store.in_time():
            for view in self._views:
                self._read(view, keys, at, found)
        return found

    def _read(
        self, view: View, keys: Mapping[str, Sequence[Value]], at: Sequence[datetime], found: FeatureRows
    ) -> None:
        """Add the features of one view."""
        asked: list[Key] = list(zip(*(keys[name] for name in view.entities), strict=True))
        rows = self._rows(view, asked)
        ages: list[float | None] = []
        used = []
        for number, (key, moment) in enumerate(zip(asked, at, strict=True)):
            row, age, problem = self._judged(view, key, rows[key], moment, number)
            used.append(row.values)
            ages.append(age)
            if problem is not None:
                found.problems.setdefault(number, []).append(problem)
        found.ages[view.name] = ages
        found.values |= {name: [row.get(name) for row in used] for name in view.features}

    def _judged(
        self, view: View, key: Key, row: Stored, at: datetime, number: int
    ) -> tuple[Stored, float | None, Problem | None]:
        """Return what is used of a key's row, its age, and why that is refused, if it is."""
        policy = self._spec.serving
        shown = ", ".join(f"{name}={value!r}" for name, value in zip(view.entities, key, strict=True))
        if row.at is None or row.at > at:
            since = "" if row.at is None else f" before {row.at:%Y-%m-%d %H:%M:%S}Z"
            expected = f"a key that {view.name} has features of: it knows none of {shown}{since}"
            return (
                NOTHING,
                None,
                self._problem(view, key, "missing_features", policy.missing_features, number, expected),
            )
        age = at - row.at
        if view.ttl is not None and age > view.ttl:  # Feast's join takes a row that is exactly ttl old
            least, old = _in_words(view.ttl), _in_words(age)
            expected = (
                f"features of {view.name} at most {least} old (ttl): those of {shown} are of "
                f"{row.at:%Y-%m-%d %H:%M:%S}Z, {old} before"
            )
            problem = self._problem(view, key, "stale_features", policy.stale_features, number, expected)
            return row, age.total_seconds(), problem
        return row, age.total_seconds(), None

    def _problem(
        self,
        view: View,
        key: Key,
        kind: Literal["missing_features", "stale_features"],
        policy: Unavailable,
        number: int,
        expected: str,
    ) -> Problem | None:
        UNAVAILABLE_FEATURES.labels(self._spec.name, view.name, kind).inc()
        if policy is Unavailable.SERVE:
            return None
        return Problem(number, ", ".join(view.entities), key[0] if len(key) == 1 else list(key), expected, kind)

    def _rows(self, view: View, asked: Sequence[Key]) -> dict[Key, Stored]:
        """Return the row of every key, those that are not known here from the store, in one read."""
        now = self._clock()
        known: dict[Key, Stored] = {}
        with self._lock:
            for key in dict.fromkeys(asked):
                kept = self._cache.get((view.name, key))
                if kept is not None and now - kept[0] < CACHED_SECONDS:
                    known[key] = kept[1]
        unknown = [key for key in dict.fromkeys(asked) if key not in known]
        if unknown:
            read = dict(zip(unknown, self._store.read(view, unknown), strict=True))
            known |= read
            with self._lock:
                for key, row in read.items():
                    self._cache[view.name, key] = (now, row)
                    self._cache.move_to_end((view.name, key))
                while len(self._cache) > MOST_CACHED:
                    self._cache.popitem(last=False)
        return known


def _in_words(age: timedelta) -> str:
    """Return a duration in the largest unit of which there are two or more: nobody reads 5026 days, 0:30:21."""
    seconds = age.total_seconds()
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds:.4g} seconds"


def _kind(view: View, name: str) -> Kind:
    from feast.types import Int64, String

    kinds: dict[Any, Kind] = {String: "string", Int64: "integer"}
    dtype = next((column.dtype for column in view.feast.entity_columns if column.name == name), String)
    if dtype not in kinds:
        raise ConfigurationError(
            f"feature_repo: {view.feast.name}: the key {name} is {dtype}.", "Keys that are served are String or Int64."
        )
    return kinds[dtype]
