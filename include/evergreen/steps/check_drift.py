"""``check_drift``: compare what the model sees now with what the champion learned from. It proposes, and no more."""

from __future__ import annotations

import io
import logging
from datetime import timedelta
from typing import TYPE_CHECKING

from pydantic import JsonValue

from evergreen.catalog import config_digest
from evergreen.contract import Output, Request, Result, Window
from evergreen.data.lake import get_lake
from evergreen.features.feature_store import training_set
from evergreen.handover import key_of
from evergreen.judgement.champions import champion_of
from evergreen.monitoring.drift import DriftReport, compare
from evergreen.monitoring.proposal import DRIFT_REPORT, DriftDocument, report_key
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.registry import Version

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
_SEASON_DAYS = 365
_SEASON_COVER = 0.9
"""Share of the days a year earlier that must have rows for them to be the reference."""


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``drift.json`` and ``drift.html`` of the partition; without a champion or enough rows, no verdict."""
    champion = champion_of(request)
    current_window = window_until(request, spec)
    if champion is None:
        report = DriftReport("insufficient", "there is no champion yet, so nothing to compare with", {}, [])
        return _store(request, spec, report, "", current_window, ())
    current = training_set(spec, current_window, labelled=False)
    reference, name = _reference(spec, champion, current_window)
    report = compare(spec, reference, current)
    log.info("%s: %s, reference: %s", report.verdict, report.why, name)
    inputs = (Output(name="champion", uri=champion.uri, version=champion.number),)
    return _store(request, spec, report, name, current_window, inputs)


def window_until(request: Request, spec: ModelSpec) -> Window:
    """Return the last ``drift.current_days`` partitions."""
    start = request.partition - timedelta(days=spec.drift.current_days - 1)
    return Window(start=max(start, spec.schedule.start), end=request.partition)


def _reference(spec: ModelSpec, champion: Version, current: Window) -> tuple[pd.DataFrame, str]:
    """Return the rows to compare with, and what they are."""
    if spec.drift.reference == "same_season":
        shift = timedelta(days=_SEASON_DAYS)
        earlier = Window(start=current.start - shift, end=current.end - shift)
        days = [day for day, _ in get_lake().partitions(spec.name, "examples")]
        if sum(str(earlier.start) <= day <= str(earlier.end) for day in days) >= _SEASON_COVER * earlier.days:
            return training_set(spec, earlier, labelled=False), f"same season, {earlier}"
    return _training_rows(spec, champion), f"training, {champion.training}"


def _training_rows(spec: ModelSpec, champion: Version) -> pd.DataFrame:
    """Return the very rows the champion learned from, or its window read again if that file is gone."""
    import pandas as pd

    key = key_of(champion.tags.get("dataset_uri", ""))
    content = get_store().read(key) if key else None
    columns = set(spec.drift.columns)
    if content is not None:
        frame = pd.read_parquet(io.BytesIO(content))
        if columns <= set(frame.columns):  # a column may have been added since
            return frame
    return training_set(spec, champion.training, labelled=False)


def _store(
    request: Request, spec: ModelSpec, report: DriftReport, reference: str, current: Window, inputs: tuple[Output, ...]
) -> Result:
    store, digest = get_store(), config_digest(spec)
    html_key = report_key(spec.name, request.partition, "drift.html")
    json_key = report_key(spec.name, request.partition, DRIFT_REPORT)
    report_uri = store.uri(json_key)
    if report.html is not None:
        report_uri = store.write(html_key, report.html.encode())
    drifted: list[JsonValue] = list(report.drifted)
    facts: dict[str, JsonValue] = {
        "report_id": f"{spec.name}-{request.partition}-{digest[:8]}",
        "verdict": report.verdict,
        "why": report.why,
        "drifted_share": len(report.drifted) / len(spec.drift.columns) if report.verdict != "insufficient" else None,
        "drifted_columns": drifted,
        "reference": reference,
        "current": str(current),
        "report_uri": report_uri,
    }
    found = {"psi": report.psi, "missing_psi": report.missing_psi, "rules": spec.drift.model_dump(mode="json")}
    details = {**facts, **found, "config_digest": digest}
    # last: the sensor takes this file for the sign that the report is complete
    uri = store.write(json_key, DriftDocument.model_validate(details).model_dump_json(indent=2).encode())
    output = Output(name="drift_report", uri=uri, version=str(facts["report_id"]))
    metrics = {f"psi_{name}": value for name, value in report.psi.items()}
    return Result(outputs=(output,), inputs=inputs, metrics=metrics, facts=facts)
