"""The files of a drift report that people look at: one page with everything in it, and its pictures by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from evergreen.monitoring.baseline import PREDICTION, DriftBaseline
from evergreen.monitoring.comparison import Comparison
from evergreen.monitoring.counting import Counted
from evergreen.monitoring.page import page
from evergreen.monitoring.pictures import distribution, heat_map
from evergreen.monitoring.proposal import ColumnDrift

PAGE = "drift.html"
"""The one file that has them all."""
_TEXTS = {
    "heat_map.png": "How far each column is from the reference, by partition",
    "prediction.png": "What the champion predicts, in the window and in the reference",
    "metric.png": "The champion's metric by partition with its interval, and which version it was",
}
"""What the page says of each picture."""


def report_files(
    model: str,
    facts: Mapping[str, Any],
    found: Comparison,
    history: Sequence[tuple[date, Mapping[str, ColumnDrift]]],
    metric: bytes | None = None,
    labels: str = "",
) -> dict[str, bytes]:
    """Return ``drift.html`` and its pictures as PNG; nothing where nothing was compared.

    Parameters
    ----------
    model, facts
        The model, and the facts of the step.
    found
        What was found.
    history
        The columns of this partition and of those before it, the oldest first.
    metric
        The picture of the champion's metric; None where there is none.
    labels
        What the label has to do with the inputs, in words; empty where that was not compared.
    """
    report, baseline, counted = found.report, found.baseline, found.counted
    if report.verdict == "insufficient" or baseline is None or counted is None:
        return {}
    pictures = {
        "heat_map.png": heat_map([(day, columns) for day, columns in history if columns]),
        **_prediction(baseline, counted),
        **({} if metric is None else {"metric.png": metric}),
    }
    shown = {_TEXTS[name]: image for name, image in pictures.items()}
    said = {
        "verdict": " in ".join(filter(None, (report.verdict, facts["windows"]))),
        "why": report.why,
        "window": f"{facts['current']}, {counted.rows:,} rows",
        "reference": f"{facts['reference']}, {baseline.rows:,} rows of {len(baseline.days)} days",
        **({"evidence": found.evidence.words} if found.evidence else {}),
        **({"skew": found.skew.why} if found.skew else {}),
        **({"labels": labels} if labels else {}),
    }
    title = f"{model}: drift of {history[-1][0]}"
    whole = page(title, said, report.verdict, report.columns, shown, found.evidently)
    return {PAGE: whole.encode(), **pictures}


def _prediction(baseline: DriftBaseline, counted: Counted) -> dict[str, bytes]:
    """Return the picture of what the champion predicts; nothing where it could not be asked."""
    if PREDICTION not in baseline.columns:
        return {}
    of = (baseline.columns[PREDICTION], counted.bins[PREDICTION], counted.ends.get(PREDICTION))
    return {"prediction.png": distribution("What the champion predicts", *of)}
