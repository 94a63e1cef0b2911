"""``model.yaml``: everything that is particular to one model, typed and checked when it is loaded."""

from __future__ import annotations

from evergreen.spec.data import (
    FEATURE_TABLE_COLUMNS,
    RESERVED_COLUMNS,
    ColumnType,
    Examples,
    Features,
    FeatureView,
    Schedule,
    Source,
)
from evergreen.spec.learning import Gate, Slice, Training, Windows
from evergreen.spec.metrics import METRICS, Direction, Task
from evergreen.spec.model import ModelSpec
from evergreen.spec.operation import Approval, Drift, Profile, Resources, Retraining

__all__ = [
    "FEATURE_TABLE_COLUMNS",
    "METRICS",
    "RESERVED_COLUMNS",
    "Approval",
    "ColumnType",
    "Direction",
    "Drift",
    "Examples",
    "FeatureView",
    "Features",
    "Gate",
    "ModelSpec",
    "Profile",
    "Resources",
    "Retraining",
    "Schedule",
    "Slice",
    "Source",
    "Task",
    "Training",
    "Windows",
]
