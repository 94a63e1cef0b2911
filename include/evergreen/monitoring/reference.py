"""What drift is measured against: the very rows that the champion learned from, and nothing else in their place."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evergreen.contract import DataError, Output, Request, Result, Window
from evergreen.handover import file_digest, key_of, store_output
from evergreen.monitoring.baseline import DriftBaseline
from evergreen.monitoring.learning import learn_reference
from evergreen.monitoring.predictions import monitored, numeric, with_prediction
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
    import pandas as pd

    name, files, rows, baseline = f"training, {champion.training}", list[Output](), None, None
    if content := _pinned(champion, "baseline"):
        uri = champion.tags["baseline_uri"]
        stored = parse_document(content, uri, DriftBaseline, "a drift baseline", "Restore it, or delete it.")
        baseline = stored if _covers(spec, stored) else None
        files.append(Output(name="baseline", uri=uri, version=file_digest(content), rows=stored.rows))
    if content := _pinned(champion, "dataset"):
        frame = pd.read_parquet(io.BytesIO(content))
        if set(spec.drift.columns) <= set(frame.columns):  # a column may have been added since
            rows, version = frame, champion.tags.get("dataset_version", "")
            files.append(Output(name="reference", uri=champion.tags["dataset_uri"], version=version, rows=len(frame)))
    if rows is None and baseline is None:
        rows = read(champion.training)
    return Reference(name, rows, baseline, tuple(files))


def with_baseline(request: Request, spec: ModelSpec, result: Result, frame: pd.DataFrame) -> Result:
    """Return the result of a training with one output more: what was learned from, as counts.

    With them drift is measured for as long as the version lives.
    """
    model = load_run(spec.name, str(result.facts["run_id"]))
    learned = learn_reference(spec, with_prediction(spec, model, frame))
    key = f"{request.run.key}/baseline.json"
    output = store_output("baseline", key, learned.model_dump_json().encode(), rows=learned.rows)
    return result.model_copy(update={"outputs": (*result.outputs, output)})


def _covers(spec: ModelSpec, baseline: DriftBaseline) -> bool:
    """Tell whether a baseline has every column that is compared today, as what it is today."""
    numbers = numeric(spec)
    kinds = {name: column.kind for name, column in baseline.columns.items()}
    return all(kinds.get(name) == ("number" if name in numbers else "category") for name in monitored(spec))


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
