"""What the checks of a monitored partition report, and whether they propose a retraining."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import TYPE_CHECKING

from pydantic import Field, JsonValue

from evergreen.contract import Frozen, Manifest, Request, Status, folder_name
from evergreen.monitoring.evidence import Evidence, ServedPerformance
from evergreen.monitoring.skew import Skew
from evergreen.spec import RANGES
from evergreen.stored import Part, Stored

if TYPE_CHECKING:
    import pandas as pd

DRIFT_REPORT = "drift.json"
PERFORMANCE_REPORT = "performance.json"


class Index(Part):
    """How far a column has moved, and from where on it has drifted."""

    value: float
    limit: float
    p_value: float | None = None
    """The chance of such an index in an unchanged population; None where the limit is not calibrated."""

    @property
    def against_limit(self) -> float:
        """The value as a part of the limit: from 1 on it has drifted."""
        return self.value / self.limit


class ColumnDrift(Part):
    """What was found of a column."""

    indices: dict[str, Index] = Field(default_factory=dict)
    """Of its ``values``, of ``missing`` against present, of ``new`` categories against known ones; and of its
    ``relation`` to the label."""
    missing: tuple[float, float] | None = None
    """The share of missing rows before and now."""
    new: dict[str, float] = Field(default_factory=dict)
    """The most frequent categories that the reference does not have, and their share of the rows."""
    new_share: float = 0.0
    far: tuple[float, ...] = ()
    """Numbers that lie far from all others, on either side."""
    drifted: bool = False
    note: str = ""
    """Why it has no index of its values."""

    def passed(self, kind: str) -> bool:
        """Whether an index has reached its limit."""
        return kind in self.indices and self.indices[kind].value >= self.indices[kind].limit

    @property
    def deciding(self) -> str:
        """The name of the index that is furthest beyond its limit, or else nearest to it; empty if there is none."""
        return max(self.indices, key=lambda kind: self.indices[kind].against_limit, default="")

    @property
    def far_values(self) -> str:
        """The numbers that lie far out in words; empty if there are none."""
        return f"far from all others: {', '.join(f'{value:g}' for value in self.far)}" if self.far else ""

    @property
    def new_values(self) -> str:
        """The new categories in words; empty if there are none."""
        if not self.new:
            return ""
        (name, share), *more = self.new.items()
        others = f" and others, {self.new_share:.1%} of rows together" if more else ""
        return f"new value {name!r}, {share:.1%} of rows{others}"


class DriftDocument(Stored):
    """What ``drift.json`` says; further figures are kept in it as they are."""

    report_id: str
    verdict: str
    why: str = ""
    drifted_share: float | None = None
    proposes: bool | None = None
    """Whether it proposes a retraining; None in reports of before a verdict could wait for further windows."""
    windows: str = ""
    """In how many of the last windows there was drift."""
    run: str = ""
    """The address of the task that wrote it."""
    columns: dict[str, ColumnDrift] = Field(default_factory=dict)
    evidence: Evidence | None = None
    """None in reports of before what was served was looked at, and where nothing was compared."""
    skew: Skew | None = None
    """Whether the features that were served are the offline ones; None as with the evidence."""


class MetricInterval(Part):
    """The deciding metric on some days, with the interval that holds the truth with 95 %."""

    window: str
    value: float
    low: float
    high: float

    def within(self, metric: str) -> MetricInterval:
        """Return the same without what the metric cannot be: no error is below 0, and no share above 1.

        The truth is never there, so that the interval holds it as often as before.
        """
        lowest, highest = RANGES[metric]
        return self.model_copy(update={"low": max(self.low, lowest), "high": min(self.high, highest)})


class ConceptDrift(Part):
    """Whether the label's relation to the inputs is still what the champion learned."""

    verdict: str
    why: str = ""
    label: str = ""
    columns: dict[str, ColumnDrift] = Field(default_factory=dict)
    """The inputs, each with the index of its ``relation`` to the label; and the label, with those of its own values."""

    @property
    def changed(self) -> list[str]:
        """The inputs whose relation to the label has changed, the one furthest beyond its limit first."""
        found = {name: column.indices["relation"] for name, column in self.columns.items() if column.passed("relation")}
        return sorted(found, key=lambda name: -found[name].against_limit)

    @property
    def label_drifted(self) -> bool:
        """Whether the label's own distribution has moved."""
        return self.label in self.columns and self.columns[self.label].drifted


class PerformanceDocument(Stored):
    """What ``performance.json`` says."""

    proposal: bool
    why: str = ""
    report_id: str = ""
    """Empty in reports of before it had one."""
    run: str = ""
    """The address of the task that wrote it."""
    champion: str = ""
    """The version that was measured."""
    metric: str = ""
    """The deciding one, which the drop and the estimates are of, too. Empty in reports of before it was said."""
    measured: MetricInterval | None = None
    """How good it is; None where the days tell no interval, and in reports of old."""
    drop: float | None = None
    """How much worse than when it was promoted, positive when worse."""
    drop_limit: float | None = None
    """The drop beyond which a retraining is proposed."""
    concept: ConceptDrift | None = None
    """None in reports of before relations were compared."""
    estimate: MetricInterval | None = None
    """How good the champion probably is on the newest days, where labels come late."""
    estimated_before: MetricInterval | None = None
    """What was estimated of this window before its labels came."""
    estimate_held: bool | None = None
    """Whether the truth lies in that interval."""
    evidence: Evidence | None = None
    """What the deciding metric was measured in; None in reports of before that was said."""
    served: ServedPerformance | None = None
    """What was served, by variant; None where there is no log of it."""


class Proposal(Frozen):
    """What the checks of one partition say about retraining."""

    report_id: str
    retrain: bool
    why: str
    evidence: dict[str, str] = Field(default_factory=dict)
    """By check, the rows that it has judged, in words; those of before this was said have none."""


def report_key(request: Request, file: str) -> str:
    """Return the artifact key of a check's report: each run keeps its own, whatever another one finds later."""
    return f"reports/{request.model}/{request.partition}/{folder_name(request.run.run_id)}/{file}"


def report_id(model: str, partition: date, config_digest: str, *frames: pd.DataFrame) -> str:
    """Return the name of a report: other rows give another one, so that a day that came late is judged anew.

    It is the rows that name it, not the snapshots they were read from: these move whenever any day is written, and a
    check that is cleared months later must find its proposal answered.
    """
    import pyarrow as pa

    from evergreen.data.arrow import content_digest

    parts = [config_digest, *(content_digest(pa.Table.from_pandas(frame, preserve_index=False)) for frame in frames)]
    return f"{model}-{partition}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:12]}"


def proposal_of(drift: Manifest, performance: Manifest | None) -> Proposal:
    """Return what the checks of a partition propose: that of the inputs, and that of the champion if it was run.

    Drift proposes, and so does a champion that has become worse, or a label whose relation to the inputs has changed;
    what is stable and samples too small for a verdict do not.

    Raises
    ------
    DataError
        If ``check_drift`` has left no report.
    """
    drift.output("drift_report")  # what it proposes must be there for people to read
    reasons, reports = [], [str(drift.facts["report_id"])]
    windows = drift.facts.get("windows")
    if drift.facts.get("proposes", drift.facts["verdict"] == "drift"):
        often = f" in {windows}" if windows else ""
        reasons.append(f"drift in {drift.facts['drifted_share'] or 0:.0%} of the monitored columns{often}")
    if performance is not None and (labelled := list(_of_labels(performance.facts))):
        reasons += labelled
        # its rows may have changed when those of the other have not
        reports.append(str(performance.facts.get("report_id", "")).rpartition("-")[2])
    why = "; ".join(reasons) or f"nothing proposes a retraining: {'; '.join(_why_not(drift, performance))}"
    evidence = {check.step: found.words for check in (drift, performance) if check and (found := _evidence(check))}
    return Proposal(report_id="-".join(reports), retrain=bool(reasons), why=why, evidence=evidence)


def _evidence(check: Manifest) -> Evidence | None:
    """Return where the rows are from that a check has judged; None where it judged none or does not say so."""
    found = check.facts.get("evidence")
    return Evidence.model_validate(found) if found else None


def _why_not(drift: Manifest, performance: Manifest | None) -> Iterator[str]:
    """Yield what the checks have found that proposes nothing: whoever reads it may think otherwise."""
    verdict, windows = drift.facts["verdict"], drift.facts.get("windows")
    if verdict == "drift":
        why_not = f"in {windows}, too few to propose" if windows else "and inputs do not propose"
        yield f"the inputs of {drift.window.end} have drift {why_not}"
    else:
        yield f"the inputs of {drift.window.end} are {verdict}"
    if performance is None:
        return
    if said := performance.facts.get("why") or performance.reason:
        yield str(said)
    if performance.facts.get("concept") == "drift":
        yield f"the label's relation to inputs has changed, and does not propose: {performance.facts['concept_why']}"


def _of_labels(facts: Mapping[str, JsonValue]) -> Iterator[str]:
    """Yield why the labelled days propose a training."""
    if facts.get("proposal"):
        yield f"the champion has become worse: {facts['why']}"
    if facts.get("concept_proposes"):
        yield f"the label's relation to inputs has changed: {facts['concept_why']}"


def addresses_of(checks: Iterable[Manifest]) -> dict[str, str]:
    """Return the addresses of the checks that found something out, by step: what the guard reads."""
    return {check.step: check.run.address for check in checks if check.status is Status.OK}
