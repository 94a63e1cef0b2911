"""A window's rows beside the reference and the champion: all that a report is made from."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evergreen.contract import StepError
from evergreen.handover import file_digest
from evergreen.monitoring.baseline import PREDICTION, DriftBaseline
from evergreen.monitoring.counting import Counted, count, frame_batches
from evergreen.monitoring.drift import DriftReport, compare
from evergreen.monitoring.evidently_report import evidently_html
from evergreen.monitoring.learning import learn_reference
from evergreen.monitoring.predictions import numeric, with_prediction
from evergreen.monitoring.reference import Reference
from evergreen.spec import ModelSpec
from evergreen.training.loading import load_version
from evergreen.training.registry import Version
from evergreen.trust.keys import UntrustedError

if TYPE_CHECKING:
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
        The window's rows.
    reference_digest
        Names the reference: what its inputs were like.
    baseline, counted
        The counts that were compared; None where there was nothing to compare.
    evidently
        Evidently's report; empty if there is none.
    """

    report: DriftReport
    rows: tuple[pd.DataFrame, ...] = ()
    reference_digest: str = ""
    baseline: DriftBaseline | None = None
    counted: Counted | None = None
    evidently: str = ""


def compare_with_champion(
    spec: ModelSpec, champion: Version, reference: Reference, current: pd.DataFrame
) -> Comparison:
    """Compare the inputs of a window with a reference, and what the champion says of both.

    A champion that cannot be loaded, or asked, leaves the inputs to be compared without it.
    """
    frames = [current] if reference.baseline or reference.rows is None else [current, reference.rows]
    frames, problem = _scored(spec, champion, frames)
    baseline = reference.baseline or learn_reference(spec, frames[-1])
    columns = {name: column for name, column in baseline.columns.items() if name in frames[0].columns}
    baseline = baseline.model_copy(update={"columns": columns})
    counted = count(columns, frame_batches(frames[0], list(columns)))
    report = compare(spec, baseline, counted)
    if problem:
        report = replace(report, why=f"{report.why}; the champion's predictions are not compared: {problem}")
    pages = "" if report.verdict == "insufficient" else _evidently(spec, reference, current)
    return Comparison(report, (current,), reference_digest(baseline), baseline, counted, pages)


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
    return evidently_html(spec.drift.columns, numeric(spec), reference.rows, current)
