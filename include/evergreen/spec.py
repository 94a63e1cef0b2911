"""``model.yaml``: everything that is particular to one model, typed and checked when it is loaded."""

from __future__ import annotations

import enum
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, StringConstraints, model_validator

from evergreen.contract import Frozen, Name, Window

ColumnName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
RelativePath = Annotated[str, StringConstraints(pattern=r"^[\w-][\w.-]*(/[\w-][\w.-]*)*$")]
"""A file inside the model's folder."""
ColumnType = Literal["string", "int64", "double", "boolean", "date", "timestamp"]
"""``timestamp`` is UTC with microseconds: the only form every engine here agrees on."""


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

    cron: str = "0 6 * * *"
    timezone: str = "UTC"
    start: date
    """The first partition that exists."""


class Source(Frozen):
    """One raw table: who reads a partition of it, its schema, and what is expected of it."""

    name: Name
    reader: Annotated[str, StringConstraints(pattern=r"^\w+(/\w+)*\.py:[a-z_]\w*$")]
    """``file.py:function`` in the model's folder; called with a date, returns a pandas frame or None."""
    key: tuple[ColumnName, ...] = Field(min_length=1)
    """Columns that identify a row within its partition."""
    columns: dict[ColumnName, ColumnType] = Field(min_length=1)
    expectations: RelativePath
    """A YAML list of Great Expectations expectations, each with a severity."""

    @model_validator(mode="after")
    def _key_is_declared(self) -> Source:
        missing = [column for column in self.key if column not in self.columns]
        if missing:
            raise ValueError(f"key names columns that are not in columns: {', '.join(missing)}")
        if "ds" in self.columns:
            raise ValueError("the column ds is the partition itself; Evergreen adds it")
        return self


class FeatureView(Frozen):
    """One feature table: the SQL that builds it and the Feast entities it is looked up by."""

    name: Name
    sql: RelativePath
    entities: tuple[ColumnName, ...] = Field(min_length=1)
    features: tuple[ColumnName, ...] = Field(min_length=1)
    lookback_days: int = Field(default=0, ge=0, le=400)
    """How many earlier partitions the SQL reads."""


class Examples(Frozen):
    """The rows the model learns from: entity keys, event time, request-time columns and the label."""

    sql: RelativePath
    label: ColumnName
    label_delay_days: int = Field(default=1, ge=0)
    """Days until the label of an example is known."""
    lookback_days: int = Field(default=0, ge=0, le=400)


class Features(Frozen):
    """How published partitions become model inputs."""

    examples: Examples
    views: tuple[FeatureView, ...] = ()
    numeric: tuple[ColumnName, ...] = ()
    categorical: tuple[ColumnName, ...] = ()

    @model_validator(mode="after")
    def _inputs_are_known(self) -> Features:
        if not self.numeric and not self.categorical:
            raise ValueError("name at least one input under numeric or categorical")
        if self.examples.label in (*self.numeric, *self.categorical):
            raise ValueError(f"the label {self.examples.label!r} cannot be an input: the model would see the answer")
        both = set(self.numeric) & set(self.categorical)
        if both:
            raise ValueError(f"inputs named both numeric and categorical: {', '.join(sorted(both))}")
        return self


class Windows(Frozen):
    """How far back training and evaluation reach, in daily partitions.

    The evaluation window ends at the newest labelled partition; training ends the day before it
    starts, so that neither champion nor challenger has seen what they are judged on.
    """

    training_days: int = Field(default=90, ge=1)
    evaluation_days: int = Field(default=30, ge=1)
    minimum_training_rows: int = Field(default=1000, ge=1)
    minimum_evaluation_rows: int = Field(default=500, ge=1)

    def evaluation(self, newest_labelled: date) -> Window:
        """Return the window both models are judged on."""
        return Window(start=newest_labelled - timedelta(days=self.evaluation_days - 1), end=newest_labelled)

    def training(self, newest_labelled: date) -> Window:
        """Return the window the challenger learns from: it ends the day before evaluation starts."""
        end = self.evaluation(newest_labelled).start - timedelta(days=1)
        return Window(start=end - timedelta(days=self.training_days - 1), end=end)


class Training(Frozen):
    """The network and how it is trained."""

    network: Annotated[str, StringConstraints(pattern=r"^\w+(/\w+)*\.py:[A-Za-z_]\w*$")]
    """``file.py:function``; called with the input schema, returns a torch module."""
    workers: int = Field(default=2, ge=1)
    """Data-parallel Ray Train workers."""
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=2048, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    seed: int = 0
    classes: int = Field(default=2, ge=2)
    """Number of classes of a multiclass task."""


class Slice(Frozen):
    """A column whose every value is judged on its own."""

    column: ColumnName
    maximum_regression: float = Field(gt=0)
    """How much worse the challenger may be on any value, in units of the deciding metric."""
    minimum_rows: int = Field(default=500, ge=1)


class Gate(Frozen):
    """What a challenger must show before it may replace the champion."""

    metric: str
    direction: Direction
    minimum_improvement: float = Field(default=0.0, ge=0)
    """The lower confidence bound of the improvement must exceed this."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=500, ge=100)
    """Paired bootstrap resamples (Efron & Tibshirani 1993, ch. 16)."""
    required: tuple[str, ...] = ()
    """Metrics that must be present and finite, beside the deciding one."""
    limits: dict[str, float] = Field(default_factory=dict)
    """Absolute limit of a metric: a floor when it is maximized, a ceiling when it is minimized."""
    slices: tuple[Slice, ...] = ()


class Drift(Frozen):
    """When the inputs are said to have moved. Drift proposes a retraining, it never decides one."""

    columns: tuple[ColumnName, ...] = Field(min_length=1)
    psi_threshold: float = Field(default=0.2, gt=0)
    """Population stability index above which a column has drifted (0.2: the usual industry limit)."""
    share_threshold: float = Field(default=0.3, gt=0, le=1)
    """Share of drifted columns at which the data set has drifted."""
    minimum_rows: int = Field(default=5000, ge=1)
    """Below this, current or reference, no verdict: small samples drift by chance."""
    current_days: int = Field(default=30, ge=1)
    reference: Literal["training", "same_season"] = "training"
    """``training``: what the champion learned from; ``same_season``: the same days a year earlier, where
    the lake has them, else the champion's training window."""


class Retraining(Frozen):
    """The guard between a proposal and a training run."""

    cooldown_days: int = Field(default=7, ge=0)
    """Days of partitions that must lie between two trainings."""
    minimum_new_labels: int = Field(default=1000, ge=0)
    performance_drop: float | None = Field(default=None, gt=0)
    """A champion this much worse than at its promotion (deciding metric) proposes a retraining too."""


class Approval(Frozen):
    """Whether a person must approve a promotion."""

    required: bool = False
    timeout_hours: int = Field(default=72, ge=1)
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
    description: str = Field(min_length=1)
    owner: str = Field(min_length=1)
    team: str = Field(min_length=1)
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
        self._check_metrics()
        for kind, names in (
            ("sources", [source.name for source in self.sources]),
            ("features.views", [view.name for view in self.features.views]),
        ):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{kind}: names used twice: {', '.join(repeated)}")
        inputs = {*self.features.numeric, *self.features.categorical}
        unknown = [column for column in self.drift.columns if column not in inputs]
        if unknown:
            raise ValueError(f"drift.columns: not an input of the model: {', '.join(unknown)}")
        return self

    def _check_metrics(self) -> None:
        usable = {name: direction for name, (tasks, direction) in METRICS.items() if self.task in tasks}
        for field, names in (
            ("gate.metric", [self.gate.metric]),
            ("gate.required", self.gate.required),
            ("gate.limits", self.gate.limits),
        ):
            for name in names:
                if name not in usable:
                    raise ValueError(
                        f"{field}: {name!r} is not a metric of a {self.task} model; use one of {', '.join(usable)}"
                    )
        if usable[self.gate.metric] is not self.gate.direction:
            raise ValueError(
                f"gate.direction: {self.gate.metric} is to {usable[self.gate.metric]}, not to {self.gate.direction}"
            )

    def source(self, name: str) -> Source:
        """Return the source called ``name``; KeyError if there is none."""
        return {source.name: source for source in self.sources}[name]
