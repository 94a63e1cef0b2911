"""``check_drift``: compare what the model sees now with what the champion learned from. It proposes, and no more."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from pydantic import JsonValue

from evergreen.catalog import config_digest
from evergreen.contract import Output, Request, Result, Window
from evergreen.data.lake import PARTITION, get_lake
from evergreen.data.lineage import current_together
from evergreen.data.served import REQUEST, SERVED, real_answers
from evergreen.data.transform import EVENT_TIMESTAMP
from evergreen.features.feast_repo import apply
from evergreen.features.feature_store import example_columns, feature_tables, inputs_of, training_set
from evergreen.features.row_times import row_times
from evergreen.handover import store_output
from evergreen.judgement.champions import champion_of
from evergreen.monitoring.comparison import Comparison, compare_with_champion
from evergreen.monitoring.drift import DriftReport
from evergreen.monitoring.earlier import earlier_reports, measured_before, proposes, report_keys
from evergreen.monitoring.files import PAGE, report_files
from evergreen.monitoring.metric_picture import metric_over_time
from evergreen.monitoring.proposal import DRIFT_REPORT, DriftDocument, report_id, report_key
from evergreen.monitoring.reference import Reference, champion_reference
from evergreen.monitoring.served import served_rows
from evergreen.monitoring.skew import FEWEST_ROWS, Skew, compare_features, no_skew
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.training.registry import Version
from evergreen.training.signatures import stated_of_version
from evergreen.training.tracking import log_monitoring

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

log = logging.getLogger(__name__)
_SEASON_DAYS = 364
"""A year of whole weeks: Mondays are compared with Mondays."""
_SEASON_COVER = 0.9
"""Share of the days a year earlier that must have rows for them to be the reference."""
_COMPARED = 20_000
"""Answers whose features are looked up offline."""
_PLAIN = (PARTITION, EVENT_TIMESTAMP)
_SHOWN = 60
"""Partitions that the pictures look back on."""


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``drift.json``, ``drift.html`` and its pictures; without a champion or enough rows, no verdict.

    All tables are read at one moment. Their snapshots are the manifest's inputs: with them the report can be computed
    again.
    """
    champion, window = champion_of(request), spec.monitored_window(request.partition)
    if champion is None:
        why = "there is no champion yet, so nothing to compare with"
        return _result(request, spec, Comparison(DriftReport("insufficient", why)), "", (), None)
    stated_of_version(champion)  # its tags say what it learned from: what is compared with
    log_table = [SERVED] if get_lake().has(spec.name, SERVED) else []
    inputs = current_together(spec.name, [*feature_tables(spec), *log_table])
    snapshots = {table.name: table.version for table in inputs}
    read = partial(training_set, spec, snapshots=snapshots, labelled=False)
    reference = _reference(spec, champion, window, snapshots["examples"], read)
    answers = real_answers(spec, window, snapshots.get(SERVED))
    served = served_rows(spec, champion.number, answers)
    found = compare_with_champion(spec, champion, reference, read(window), served)
    found = replace(found, skew=_skew(spec, answers, snapshots))
    log.info("%s: %s, reference: %s", found.report.verdict, found.report.why, reference.name)
    read_from = (champion.output("champion"), *inputs, *reference.files)
    return _result(request, spec, found, reference.name, read_from, champion)


def _skew(spec: ModelSpec, answers: pa.Table | None, snapshots: Mapping[str, str]) -> Skew:
    """Compare the features that were served with those of the same entities at the same moments, offline."""
    keys = spec.features.keys
    if answers is None or not spec.features.views:
        return no_skew("no prediction log was ingested" if answers is None else "the model has no features of views")
    if masked := sorted({*keys} & {*spec.serving.masked}):
        return no_skew(f"the log does not tell the keys: {', '.join(masked)}")
    sample = answers.sort_by("prediction_id")
    sample = sample.take([*range(0, len(sample), max(1, -(-len(sample) // _COMPARED)))])
    if len(sample) < FEWEST_ROWS:
        return no_skew(f"{len(sample)} answers to compare, {FEWEST_ROWS} are needed")
    apply(spec)
    offline = inputs_of(spec, _asked(spec, sample), snapshots)
    times = {view.name: row_times(spec, view, offline, snapshots) for view in spec.features.views}
    return compare_features(spec, sample.to_pandas(), offline, times)


def _asked(spec: ModelSpec, answers: pa.Table) -> pa.Table:
    """Return what was asked as examples have it; what is masked is null, as no view is looked up by it."""
    import pyarrow as pa

    columns = {name: name if name in _PLAIN else f"{REQUEST}{name}" for name in example_columns(spec)}
    told = {name for name, logged in columns.items() if logged in answers.column_names} - {*spec.serving.masked}
    return pa.table(
        {name: answers[logged] if name in told else pa.nulls(len(answers)) for name, logged in columns.items()}
    )


def _reference(
    spec: ModelSpec, champion: Version, current: Window, examples: str, read: Callable[[Window], pd.DataFrame]
) -> Reference:
    if spec.drift.reference == "same_season":
        shift = timedelta(days=_SEASON_DAYS)
        earlier = Window(start=current.start - shift, end=current.end - shift)
        days = [day for day, _, _ in get_lake().details(spec.name, "examples", examples)]
        if sum(day in earlier for day in days) >= _SEASON_COVER * earlier.days:
            return Reference(f"same season, {earlier}", read(earlier))
    return champion_reference(spec, champion, read)


def _result(
    request: Request,
    spec: ModelSpec,
    found: Comparison,
    reference: str,
    inputs: tuple[Output, ...],
    champion: Version | None,
) -> Result:
    store, report = get_store(), found.report
    listed = report_keys(store, spec.name)
    earlier = earlier_reports(store, listed, request.partition, max(_SHOWN, spec.drift.windows_of) - 1)
    facts = _facts(request, spec, found, reference, [before.verdict for _, before in earlier])
    history = [*((day, before.columns) for day, before in earlier), (request.partition, report.columns)]
    labels = _of_labels(request, spec, listed, champion) if champion else (None, "")
    files = report_files(spec.name, facts, found, history, *labels)
    uris = {name: store.write(report_key(request, name), content) for name, content in files.items()}
    key = report_key(request, DRIFT_REPORT)
    facts["report_uri"] = uris.get(PAGE) or store.uri(key)
    details = {
        **facts,
        "run": request.run.address,
        "columns": report.columns,
        "skew": found.skew,
        "psi": report.index("values"),
        "missing_psi": report.index("missing"),
        "rules": spec.drift.model_dump(mode="json"),
        "config_digest": config_digest(spec),
        "inputs": {read.name: read.version for read in inputs},
    }
    document = DriftDocument.model_validate(details).model_dump_json(indent=2)
    output = store_output("drift_report", key, document.encode())
    if champion is not None:
        pictures = {name: content for name, content in files.items() if name != PAGE}
        log_monitoring(champion.run_id, request.partition, pictures=pictures)
    metrics = {f"psi_{name}": value for name, value in report.index("values").items()}
    return Result(outputs=(output,), inputs=inputs, metrics=metrics, facts=facts)


def _facts(
    request: Request, spec: ModelSpec, found: Comparison, reference: str, earlier: Sequence[str]
) -> dict[str, JsonValue]:
    """Return what is found, and whether it proposes a retraining after the verdicts of the partitions before."""
    report, rules = found.report, f"{config_digest(spec)}{found.reference_digest}"
    proposed, windows = proposes(spec, report.verdict, earlier)
    window = str(spec.monitored_window(request.partition))
    evidence = found.evidence.model_copy(update={"window": window}).model_dump(mode="json") if found.evidence else None
    return {
        "report_id": report_id(spec.name, request.partition, rules, *found.rows),
        "verdict": report.verdict,
        "proposes": proposed and "inputs" in spec.proposals,
        "windows": windows,
        "why": report.why,
        "drifted_share": report.share,
        "drifted_columns": [*report.drifted],
        "reference": reference,
        "current": window,
        "evidence": evidence,
        **({"skew": found.skew.verdict, "skew_why": found.skew.why} if found.skew else {}),
    }


def _of_labels(request: Request, spec: ModelSpec, listed: Sequence[str], champion: Version) -> tuple[bytes | None, str]:
    """Return what `check_performance`, which comes before this step, says up to this partition.

    That is the picture of the champion's metric; and in words, whether the label's relation to inputs has changed.
    """
    measured = measured_before(get_store(), listed, request.partition, _SHOWN)
    concepts = [document.concept.why for day, document in measured if day == request.partition and document.concept]
    return metric_over_time(spec.gate.metric, measured, champion.number), "".join(concepts)
