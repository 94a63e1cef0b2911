"""What a model predicts, and the metrics that are defined on it."""

from __future__ import annotations

import enum


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
