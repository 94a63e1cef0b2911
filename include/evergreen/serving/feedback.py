"""What became of a prediction, as clients report it: checked, and filed by the day of the prediction's event."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from evergreen.serving.requests import InvalidRequestError, Problem
from evergreen.spec import ModelSpec
from evergreen.training.graph import category_name

_ID = re.compile(r"(\d{8})-[0-9a-f]{14}-[0-9a-f]{10}")


def checked_feedback(
    spec: ModelSpec, outputs: Sequence[str], prediction_id: str, outcome: object, client: str
) -> dict[str, Any]:
    """Return the record of an outcome.

    Raises
    ------
    InvalidRequestError
        If the id is none that a server gives, or the outcome none of the model's task.
    """
    day = _day(prediction_id)
    if day is None:
        expected = "the prediction_id of an answer"
        raise InvalidRequestError([Problem(None, "prediction_id", prediction_id, expected)])
    kept, expected = _outcome(spec, outputs, outcome)
    if kept is None:
        raise InvalidRequestError([Problem(None, "outcome", outcome, expected)])
    return {
        "prediction_id": prediction_id,
        "outcome": category_name(kept),
        "client": client,
        "at": datetime.now(UTC),
        "event_timestamp": day,
    }


def _day(prediction_id: str) -> datetime | None:
    found = _ID.fullmatch(prediction_id)
    try:
        return datetime.strptime(found[1], "%Y%m%d").replace(tzinfo=UTC) if found else None
    except ValueError:
        return None


def _outcome(spec: ModelSpec, outputs: Sequence[str], outcome: object) -> tuple[str | float | None, str]:
    """Return the outcome as it is kept, or None; and what is expected."""
    if spec.task == "multiclass":
        named = category_name(outcome) if isinstance(outcome, str | int | float) else None
        return (named if named in outputs else None), f"one of {', '.join(outputs)}"
    number = float(outcome) if isinstance(outcome, bool | int | float) else math.nan
    if spec.task == "binary":
        return (number if number in {0.0, 1.0} else None), "0 or 1"
    return (number if math.isfinite(number) else None), "a finite number"
