"""``check_drift``: compare what the model sees now with what the champion learned from. It proposes, and no more."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from pydantic import JsonValue

from evergreen.catalog import config_digest
from evergreen.contract import DataError, Output, Request, Result, Window
from evergreen.data.lake import get_lake
from evergreen.data.lineage import current_together
from evergreen.features.feature_store import feature_tables, training_set
from evergreen.handover import file_digest, key_of, store_output
from evergreen.judgement.champions import champion_of
from evergreen.monitoring.drift import DriftReport, compare
from evergreen.monitoring.proposal import DRIFT_REPORT, DriftDocument, report_id, report_key
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.registry import Version
from evergreen.training.signatures import stated_of_version

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_SEASON_DAYS = 364
"""A year of whole weeks: Mondays are compared with Mondays."""
_SEASON_COVER = 0.9
"""Share of the days a year earlier that must have rows for them to be the reference."""


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``drift.json`` and ``drift.html`` of the partition; without a champion or enough rows, no verdict.

    All tables are read at one moment. Their snapshots are the manifest's inputs: with them the report can be computed
    again.
    """
    champion = champion_of(request)
    current_window = window_until(request, spec)
    if champion is None:
        report = DriftReport("insufficient", "there is no champion yet, so nothing to compare with", {}, [])
        return _store(request, spec, report, _DriftInputs("", current_window, ()))
    stated_of_version(champion)  # its tags say what it learned from: what is compared with
    inputs = current_together(spec.name, feature_tables(spec))
    snapshots = {table.name: table.version for table in inputs}
    current = training_set(spec, current_window, snapshots=snapshots, labelled=False)
    reference, name, file = _reference(spec, champion, current_window, snapshots)
    report = compare(spec, reference, current)
    log.info("%s: %s, reference: %s", report.verdict, report.why, name)
    read = (champion.output("champion"), *inputs, *file)
    return _store(request, spec, report, _DriftInputs(name, current_window, read), reference, current)


class _DriftInputs(NamedTuple):
    """What a report is about."""

    reference: str
    current: Window
    inputs: tuple[Output, ...]


def window_until(request: Request, spec: ModelSpec) -> Window:
    """Return the last ``drift.current_days`` partitions."""
    start = request.partition - timedelta(days=spec.drift.current_days - 1)
    return Window(start=max(start, spec.schedule.start), end=request.partition)


_Reference = tuple["pd.DataFrame", str, tuple[Output, ...]]
"""Rows to compare with, what they are, and the file they were in, if any."""


def _reference(spec: ModelSpec, champion: Version, current: Window, snapshots: Mapping[str, str]) -> _Reference:
    if spec.drift.reference == "same_season":
        shift = timedelta(days=_SEASON_DAYS)
        earlier = Window(start=current.start - shift, end=current.end - shift)
        days = [day for day, _, _ in get_lake().details(spec.name, "examples", snapshots["examples"])]
        if sum(day in earlier for day in days) >= _SEASON_COVER * earlier.days:
            rows = training_set(spec, earlier, snapshots=snapshots, labelled=False)
            return rows, f"same season, {earlier}", ()
    return _training_rows(spec, champion, snapshots)


def _training_rows(spec: ModelSpec, champion: Version, snapshots: Mapping[str, str]) -> _Reference:
    """Return the very rows the champion learned from, or its window read again if that file is gone.

    Raises
    ------
    DataError
        If the file is another one.
    """
    import pandas as pd

    name, uri = f"training, {champion.training}", champion.tags.get("dataset_uri", "")
    key = key_of(uri)
    content = get_store().read(key) if key else None
    if content is not None:
        _check(champion, uri, file_digest(content))
        frame = pd.read_parquet(io.BytesIO(content))
        if set(spec.drift.columns) <= set(frame.columns):  # a column may have been added since
            file = Output(name="reference", uri=uri, version=champion.tags.get("dataset_version", ""), rows=len(frame))
            return frame, name, (file,)
    return training_set(spec, champion.training, snapshots=snapshots, labelled=False), name, ()


def _check(champion: Version, uri: str, digest: str) -> None:
    known = champion.tags.get("dataset_digest")  # versions registered earlier have none
    if known and digest != known:
        raise DataError(
            f"{uri}: it is not the file that version {champion.number} of {champion.model} learned from: its digest is "
            f"{digest}, and not {known}.",
            "Restore it from a backup, or delete it: then the days are read again.",
        )


def _store(
    request: Request, spec: ModelSpec, report: DriftReport, compared: _DriftInputs, *rows: pd.DataFrame
) -> Result:
    store, digest = get_store(), config_digest(spec)
    key = report_key(request, DRIFT_REPORT)
    report_uri = store.uri(key)
    if report.html is not None:
        report_uri = store.write(report_key(request, "drift.html"), report.html.encode())
    name = report_id(spec.name, request.partition, digest, *rows)
    facts: dict[str, JsonValue] = {
        "report_id": name,
        "verdict": report.verdict,
        "proposes": "inputs" in spec.proposals,
        "why": report.why,
        "drifted_share": len(report.drifted) / len(spec.drift.columns) if report.verdict != "insufficient" else None,
        "drifted_columns": [*report.drifted],
        "reference": compared.reference,
        "current": str(compared.current),
        "report_uri": report_uri,
    }
    details = {
        **facts,
        "psi": report.psi,
        "missing_psi": report.missing_psi,
        "rules": spec.drift.model_dump(mode="json"),
        "config_digest": digest,
        "inputs": {read.name: read.version for read in compared.inputs},
    }
    document = DriftDocument.model_validate(details).model_dump_json(indent=2)
    output = store_output("drift_report", key, document.encode())
    metrics = {f"psi_{name}": value for name, value in report.psi.items()}
    return Result(outputs=(output,), inputs=compared.inputs, metrics=metrics, facts=facts)
