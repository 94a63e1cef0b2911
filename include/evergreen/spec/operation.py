"""How a model is kept fresh: drift, retraining, approval, resources."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from evergreen.contract import Frozen
from evergreen.field_types import Columns, Count, Days, Number


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
    timeout_hours: Number = Field(default=72, gt=0, le=8760)
    """An unanswered approval is a rejection."""


Profile = Literal["small", "medium", "large", "gpu"]


class Resources(Frozen):
    """Resource profile of each kind of step; an out-of-memory failure moves one profile up, once."""

    default: Profile = "small"
    features: Profile = "medium"
    training: Profile = "medium"
