"""``model.yaml``: everything that is particular to one model, typed and checked when it is loaded."""

from __future__ import annotations

import enum
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, model_validator

from evergreen.contract import Frozen, Name, Window
from evergreen.fields import (
    ColumnName,
    Columns,
    Count,
    Cron,
    Day,
    Days,
    FunctionPath,
    Number,
    RelativePath,
    Text,
    TimeZone,
)

ColumnType = Literal["string", "int64", "double", "boolean", "date", "timestamp"]
"""``timestamp`` is UTC with microseconds: the only form every engine here agrees on."""


RESERVED_COLUMNS = frozenset({"ds", "row", "reason"})
"""Columns that Evergreen adds to a source's tables: the partition, and what quarantine needs."""
FEATURE_TABLE_COLUMNS = frozenset({"ds", "event_timestamp", "created_timestamp"})
"""Columns of examples and feature tables that are no features."""


def _refuse(problems: list[str]) -> None:
    """Report every problem of a section at once, a line each: ``field: what is wrong``."""
    if problems:
        raise ValueError("\n".join(problems))


class Task(enum.StrEnum):
    """What kind of value the model predicts."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class Direction(enum.StrEnum):
    """Which way a metric gets better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


METRICS: dict[str, tuple[frozenset[Task], Direction]] = {
    "auc": (frozenset({Task.BINARY}), Direction.MAXIMIZE),
    "average_precision": (frozenset({Task.BINARY}), Direction.MAXIMIZE),
    "brier": (frozenset({Task.BINARY}), Direction.MINIMIZE),
    "log_loss": (frozenset({Task.BINARY, Task.MULTICLASS}), Direction.MINIMIZE),
    "accuracy": (frozenset({Task.BINARY, Task.MULTICLASS}), Direction.MAXIMIZE),
    "macro_f1": (frozenset({Task.MULTICLASS}), Direction.MAXIMIZE),
    "rmse": (frozenset({Task.REGRESSION}), Direction.MINIMIZE),
    "mae": (frozenset({Task.REGRESSION}), Direction.MINIMIZE),
    "r2": (frozenset({Task.REGRESSION}), Direction.MAXIMIZE),
}
"""The metrics a gate can ask for, the tasks they are defined on and their direction."""


class Schedule(Frozen):
    """When the daily partition is ingested."""

    cron: Cron = "0 6 * * *"
    timezone: TimeZone = "UTC"
    start: Day
    """The first partition that exists."""


class Source(Frozen):
    """One raw table: who reads a partition of it, its schema, and what is expected of it."""

    name: Name
    reader: FunctionPath
    """``file.py:function`` in the model's folder; called with a date, returns a pandas frame or None."""
    key: Columns = Field(min_length=1)
    """Columns that identify a row within its partition."""
    columns: dict[ColumnName, ColumnType] = Field(min_length=1)
    expectations: RelativePath
    """A YAML list of Great Expectations expectations, each with a severity."""

    @model_validator(mode="after")
    def _columns_fit(self) -> Source:
        problems = [f"key: {column!r} is not in columns" for column in self.key if column not in self.columns]
        problems += [
            f"columns: {column!r} is a column that Evergreen adds; choose another name"
            for column in self.columns
            if column in RESERVED_COLUMNS
        ]
        _refuse(problems)
        return self


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
        _refuse(problems)
        return self


class Windows(Frozen):
    """How far back training and evaluation reach, in daily partitions.

    The evaluation window ends at the newest labelled partition; training ends the day before it
    starts, so that neither champion nor challenger has seen what they are judged on.
    """

    training_days: Days = Field(default=90, ge=1)
    evaluation_days: Days = Field(default=30, ge=1)
    minimum_training_rows: Count = Field(default=1000, ge=1)
    minimum_evaluation_rows: Count = Field(default=500, ge=1)

    def evaluation(self, newest_labelled: date) -> Window:
        """Return the window both models are judged on."""
        return Window(start=newest_labelled - timedelta(days=self.evaluation_days - 1), end=newest_labelled)

    def training(self, newest_labelled: date) -> Window:
        """Return the window the challenger learns from: it ends the day before evaluation starts."""
        end = self.evaluation(newest_labelled).start - timedelta(days=1)
        return Window(start=end - timedelta(days=self.training_days - 1), end=end)


class Training(Frozen):
    """The network and how it is trained."""

    network: FunctionPath
    """``file.py:function``; called with the input schema, returns a torch module."""
    workers: Count = Field(default=2, ge=1)
    """Data-parallel Ray Train workers."""
    epochs: Count = Field(default=5, ge=1)
    batch_size: Count = Field(default=2048, ge=1)
    learning_rate: Number = Field(default=2e-3, gt=0)
    weight_decay: Number = Field(default=1e-4, ge=0)
    seed: Count = 0
    classes: Count = Field(default=2, ge=2)
    """Number of classes of a multiclass task."""


class Slice(Frozen):
    """A column whose every value is judged on its own."""

    column: ColumnName
    maximum_regression: Number = Field(gt=0)
    """How much worse the challenger may be on any value, in units of the deciding metric."""
    minimum_rows: Count = Field(default=500, ge=1)


class Gate(Frozen):
    """What a challenger must show before it may replace the champion."""

    metric: str
    direction: Direction
    minimum_improvement: Number = Field(default=0.0, ge=0)
    """The lower confidence bound of the improvement must exceed this."""
    confidence: Number = Field(default=0.95, gt=0.5, lt=1)
    resamples: Count = Field(default=500, ge=100)
    """Paired bootstrap resamples (Efron & Tibshirani 1993, ch. 16)."""
    required: tuple[str, ...] = ()
    """Metrics that must be present and finite, beside the deciding one."""
    limits: dict[str, Number] = Field(default_factory=dict)
    """Absolute limit of a metric: a floor when it is maximized, a ceiling when it is minimized."""
    slices: tuple[Slice, ...] = ()


class Drift(Frozen):
    """When the inputs are said to have moved. Drift proposes a retraining, it never decides one."""

    columns: Columns = Field(min_length=1)
    psi_threshold: Number = Field(default=0.2, gt=0)
    """Population stability index above which a column has drifted (0.2: the usual industry limit)."""
    share_threshold: Number = Field(default=0.3, gt=0, le=1)
    """Share of drifted columns at which the data set has drifted."""
    minimum_rows: Count = Field(default=5000, ge=1)
    """Below this, current or reference, no verdict: small samples drift by chance."""
    current_days: Days = Field(default=30, ge=1)
    reference: Literal["training", "same_season"] = "training"
    """``training``: what the champion learned from; ``same_season``: the same days a year earlier, where
    the lake has them, else the champion's training window."""


class Retraining(Frozen):
    """The guard between a proposal and a training run."""

    cooldown_days: Days = Field(default=7, ge=0)
    """Days of partitions that must lie between two trainings."""
    minimum_new_labels: Count = Field(default=1000, ge=0)
    performance_drop: Number | None = Field(default=None, gt=0)
    """A champion this much worse than at its promotion (deciding metric) proposes a retraining too."""


class Approval(Frozen):
    """Whether a person must approve a promotion."""

    required: bool = False
    timeout_hours: Count = Field(default=72, ge=1)
    """An unanswered approval is a rejection."""


Profile = Literal["small", "medium", "large", "gpu"]


class Resources(Frozen):
    """Resource profile of each kind of step; an out-of-memory failure moves one profile up, once."""

    default: Profile = "small"
    features: Profile = "medium"
    training: Profile = "medium"


class ModelSpec(Frozen):
    """One model, as declared in ``include/models/<name>/model.yaml``."""

    name: Name
    task: Task
    description: Text
    owner: Text
    team: Text
    contact: str = ""
    """Where the on-call person finds the owner."""
    schedule: Schedule
    sources: tuple[Source, ...] = Field(min_length=1)
    features: Features
    windows: Windows = Windows()
    training: Training
    gate: Gate
    drift: Drift
    retraining: Retraining = Retraining()
    approval: Approval = Approval()
    resources: Resources = Resources()

    _folder: Path = PrivateAttr()

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self._folder

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        inputs = self.features.inputs
        problems = [*self._table_problems(), *self._metric_problems()]
        problems += [
            f"drift.columns: {column!r} is not an input of the model"
            for column in self.drift.columns
            if column not in inputs
        ]
        problems += [
            f"gate.slices: column: {item.column!r} is neither an input of the model nor an entity of a view"
            for item in self.gate.slices
            if item.column not in {*inputs, *self.features.keys}
        ]
        _refuse(problems)
        return self

    def _table_problems(self) -> list[str]:
        """Two tables of a model in the lake must not have one name."""
        tables = [("sources", source.name, source.name) for source in self.sources]
        tables += [("sources", source.name, f"raw_{source.name}") for source in self.sources]
        tables += [("sources", source.name, f"{source.name}_quarantine") for source in self.sources]
        tables += [("features.views", view.name, view.name) for view in self.features.views]
        taken = {"examples": "the examples"}
        problems = []
        for field, name, table in tables:
            if table in taken:
                problems.append(f"{field}: {name!r}: the table {table} is already that of {taken[table]}")
            taken[table] = f"{field} {name!r}"
        return problems

    def _metric_problems(self) -> list[str]:
        usable = {name: direction for name, (tasks, direction) in METRICS.items() if self.task in tasks}
        named = [("gate.metric", self.gate.metric)]
        named += [("gate.required", name) for name in self.gate.required]
        named += [("gate.limits", name) for name in self.gate.limits]
        problems = [
            f"{field}: {name!r} is not a metric of a {self.task} model; use one of {', '.join(usable)}"
            for field, name in named
            if name not in usable
        ]
        best = usable.get(self.gate.metric, self.gate.direction)
        if best is not self.gate.direction:
            problems.append(f"gate.direction: {self.gate.metric} is to {best}, not to {self.gate.direction}")
        return problems

    def source(self, name: str) -> Source:
        """Return the source called ``name``; KeyError if there is none."""
        return {source.name: source for source in self.sources}[name]
