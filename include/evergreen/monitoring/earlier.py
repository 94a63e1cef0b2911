"""What the checks of earlier partitions said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import date
from typing import TypeVar

from evergreen.contract import RunIdentity
from evergreen.monitoring.proposal import DRIFT_REPORT, PERFORMANCE_REPORT, DriftDocument, PerformanceDocument
from evergreen.spec import ModelSpec
from evergreen.store import ArtifactStore, read_document, read_manifest

_Report = TypeVar("_Report", DriftDocument, PerformanceDocument)


def report_keys(store: ArtifactStore, model: str) -> list[str]:
    """Return where the reports of a model's checks are: one listing of the store, for all that reads them."""
    return list(store.keys(f"reports/{model}/"))


def earlier_reports(
    store: ArtifactStore, listed: Sequence[str], before: date, most: int
) -> list[tuple[date, DriftDocument]]:
    """Return the newest report of each of the last partitions that were checked before one, the oldest first."""
    keys = _by_partition(listed, DRIFT_REPORT)
    days = sorted(day for day in keys if day < before)[-most:]
    return [(day, _newest(store, keys[day], DriftDocument, "check_drift")) for day in days]


def measured_before(
    store: ArtifactStore, listed: Sequence[str], through: date, most: int
) -> list[tuple[date, PerformanceDocument]]:
    """Return what was found of the champion's performance in the last partitions up to one, the oldest first."""
    keys = _by_partition(listed, PERFORMANCE_REPORT)
    days = sorted(day for day in keys if day <= through)[-most:]
    return [(day, _newest(store, keys[day], PerformanceDocument, "check_performance")) for day in days]


def performance_reports(store: ArtifactStore, model: str, partition: date) -> Iterator[PerformanceDocument]:
    """Yield what the runs that monitored a partition have found of the champion's performance."""
    hint = "Clear the task check_performance that wrote it, or delete it."
    for key in store.keys(f"reports/{model}/{partition}/"):
        if key.endswith(f"/{PERFORMANCE_REPORT}"):
            document = read_document(store, key, PerformanceDocument, "a performance report", hint)
            if document is not None:
                yield document


def _by_partition(listed: Sequence[str], wanted: str) -> dict[date, list[str]]:
    keys: dict[date, list[str]] = defaultdict(list)
    for key in listed:
        _, _, partition, *_, file = key.split("/")
        if file == wanted:
            keys[date.fromisoformat(partition)].append(key)
    return keys


def _newest(store: ArtifactStore, keys: Sequence[str], kind: type[_Report], step: str) -> _Report:
    """Return the report of the run that ended last; who wrote it is not said in the oldest ones."""
    hint = f"Clear the task {step} that wrote it, or delete it."
    found = [read_document(store, key, kind, f"a report of {step}", hint) for key in keys]
    reports = [report for report in found if report is not None]
    if len(reports) == 1:
        return reports[0]

    def ended(report: _Report) -> str:
        manifest = read_manifest(store, _SOMEWHERE.resolve(report.run)) if report.run else None
        return manifest.finished.isoformat() if manifest else ""

    return max(reports, key=ended)


_SOMEWHERE = RunIdentity(dag_id="-", run_id="-", task_id="-")
"""An address is resolved from any task."""


def proposes(spec: ModelSpec, verdict: str, earlier: Sequence[str]) -> tuple[bool, str]:
    """Tell whether a verdict proposes a retraining after those of the windows before; and in words, of how many.

    The window itself must have drift: what is past proposes nothing.
    """
    needed, of = spec.drift.windows_needed, spec.drift.windows_of
    seen = [*earlier[-(of - 1) :], verdict] if of > 1 else [verdict]
    drifted = seen.count("drift")
    return verdict == "drift" and drifted >= needed, f"{drifted} of the last {len(seen)} windows" if of > 1 else ""
