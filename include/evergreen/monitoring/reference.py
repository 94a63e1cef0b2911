"""What drift is measured against: the very rows that the champion learned from, and nothing else in their place."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evergreen.contract import DataError, Output, Request, Result, Window
from evergreen.handover import file_digest, key_of, store_output
from evergreen.monitoring.baseline import ColumnBaseline, DriftBaseline
from evergreen.monitoring.learning import learn_reference
from evergreen.monitoring.predictions import monitored, numeric, with_prediction
from evergreen.monitoring.relations import numeric_label, with_concept
from evergreen.spec import ModelSpec
from evergreen.store import get_store, parse_document
from evergreen.training.loading import load_run
from evergreen.training.registry import Version

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Reference:
    """What a window is compared with.

    Parameters
    ----------
    name
        What it is, in words.
    rows
        Its rows; None where they are gone and the baseline is enough.
    baseline
        Its counts, where they were stored with the version.
    files
        The files that it was read from.
    """

    name: str
    rows: pd.DataFrame | None
    baseline: DriftBaseline | None = None
    files: tuple[Output, ...] = ()


def champion_reference(spec: ModelSpec, champion: Version, read: Callable[[Window], pd.DataFrame]) -> Reference:
    """Return what the champion learned from: its baseline and its rows, or its window read again if both are gone.

    Raises
    ------
    DataError
        If a file is another one than the version was registered with.
    """
    baseline, counted = _stored_baseline(champion)
    if baseline is not None and not _covers(spec, baseline):
        baseline = None
    rows, stored = _stored_rows(champion, spec.drift.columns)
    if rows is None and baseline is None:
        rows = read(champion.training)
    return Reference(f"training, {champion.training}", rows, baseline, (*counted, *stored))


def concept_reference(
    spec: ModelSpec, champion: Version, read: Callable[[Window], pd.DataFrame]
) -> tuple[DriftBaseline, list[Output]]:
    """Return the counts of what the champion learned from, labels and all, and the files that they were read from.

    A version without counts of its labels gets them from its rows, or from its window read again.

    Raises
    ------
    DataError
        If a file is another one than the version was registered with.
    """
    baseline, files = _stored_baseline(champion)
    if baseline is not None and _covers_concept(spec, baseline):
        return baseline, files
    columns = [*spec.drift.columns, spec.features.examples.label]
    rows, files = _stored_rows(champion, columns)
    if rows is None:
        rows = read(champion.training)
    return with_concept(spec, learn_reference(spec, rows), rows), files


def with_baseline(request: Request, spec: ModelSpec, result: Result, frame: pd.DataFrame) -> Result:
    """Return the result of a training with one output more: what was learned from, as counts.

    With them drift is measured, of inputs and of what labels have to do with them, for as long as the version lives.
    """
    model = load_run(spec.name, str(result.facts["run_id"]))
    learned = with_concept(spec, learn_reference(spec, with_prediction(spec, model, frame)), frame)
    key = f"{request.run.key}/baseline.json"
    output = store_output("baseline", key, learned.model_dump_json().encode(), rows=learned.rows)
    return result.model_copy(update={"outputs": (*result.outputs, output)})


def _covers(spec: ModelSpec, baseline: DriftBaseline) -> bool:
    """Tell whether a baseline has every column that is compared today, as what it is today."""
    return _are(baseline.columns, numeric(spec), monitored(spec))


def _covers_concept(spec: ModelSpec, baseline: DriftBaseline) -> bool:
    """Tell whether it has the relation of every such column to the label, as both are today."""
    concept, label = baseline.concept, spec.features.examples.label
    if concept is None or concept.label != label or not _are({label: concept.values}, numeric_label(spec), [label]):
        return False
    counted = {*concept.relations, *(name for name, column in baseline.columns.items() if column.unjudged)}
    return counted >= set(spec.drift.columns) and _are(baseline.columns, numeric(spec), spec.drift.columns)


def _are(columns: Mapping[str, ColumnBaseline], numbers: set[str], names: Iterable[str]) -> bool:
    """Tell whether columns are there, these as numbers and all others as categories."""
    kinds = {name: column.kind for name, column in columns.items()}
    return all(kinds.get(name) == ("number" if name in numbers else "category") for name in names)


def _stored_baseline(champion: Version) -> tuple[DriftBaseline | None, list[Output]]:
    """Return the counts that were stored with a version, and their file; None if it is gone."""
    content = _pinned(champion, "baseline")
    if content is None:
        return None, []
    uri = champion.tags["baseline_uri"]
    stored = parse_document(content, uri, DriftBaseline, "a drift baseline", "Restore it, or delete it.")
    return stored, [Output(name="baseline", uri=uri, version=file_digest(content), rows=stored.rows)]


def _stored_rows(champion: Version, columns: Iterable[str]) -> tuple[pd.DataFrame | None, list[Output]]:
    """Return the rows that a version learned from, and their file; None if it is gone, or lacks one of the columns."""
    import pandas as pd

    content = _pinned(champion, "dataset")
    if content is None:
        return None, []
    frame = pd.read_parquet(io.BytesIO(content))
    if not set(columns) <= set(frame.columns):  # a column may have been added since
        return None, []
    version = champion.tags.get("dataset_version", "")
    return frame, [Output(name="reference", uri=champion.tags["dataset_uri"], version=version, rows=len(frame))]


def _pinned(champion: Version, file: str) -> bytes | None:
    """Return a file that the version's tags name, or None if it is gone; a changed one is refused."""
    uri = champion.tags.get(f"{file}_uri", "")
    key = key_of(uri)
    content = get_store().read(key) if key else None
    known = champion.tags.get(f"{file}_digest")  # versions registered earlier have none
    if content is not None and known and file_digest(content) != known:
        raise DataError(
            f"{uri}: it is not the file that version {champion.number} of {champion.model} was registered with: its "
            f"digest is {file_digest(content)}, and not {known}.",
            "Restore it from a backup, or delete it: then the days are read again.",
        )
    return content
