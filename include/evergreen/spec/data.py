"""What a model reads: its schedule, its sources, and how they become features."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, JsonValue, model_validator

from evergreen.contract import Frozen, Name
from evergreen.field_types import (
    ColumnName,
    Columns,
    Count,
    DailyCron,
    Day,
    Days,
    FunctionPath,
    Number,
    RelativePath,
    TimeZone,
)

ColumnType = Literal["string", "int64", "double", "boolean", "date", "timestamp"]
"""``timestamp`` is UTC with microseconds: the only form every engine here agrees on."""


RESERVED_COLUMNS = frozenset({"ds", "row", "reason"})
"""Columns that Evergreen adds to a source's tables: the partition, and what quarantine needs."""
FEATURE_TABLE_COLUMNS = frozenset({"ds", "event_timestamp", "created_timestamp"})
"""Columns of examples and feature tables that are no features."""
FEAST_COLUMNS = frozenset({"rn", "entity_row_id", "entity_row_id_yyyy", "event_expire_timestamp"})
"""Columns that Feast's point-in-time join adds, and loses or mistakes for its own when a feature has such a name."""


def refuse(problems: list[str]) -> None:
    """Report every problem of a section at once, a line each: ``field: what is wrong``."""
    if problems:
        raise ValueError("\n".join(problems))


class Schedule(Frozen):
    """When the daily partition is ingested."""

    cron: DailyCron = "0 6 * * *"
    timezone: TimeZone = "UTC"
    start: Day
    """The first partition that exists."""
    maximum_backfill_days: Days = Field(default=400, ge=1)
    """How many days one run may be given, at most: more would need more memory than any profile has."""

    deadline_hours: Number | None = Field(default=None, gt=0, le=8760)
    """How long after its ingestion is due a partition may take until its features are there."""

    @model_validator(mode="after")
    def _comes_every_day(self) -> Schedule:
        minute, hour = (int(field) for field in self.cron.split()[:2])
        at = time(hour, minute)
        skipped = [day for day in _changes(self.timezone) if day >= self.start and not _exists(day, at, self.timezone)]
        if skipped:
            raise ValueError(
                f"cron: clocks in {self.timezone} skip {at:%H:%M} on {skipped[0]}, and that run would not come: "
                "choose another time"
            )
        return self

    def ingested_at(self, day: date) -> datetime:
        """Return when a partition is ingested, in UTC: no row of it can be known to anybody here before."""
        minute, hour = (int(field) for field in self.cron.split()[:2])
        return datetime.combine(day + timedelta(days=1), time(hour, minute), ZoneInfo(self.timezone)).astimezone(UTC)

    def newest_due(self, now: datetime) -> date | None:
        """Return the newest partition whose deadline is over; None if there is none, or no deadline."""
        if self.deadline_hours is None:
            return None
        latest = now - timedelta(hours=self.deadline_hours)
        days = (latest.date() - timedelta(days=back) for back in range(4))  # its time zone may be a day ahead or behind
        due = next(day for day in days if self.ingested_at(day) <= latest)
        return due if due >= self.start else None


@cache
def _changes(zone: str) -> list[date]:
    """Return the days of every week in which a zone's clocks go forward, as far as the tables of time zones reach."""
    weeks = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(weeks=number) for number in range(68 * 52)]
    offsets = [ZoneInfo(zone).utcoffset(week) or timedelta() for week in weeks]
    forward = [week for week, before, after in zip(weeks, offsets, offsets[1:], strict=False) if after > before]
    return [(week + timedelta(days=day)).date() for week in forward for day in range(-1, 9)]


def _exists(day: date, at: time, zone: str) -> bool:
    local = datetime.combine(day, at, ZoneInfo(zone))
    return local.astimezone(UTC).astimezone(local.tzinfo).replace(tzinfo=None) == datetime.combine(day, at)


class Source(Frozen):
    """One raw table: who reads a partition of it, its schema, and what is expected of it."""

    name: Name
    reader: FunctionPath | None = None
    """``file.py:function`` in the model's folder; called with a date, returns a pandas frame or None."""
    type: Name | None = None
    """In place of a reader: one of the built-in types, module ``evergreen.data.source_types.<type>``."""
    options: dict[Name, JsonValue] = Field(default_factory=dict)
    """What the type asks for, e.g. where its files are."""
    key: Columns = Field(min_length=1)
    """Columns that identify a row within its partition."""
    columns: dict[ColumnName, ColumnType] = Field(min_length=1)
    expectations: RelativePath
    """A YAML list of Great Expectations expectations, each with a severity."""
    allow_null: Columns = ()
    """Columns that may be null in every row of a day."""
    allow_infinite: Columns = ()
    """Columns whose values may be infinite, or not a number."""
    event_time: ColumnName | None = None
    """When a row's event was; default: the key's timestamp, if it has one."""
    event_time_days: Days = Field(default=1, ge=0)
    """How many days the event may lie before or after the row's partition."""

    @property
    def read_by(self) -> str:
        """What reads it, as messages name it: the reader, or the type."""
        return self.reader or f"{self.type} {self.options}"

    @property
    def event_time_column(self) -> str | None:
        """The column that says when a row's event was, if there is one."""
        times = [column for column in self.key if self.columns[column] == "timestamp"]
        return self.event_time or (times[0] if len(times) == 1 else None)

    @model_validator(mode="after")
    def _columns_fit(self) -> Source:
        problems = self._reader_problems()
        problems += [f"key: {column!r} is not in columns" for column in self.key if column not in self.columns]
        problems += [
            f"columns: {column!r} is a column that Evergreen adds; choose another name"
            for column in self.columns
            if column in RESERVED_COLUMNS
        ]
        named = {"allow_null": self.allow_null, "allow_infinite": self.allow_infinite}
        named["event_time"] = (self.event_time,) if self.event_time else ()
        kinds = {"allow_infinite": "double", "event_time": "timestamp"}
        for field, columns in named.items():
            problems += [f"{field}: {column!r} is not in columns" for column in columns if column not in self.columns]
            problems += [
                f"{field}: {column!r} is a {self.columns[column]}, not a {kinds[field]}"
                for column in columns
                if column in self.columns and self.columns[column] != kinds.get(field, self.columns[column])
            ]
        refuse(problems)
        return self

    def _reader_problems(self) -> list[str]:
        """Tell whether it is not one function or type that reads the source."""
        if self.reader and self.type:
            return [f"type: {self.type!r}, and there is the reader {self.reader!r} too; give one of them"]
        if not self.reader and not self.type:
            return ["reader: the field is missing; give a reader, or a type with its options"]
        needless = self.reader and self.options
        return [f"options: {self.options!r} belong to a type; a reader has none"] if needless else []


class FeatureView(Frozen):
    """One feature table: the SQL that builds it and the Feast entities it is looked up by."""

    name: Name
    sql: RelativePath
    entities: Columns = Field(min_length=1)
    features: Columns = Field(min_length=1)
    lookback_days: Count = Field(default=0, ge=0, le=400)
    """How many earlier partitions the SQL reads."""


class Examples(Frozen):
    """The rows the model learns from: entity keys, event time, request-time columns and the label."""

    sql: RelativePath
    label: ColumnName
    label_delay_days: Days = Field(default=1, ge=0)
    """Days until the label of an example is known."""
    lookback_days: Count = Field(default=0, ge=0, le=400)


class Features(Frozen):
    """How published partitions become model inputs."""

    examples: Examples
    views: tuple[FeatureView, ...] = ()
    numeric: Columns = ()
    categorical: Columns = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Every model input: the numeric ones, then the categorical ones."""
        return (*self.numeric, *self.categorical)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every entity key of the views, once, in their order."""
        return tuple(dict.fromkeys(key for view in self.views for key in view.entities))

    @property
    def request_inputs(self) -> tuple[str, ...]:
        """The inputs that no view provides: the examples bring them along."""
        provided = {feature for view in self.views for feature in view.features}
        return tuple(name for name in self.inputs if name not in provided)

    @model_validator(mode="after")
    def _inputs_fit(self) -> Features:
        label = self.examples.label
        problems = [] if self.inputs else ["numeric: name at least one input under numeric or categorical"]
        if label in self.inputs:
            problems.append(f"examples.label: {label!r} cannot be an input too: the model would see the answer")
        problems += [f"categorical: {name!r} is numeric too" for name in self.categorical if name in self.numeric]
        made_by: dict[str, str] = {}
        for view in self.views:
            for feature in view.features:
                if feature in made_by:
                    problems.append(f"views: {feature!r} is a feature of both {made_by[feature]} and {view.name}")
                if feature in {label, *self.keys, *FEATURE_TABLE_COLUMNS}:
                    problems.append(f"views: {feature!r} of {view.name} is the label, an entity or a time column")
                made_by[feature] = view.name
        refuse([*problems, *self._name_problems()])
        return self

    def _name_problems(self) -> Iterator[str]:
        """Yield the names that Feast would mangle or lose, or that are those of a column which is always there."""
        columns = (
            *(("examples.label", "the label", (self.examples.label,)), ("numeric", "an input", self.numeric)),
            *(("categorical", "an input", self.categorical), ("views", "an entity", self.keys)),
        )
        for field, role, names in columns:
            for name in names:
                if name in FEATURE_TABLE_COLUMNS:
                    yield f"{field}: {name!r}, {role}, is a column that every such table has; choose another name"
        for view in self.views:
            for name in (*view.entities, *view.features):
                if "__" in name:
                    yield (
                        f"views: {name!r} of {view.name}: Feast puts two underscores between a view's name and a "
                        "feature's, and would read them so; write one"
                    )
                elif name in FEAST_COLUMNS or (name.endswith("_y") and name in view.features):
                    yield f"views: {name!r} of {view.name}: Feast's join loses a column of such a name; choose another"
