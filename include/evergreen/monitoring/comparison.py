"""A window's rows beside the reference and the champion: all that a report is made from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evergreen.contract import StepError
from evergreen.handover import file_digest
from evergreen.monitoring.baseline import PREDICTION, ColumnBaseline, DriftBaseline
from evergreen.monitoring.counting import Counted
from evergreen.monitoring.drift import DriftReport, compare
from evergreen.monitoring.evidence import Evidence
from evergreen.monitoring.evidently_report import evidently_html
from evergreen.monitoring.learning import learn_reference
from evergreen.monitoring.predictions import numeric, with_prediction
from evergreen.monitoring.reference import Reference
from evergreen.monitoring.served import ServedRows, count_in
from evergreen.monitoring.skew import Skew
from evergreen.spec import ModelSpec
from evergreen.training.loading import load_version
from evergreen.training.registry import Version
from evergreen.trust.keys import UntrustedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """What was found, and what it was found in.

    Parameters
    ----------
    report
        The verdict and its figures.
    rows
        The rows that were compared.
    reference_digest
        Names the reference: what its inputs were like.
    baseline, counted
        The counts that were compared; None where there was nothing to compare.
    evidently
        Evidently's report; empty if there is none.
    evidence
        Where the rows are from; None where there was nothing to compare.
    skew
        What was found of the features that were served; None where there was no champion.
    """

    report: DriftReport
    rows: tuple[pd.DataFrame, ...] = ()
    reference_digest: str = ""
    baseline: DriftBaseline | None = None
    counted: Counted | None = None
    evidently: str = ""
    evidence: Evidence | None = None
    skew: Skew | None = None


def compare_with_champion(
    spec: ModelSpec, champion: Version, reference: Reference, current: pd.DataFrame, served: ServedRows
) -> Comparison:
    """Compare the inputs of a window with a reference, and what the champion says of both.

    What was served counts where it is enough. What the log does not tell, as it is masked in it or too few answers are
    the champion's, is compared in the offline rows, or said not to be where those are too few. A champion that cannot
    be loaded, or asked, leaves the inputs to be compared without it.
    """
    frames = [current] if reference.baseline or reference.rows is None else [current, reference.rows]
    frames, problem = _scored(spec, champion, frames)
    baseline = reference.baseline or learn_reference(spec, frames[-1])
    compared = [*served.frames, frames[0]]
    columns = {name: of for name, of in baseline.columns.items() if any(name in frame.columns for frame in compared)}
    baseline = baseline.model_copy(update={"columns": columns})
    digest, offline, rows = reference_digest(baseline), list[str](), [*served.frames, current]
    if served.frames:
        lacking = served.lacks(columns)
        offline = lacking if len(current) >= spec.drift.minimum_rows else []
        if not offline:
            compared, rows = [*served.frames], [*served.frames]
            baseline = baseline.model_copy(update={"columns": columns | _not_told(columns, lacking, len(current))})
    counted = count_in(baseline.columns, compared)
    report = compare(spec, baseline, counted)
    if problem and PREDICTION not in columns:
        report = replace(report, why=f"{report.why}; the champion's predictions are not compared: {problem}")
    evidence = Evidence(
        source="served" if served.frames else "offline",
        rows=served.answers if served.frames else len(current),
        offline=tuple(offline),
        why=served.why,
    )
    pages = "" if report.verdict == "insufficient" else _evidently(spec, reference, rows[0])
    return Comparison(report, tuple(rows), digest, baseline, counted, pages, evidence)


def _not_told(columns: dict[str, ColumnBaseline], lacking: Sequence[str], offline: int) -> dict[str, ColumnBaseline]:
    """Return the columns that nobody tells of, with the reason."""
    why = f"not told by the prediction log, and only {offline} offline rows"
    return {name: columns[name].model_copy(update={"unjudged": columns[name].unjudged or why}) for name in lacking}


def _scored(spec: ModelSpec, champion: Version, frames: list[pd.DataFrame]) -> tuple[list[pd.DataFrame], str]:
    """Return frames with the champion's predictions, or as they are and why there are none.

    One that cannot be trusted is no champion that fails: nothing is said of a window until that is cleared up.
    """
    try:
        model = load_version(champion)
        return [with_prediction(spec, model, frame) for frame in frames], ""
    except UntrustedError:
        raise
    except Exception as error:  # whatever MLflow, torch and the model's own code raise
        log.exception("version %s of %s cannot be asked", champion.number, champion.model)
        return frames, error.message if isinstance(error, StepError) else f"{type(error).__name__}: {error}"


def reference_digest(baseline: DriftBaseline) -> str:
    """Name what the reference's inputs were like, whether or not the champion could be asked about them."""
    inputs = {name: column for name, column in baseline.columns.items() if name != PREDICTION}
    of_inputs = baseline.model_copy(update={"columns": inputs})
    return file_digest(of_inputs.model_dump_json(exclude={"concept"}).encode())


def _evidently(spec: ModelSpec, reference: Reference, current: pd.DataFrame) -> str:
    if reference.rows is None:
        return ""
    columns = [name for name in spec.drift.columns if name in current.columns]
    return evidently_html(columns, numeric(spec), reference.rows, current)
