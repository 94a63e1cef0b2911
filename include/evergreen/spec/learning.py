"""What a model predicts, how it learns, what its challenger must show, and how it is kept fresh."""

from __future__ import annotations

import enum
import math
from datetime import date, timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from evergreen.contract import Frozen, Window
from evergreen.field_types import ColumnName, Columns, Count, Days, FunctionPath, Number, said_as


class Task(enum.StrEnum):
    """What kind of value the model predicts."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"


class Direction(enum.StrEnum):
    """Which way a metric gets better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"

    @property
    def sign(self) -> int:
        """What a metric is multiplied with so that more is better."""
        return 1 if self is Direction.MAXIMIZE else -1


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
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("auc", "average_precision", "brier", "accuracy", "macro_f1"), (0.0, 1.0)),
    **dict.fromkeys(("log_loss", "rmse", "mae"), (0.0, math.inf)),
    "r2": (-math.inf, 1.0),
}
"""The lowest and the highest value that each metric can have."""
_CLASSIFICATIONS = frozenset({Task.BINARY, Task.MULTICLASS})
GROUP_METRICS: dict[str, frozenset[Task]] = {
    "demographic_parity_difference": frozenset({Task.BINARY}),
    "equalized_odds_difference": frozenset({Task.BINARY}),
    "group_difference": frozenset(Task),
}
"""What is compared between the groups of a sensitive column, and the tasks it is defined on; less is better."""
FLIP_METRICS: dict[str, frozenset[Task]] = {
    f"flip_rate_{change}": frozenset(Task) for change in ("missing", "noise", "nudge", "shift")
}
"""Shares of answers that change when inputs do, and the tasks they are defined on; less is better."""
COST_METRICS: dict[str, frozenset[Task]] = {"size_mb": frozenset(Task), "latency_ms": frozenset(Task)}
"""What a model costs whoever serves it, and the tasks it is defined on; less is better."""
FORBIDDING: dict[str, frozenset[Task]] = {"ece": _CLASSIFICATIONS, **GROUP_METRICS, **FLIP_METRICS, **COST_METRICS}
"""What only the rules of a gate may ask for, and the tasks it is defined on; less is better."""


def is_better_small(metric: str) -> bool:
    """Tell whether less of a metric is better."""
    return metric in FORBIDDING or METRICS[metric][1] is Direction.MINIMIZE


class Windows(Frozen):
    """How far back training and evaluation reach, in daily partitions.

    The evaluation window ends at the newest labelled partition. Training ends before it starts, by a day and the
    delay of the labels: later ones were not known yet on the evaluation's first day.
    """

    training_days: Days = Field(default=90, ge=1)
    evaluation_days: Days = Field(default=30, ge=1)
    minimum_training_rows: Count = Field(default=1000, ge=1)
    minimum_evaluation_rows: Count = Field(default=500, ge=1)
    minimum_evaluation_partitions: Count = Field(default=10, ge=10)
    """Days with labelled rows. With fewer than ten no interval is right: they depend on each other."""
    minimum_label_share: Number = Field(default=0.5, ge=0, le=1)
    """The evaluation window's share of labelled examples, as part of the training window's. With less, labels are still
    to come: what comes first, say the positives, is another population."""

    @model_validator(mode="after")
    def _enough_days(self) -> Windows:
        least = self.minimum_evaluation_partitions
        if self.evaluation_days < least:
            raise ValueError(
                f"evaluation_days: {self.evaluation_days} can never hold the {least} days that "
                "minimum_evaluation_partitions asks for"
            )
        return self

    def evaluation(self, newest_labelled: date) -> Window:
        """Return the window both models are judged on."""
        return Window(start=newest_labelled - timedelta(days=self.evaluation_days - 1), end=newest_labelled)

    def training(self, newest_labelled: date, label_delay_days: int) -> Window:
        """Return the window the challenger learns from: its last labels were known the day before evaluation starts."""
        end = self.evaluation(newest_labelled).start - timedelta(days=1 + label_delay_days)
        return Window(start=end - timedelta(days=self.training_days - 1), end=end)


class Training(Frozen):
    """The network and how it is trained."""

    network: FunctionPath
    """``file.py:function``; called with the input schema, returns a torch module."""
    workers: Count = Field(default=2, ge=1, le=256)
    """Data-parallel Ray Train workers."""
    epochs: Count = Field(default=5, ge=1, le=10_000)
    batch_size: Count = Field(default=2048, ge=1, le=1_048_576)
    learning_rate: Number = Field(default=2e-3, gt=0, le=10)
    weight_decay: Number = Field(default=1e-4, ge=0, le=10)
    seed: Count = Field(default=0, ge=0)
    refit: bool = False
    """Whether a challenger that has won is trained again, on the evaluation window as well, before it is registered."""
    classes: Count = Field(default=2, ge=2, le=10_000)
    """Number of classes of a multiclass task."""


class Slice(Frozen):
    """A column whose every value is judged on its own."""

    column: ColumnName
    maximum_regression: Number = Field(gt=0)
    """How much worse the challenger may be on any value, in units of the deciding metric."""
    minimum_rows: Count = Field(default=500, ge=1)
    """A value with fewer rows counts as not judged, unless it is worse beyond noise all the same."""
    required: bool = False
    """Whether a value that is not judged means no."""


class GateRule(Frozen):
    """A limit that forbids: what is beyond it does not become champion, however much better it is."""

    metric: str
    slice: ColumnName | None = None
    """A column whose every value is held to it; none: the whole window is."""
    minimum: Number | None = None
    maximum: Number | None = None
    maximum_drop: Annotated[Number, Field(ge=0)] | None = None
    """How much worse than the champion the challenger may be, in the metric's unit."""
    level: Literal["blocking", "warning"] = "blocking"
    """``blocking``: what breaks it means no. ``warning``: the decision says so."""
    minimum_rows: Count = Field(default=500, ge=1)
    """On fewer rows, of the window, a value or a group, nothing is judged."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> GateRule:
        if self.minimum is None and self.maximum is None and self.maximum_drop is None:
            raise ValueError("expected at least one of minimum, maximum and maximum_drop")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"no value is at least {self.minimum:g} and at most {self.maximum:g}")
        return self


class Gate(Frozen):
    """What a challenger must show before it may replace the champion."""

    metric: str
    direction: Direction
    rule: Literal["confidence", "expected_gain"] = "confidence"
    """``confidence``: better beyond noise. ``expected_gain``: the gain that is expected is worth the expected harm."""
    minimum_improvement: Number = Field(default=0.0, ge=0)
    """What the rule's figure must exceed: the lower confidence bound of the improvement, or the improvement itself."""
    confidence: Number = Field(default=0.95, gt=0.5, lt=1)
    """How sure it is that none of ``looks`` challengers no better than the champion is promoted."""
    looks: Count = Field(default=4, ge=1, le=100)
    """Judgements that share the risk of a false promotion; further ones at days that overlap share the last share."""
    harm_weight: Number = Field(default=20.0, ge=1)
    """Of ``expected_gain``: how often the expected harm must fit into the expected gain."""
    required: tuple[str, ...] = ()
    """Metrics that must be present and finite, beside the deciding one."""
    limits: dict[str, Number] = Field(default_factory=dict)
    """Absolute limit of a metric: a floor when it is maximized, a ceiling when it is minimized."""
    slices: tuple[Slice, ...] = ()
    rules: tuple[GateRule, ...] = ()
    """Further limits: they may forbid, and never decide what is better."""
    sensitive: Columns = ()
    """Columns whose groups a fairness metric of ``rules`` compares; they need not be inputs."""
    leak_threshold: Number = Field(default=0.98, gt=0.5, le=1)
    """How well a single input may tell the label: its AUC, or of a regression its rank correlation. 1 allows all."""
    maximum_shared_rows: Number = Field(default=0.02, ge=0, le=1)
    """Share of the evaluation's rows that may be in the training window too, above what chance explains."""
    maximum_late_events: Number = Field(default=0.0, ge=0, le=1)
    """Share of the examples of both windows that may be asked when their label is known already."""

    def columns_of(self, rule: GateRule) -> tuple[str, ...]:
        """Return the columns a rule is asked by; the empty name stands for the window as a whole."""
        return self.sensitive if rule.metric in GROUP_METRICS else (rule.slice or "",)

    def risk(self, look: int) -> float:
        """Return the chance that one judgement promotes a challenger that is no better than the champion.

        Parameters
        ----------
        look
            Which look at days that overlap it is. All but the last of ``looks`` have an equal share; what is left, the
            last and all that follow it divide: half of it, a sixth, a twelfth. They never come to more than the whole.
        """
        further = look - self.looks + 1
        return (1 - self.confidence) / self.looks / (further * (further + 1) if further > 0 else 1)

    def weight(self, look: int) -> float:
        """Return how often the expected harm must fit into the expected gain at such a look: 1, 3, 6, 10 times more."""
        return self.harm_weight * look * (look + 1) / 2


_FIXED = {"psi_threshold", "share_threshold"}
"""What only a fixed threshold asks."""


class Drift(Frozen):
    """When the inputs are said to have moved. Drift proposes a retraining, it never decides one."""

    columns: Columns = Field(min_length=1)
    threshold: Literal["calibrated", "fixed"] = "calibrated"
    """``calibrated``: each column's limit comes from the reference's own days, and one that passes it is drift;
    ``fixed``: the two limits below, which is also what a file means that sets one of them and names no threshold."""
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
    windows_needed: Count = Field(default=1, ge=1, le=100)
    """Drift proposes a retraining when so many of the last ``windows_of`` windows have it, this one included."""
    windows_of: Count = Field(default=1, ge=1, le=100)

    @model_validator(mode="before")
    @classmethod
    def _fixed_where_a_limit_is_set(cls, given: Any) -> Any:
        if isinstance(given, dict) and "threshold" not in given and _FIXED & given.keys():
            return {**given, "threshold": "fixed"}
        return given

    @model_validator(mode="after")
    def _reachable(self) -> Drift:
        if self.windows_needed > self.windows_of:
            raise ValueError(f"windows_needed: {self.windows_needed} of {self.windows_of} windows can never have drift")
        return self


class Retraining(Frozen):
    """The guard between a proposal and a training run."""

    cooldown_days: Days = Field(default=7, ge=0)
    """Days of partitions that must lie between two trainings."""
    minimum_new_labels: Count = Field(default=1000, ge=0)
    performance_drop: Annotated[
        Annotated[Number, Field(gt=0)] | Literal["noise"] | None, said_as("must be a number above 0, or 'noise'")
    ] = None
    """A champion this much worse than at its promotion (deciding metric) proposes a retraining; ``noise``: worse than
    the days of both windows explain."""
    proposals: tuple[Literal["inputs", "performance", "concept"], ...] | None = Field(default=None, min_length=1)
    """What may propose. Unset: the performance alone where it is asked and labels are prompt, else inputs as well."""


class Approval(Frozen):
    """Whether people must approve a promotion."""

    required: bool = False
    approvers: Literal[1, 2] = 1
    """How many, each another person."""
    timeout_hours: Number = Field(default=72, gt=0, le=8760)
    """An unanswered approval is a rejection."""
    four_eyes: bool = False
    """Whoever started the training may not approve its challenger."""

    @model_validator(mode="after")
    def _asked(self) -> Approval:
        if self.approvers > 1 and not self.required:
            raise ValueError("approvers: 2 asks nobody without required: true")
        return self


Profile = Literal["small", "medium", "large", "gpu"]


class Resources(Frozen):
    """Resource profile of each kind of step; an out-of-memory failure moves one profile up, once."""

    default: Profile = "small"
    features: Profile = "medium"
    training: Profile = "medium"
