"""What a model was asked and what it answered, as its prediction log says, in the columns that drift is measured in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evergreen.data.arrow import PARTITION
from evergreen.data.served import FEATURE, REQUEST, outputs_of
from evergreen.monitoring.baseline import PREDICTION, ColumnBaseline
from evergreen.monitoring.counting import Counted, count, frame_batches
from evergreen.monitoring.predictions import monitored
from evergreen.spec import ModelSpec, Task

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class ServedRows:
    """The answers of a window that are enough for a comparison.

    Parameters
    ----------
    frames
        The inputs of all answers; and what the champion said, where it gave enough of them. Nothing where the log is
        no evidence.
    answers
        How many there are.
    why
        Why the log is no evidence, or only a part of it, in words; empty where it is.
    """

    frames: tuple[pd.DataFrame, ...] = ()
    answers: int = 0
    why: str = ""

    def lacks(self, columns: Mapping[str, ColumnBaseline]) -> list[str]:
        """Return the columns that the log does not tell."""
        return [name for name in columns if not any(name in frame.columns for frame in self.frames)]


def served_rows(spec: ModelSpec, version: str, answers: pa.Table | None) -> ServedRows:
    """Return what the log says of a window, for a comparison with what a version learned from.

    Inputs are those of all answers: who a rollout gives to the challenger says nothing of who asks. Predictions are
    only those of the version itself.

    Parameters
    ----------
    spec, version
        The model, and the number of its champion.
    answers
        What callers got in the window; None if no log was ever ingested.
    """
    import pyarrow.compute as pc

    least = spec.drift.minimum_rows
    if answers is None:
        return ServedRows(why="no prediction log was ingested")
    if len(answers) < least:
        return ServedRows(answers=len(answers), why=f"{len(answers)} answers in the prediction log, {least} are needed")
    frames, why = [_inputs(spec, answers)], ""
    if PREDICTION in monitored(spec):
        own = answers.filter(pc.and_(pc.equal(answers["variant"], "champion"), pc.equal(answers["version"], version)))
        if len(own) < least:
            why = f"{len(own)} answers of version {version} in the prediction log, {least} are needed"
        else:
            frames.append(_predictions(spec, own))
    return ServedRows(tuple(frames), len(answers), why)


def _inputs(spec: ModelSpec, answers: pa.Table) -> pd.DataFrame:
    """Return the inputs that are compared, in the types that a training set has; those that are masked are left out."""
    import pandas as pd

    from evergreen.training.encoder import category_names

    columns = {PARTITION: answers[PARTITION].to_pandas()}
    for name in spec.drift.columns:
        logged = f"{REQUEST if name in spec.features.request_inputs else FEATURE}{name}"
        if name in spec.serving.masked or logged not in answers.column_names:
            continue
        if name in spec.features.numeric:
            columns[name] = answers[logged].cast("float64").to_pandas()
        else:
            columns[name] = category_names(answers[logged].cast("string").to_pandas())
    return pd.DataFrame(columns)


def _predictions(spec: ModelSpec, answers: pa.Table) -> pd.DataFrame:
    """Return what was answered: a number, or of a multiclass model the likeliest class."""
    import pandas as pd

    said = outputs_of(spec, answers.to_pandas())
    column = said.idxmax(axis=1) if spec.task is Task.MULTICLASS else said.iloc[:, 0]
    return pd.DataFrame({PARTITION: answers[PARTITION].to_pandas(), PREDICTION: column.to_numpy()})


def count_in(columns: Mapping[str, ColumnBaseline], frames: Sequence[pd.DataFrame]) -> Counted:
    """Return the rows of each column in the bins of a baseline, counted in the first frame that has it.

    They are said to be as many as the smallest frame has: limits for fewer rows are wider, so none is too narrow.
    """
    parts, left = list[Counted](), dict(columns)
    for frame in frames:
        here = {name: left.pop(name) for name in [*left] if name in frame.columns}
        if here:
            parts.append(count(here, frame_batches(frame, list(here))))
    if not parts:
        return Counted()
    least = min(parts, key=lambda part: part.rows)
    found = Counted(rows=least.rows, days=least.days)
    for part in parts:
        found.bins |= part.bins
        found.new |= part.new
        found.ends |= part.ends
    return found
