"""Have the inputs moved, or what the champion says of them? Counts of a window against the counts of a reference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from evergreen.monitoring.baseline import ColumnBaseline, DriftBaseline
from evergreen.monitoring.binning import missing_psi, missing_share, share_psi, values_psi
from evergreen.monitoring.calibration import FEWEST_DAYS, Calibration, DailyCounts, Kind, calibrate
from evergreen.monitoring.counting import Counted
from evergreen.monitoring.proposal import ColumnDrift, Index
from evergreen.spec import ModelSpec

FEWEST_VALUES = 500
"""A column with fewer values on either side gets no index. Two samples of one distribution of up to 19 categories, or
of any of five numeric ones, reached 0.2 in 18 to 92 % of 60 pairs at 120 values each, in up to 10 % at 250, and in
none at 500."""
_FAR = 10
"""A value is named as far out when it is so many times the width of the middle 80 % beyond them."""
_EDGES = 4
"""With fewer there is no middle: most rows have one value."""
_NAMED = 5
"""New categories that are named."""
_WORTH_SAYING = 0.001
"""Rows with a new category, as a share, from which the verdict's sentence says so."""

DriftVerdict = Literal["drift", "stable", "insufficient"]


@dataclass(frozen=True)
class DriftReport:
    """What a comparison found.

    Parameters
    ----------
    verdict
        ``drift`` when a column has passed its limit (``threshold: calibrated``), or when the share of such columns
        reaches ``drift.share_threshold`` (``fixed``).
    why
        The same in plain words.
    columns
        What was found of each column.
    """

    verdict: DriftVerdict
    why: str
    columns: Mapping[str, ColumnDrift] = field(default_factory=dict)

    @property
    def drifted(self) -> list[str]:
        """The columns that have passed a limit."""
        return [name for name, column in self.columns.items() if column.drifted]

    @property
    def share(self) -> float | None:
        """Their share of all columns; None without a verdict."""
        return len(self.drifted) / len(self.columns) if self.verdict != "insufficient" else None

    def index(self, kind: str) -> dict[str, float]:
        """Return one kind of index of each column that has it."""
        return {name: column.indices[kind].value for name, column in self.columns.items() if kind in column.indices}


def compare(spec: ModelSpec, reference: DriftBaseline, current: Counted) -> DriftReport:
    """Compare a window with a reference, in the reference's bins.

    Small samples drift by chance: below ``drift.minimum_rows`` on either side there is no verdict. Nor can limits be
    calibrated on a reference of a few days.
    """
    rule, least = spec.drift, spec.drift.minimum_rows
    if min(reference.rows, current.rows) < least:
        why = f"{reference.rows} reference and {current.rows} current rows: {least} of each are needed for a verdict"
        return DriftReport("insufficient", why)
    calibration = None
    if rule.threshold == "calibrated":
        if len(reference.days) < FEWEST_DAYS:
            why = (
                f"the reference has {len(reference.days)} days, and limits are calibrated on {FEWEST_DAYS} or more: "
                "take a longer windows.training_days, or drift.threshold: fixed"
            )
            return DriftReport("insufficient", why)
        tested = [daily_counts(name, column) for name, column in reference.columns.items() if not column.unjudged]
        calibration = calibrate(tested, len(reference.days), len(current.days), current.rows)
    columns = {
        name: column_drift(spec, name, column, current, calibration) for name, column in reference.columns.items()
    }
    return DriftReport(*_verdict(spec, columns), columns)


def daily_counts(name: str, column: ColumnBaseline) -> DailyCounts:
    """Return what the limits of a column's values, missing rows and new categories are learned from."""
    import numpy as np

    counts = np.array(column.counts, dtype=np.float64)
    return DailyCounts(name, counts, {"values": values_psi, "missing": missing_psi}, tuple(column.known.values()))


def column_drift(
    spec: ModelSpec, name: str, column: ColumnBaseline, current: Counted, calibration: Calibration | None
) -> ColumnDrift:
    """Compare a column of a window with the reference; without a calibration, by ``drift.psi_threshold``."""
    import numpy as np

    if column.unjudged:
        return ColumnDrift(note=column.unjudged)
    before, now = (np.array(counts, dtype=np.float64).sum(axis=0) for counts in (column.counts, current.bins[name]))
    new = current.new.get(name, Counter[str]())
    unknown = float(sum(new.values()))
    values = float(now[:-1].sum()) + unknown
    missing = float(missing_share(before)), float(now[-1] / (values + now[-1]))
    found: dict[Kind, float] = {"missing": float(share_psi(np.array(missing[0]), np.array(missing[1])))}
    note = _no_index(spec, column, min(float(before[:-1].sum()), values))
    if not note:
        found["values"] = float(values_psi(before, now))
    if column.known and values:
        found["new"] = float(share_psi(np.array(0.0), np.array(unknown / values)))
    indices = {kind: _index(name, kind, value, calibration, spec.drift.psi_threshold) for kind, value in found.items()}
    return ColumnDrift(
        indices=indices,
        missing=missing,
        new={
            level: rows / values for level, rows in sorted(new.items(), key=lambda item: (-item[1], item[0]))[:_NAMED]
        },
        new_share=unknown / values if values else 0.0,
        far=tuple(_far_values(column, current.ends.get(name))),
        drifted=any(index.value >= index.limit for index in indices.values()),
        note=note,
    )


def _no_index(spec: ModelSpec, column: ColumnBaseline, values: float) -> str:
    """Return why a column gets no index of its values, or nothing."""
    fewest = min(spec.drift.minimum_rows, FEWEST_VALUES)
    if values < fewest:
        return f"fewer than {fewest} values"
    return "too many values, each too rare to compare" if column.known and not column.levels else ""


def _index(name: str, kind: Kind, value: float, calibration: Calibration | None, fixed: float) -> Index:
    if calibration is None:
        return Index(value=value, limit=fixed)
    test = (name, kind)
    return Index(value=value, limit=calibration.limit(test), p_value=calibration.p_value(test, value))


def _far_values(column: ColumnBaseline, now: tuple[float, float] | None) -> Iterator[float]:
    """Yield the lowest and the highest value of reference and window that lie far from all others."""
    if len(column.edges) < _EDGES:
        return
    low, high = column.edges[0], column.edges[-1]
    reach = _FAR * (high - low)
    ends = {column.lowest, column.highest, *(now or ())}
    yield from sorted(end for end in ends if end is not None and not low - reach <= end <= high + reach)


def _verdict(spec: ModelSpec, columns: Mapping[str, ColumnDrift]) -> tuple[DriftVerdict, str]:
    rule, drifted = spec.drift, [name for name, column in columns.items() if column.drifted]
    share = len(drifted) / max(len(columns), 1)
    counted = f"{len(drifted)} of {len(columns)} columns drifted"
    if rule.threshold == "fixed":
        moved, why = share >= rule.share_threshold, f"{counted}, {share:.0%} (limit {rule.share_threshold:.0%})"
    else:
        moved, why = bool(drifted), f"{counted}, each against its own limit"
    return "drift" if moved else "stable", "; ".join([why, *_remarks(columns)])


def _remarks(columns: Mapping[str, ColumnDrift]) -> Iterator[str]:
    """Yield what else there is to say of the columns, the gravest first."""
    for kind, said in (("values", "the values moved"), ("missing", "the share of missing values moved")):
        if names := [name for name, column in columns.items() if column.passed(kind)]:
            yield f"{said}: {', '.join(names)}"
    for name, column in columns.items():
        if column.new_share >= _WORTH_SAYING:
            yield f"{name}: {column.new_values}"
        if column.far:
            yield f"{name}: {column.far_values}"
    for note in dict.fromkeys(column.note for column in columns.values() if column.note):
        names = [name for name, column in columns.items() if column.note == note]
        yield f"{note}, so no index: {', '.join(names)}"
