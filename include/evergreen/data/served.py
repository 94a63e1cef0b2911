"""What servers have answered, as the lake has it, and what became of each answer: for whoever judges what serves.

An outcome is told in one of two ways. Feedback names the answer by its ``prediction_id``; of several the newest counts.
The label of an example counts for every answer about the same entity at the same moment: all entity keys are equal, as
text, and ``event_timestamp`` is, to the microsecond. Where both are known the feedback wins, as it was said of this
very answer, and a difference is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from evergreen.contract import Window
from evergreen.data.lake import get_lake
from evergreen.data.transform import EVENT_TIMESTAMP
from evergreen.spec import ModelSpec, Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import pyarrow as pa

SERVED, FEEDBACK = "served", "feedback"
"""The tables."""
REQUEST, FEATURE, OUTPUT, AGE = "request_", "feature_", "output_", "age_"
"""Prefixes of the columns: of a key or input as it was asked, a feature as it was used, a value that was answered; and
of how old each view's row was, in seconds."""


@dataclass(frozen=True)
class Outcomes:
    """Answers with what became of them.

    Parameters
    ----------
    rows
        The rows of ``served`` that are answers, and ``outcome``: a number, or of a multiclass model the class; null
        where it is not known. ``outcome_from`` is ``feedback``, ``label`` or null.
    disagreements
        Answers of which the feedback says another outcome than the label.
    ambiguous
        Answers to which several examples with different labels belong; none of these counts.
    unreadable
        Answers whose newest feedback is no number where one is asked for; it does not count.
    """

    rows: pd.DataFrame
    disagreements: int = 0
    ambiguous: int = 0
    unreadable: int = 0


def real_answers(spec: ModelSpec, window: Window, snapshot: str | None = None) -> pa.Table | None:
    """Return the answers that callers got to the events of some days, whichever version gave them.

    What a challenger answered in the shadow of the champion is none of them: each request counts once.

    Parameters
    ----------
    spec, window
        The model, and the days of the events, in UTC.
    snapshot
        The version of the table to read; without one, the current one.

    Returns
    -------
    pyarrow.Table or None
        The rows of ``served``; None if nothing was ever ingested of the prediction log.
    """
    import pyarrow.compute as pc

    lake = get_lake()
    if not lake.has(spec.name, SERVED):
        return None
    table = lake.read(spec.name, SERVED, window, snapshot)
    in_shadow = pc.field("shadow") if "shadow" in table.column_names else pc.scalar(False)
    return table.filter((pc.field("status") == "ok") & ~pc.coalesce(in_shadow, pc.scalar(False)))


def outputs_of(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """Return what answers say, as a model's own prediction has it: one number, or a probability for each class."""
    outputs = rows[[name for name in rows.columns if name.startswith(OUTPUT)]].dropna(axis=1, how="all")
    outputs = outputs.rename(columns=lambda name: name.removeprefix(OUTPUT))
    # a class that another version does not know has no probability in its rows
    return outputs.fillna(0.0) if spec.task is Task.MULTICLASS else outputs


def served_with_outcomes(spec: ModelSpec, window: Window, snapshots: Mapping[str, str] | None = None) -> Outcomes:
    """Return the answers to the events of some days, with their outcomes as they are known now.

    A model without entity keys, or with one that is masked in the log, knows no labels of its answers: only feedback.

    Parameters
    ----------
    spec
        The model.
    window
        The days of the events, in UTC.
    snapshots
        Versions of the tables to read, by name; of the others, the current one is read.

    Raises
    ------
    DataError
        If nothing was ever ingested of the prediction log.
    """
    import pyarrow.compute as pc

    pins = snapshots or {}
    table = get_lake().read(spec.name, SERVED, window, pins.get(SERVED)).filter(pc.field("status") == "ok")
    rows = _as_text(table, [f"{REQUEST}{key}" for key in spec.features.keys]).to_pandas()
    told, unreadable = _feedback(spec, rows, pins.get(FEEDBACK))
    labels, ambiguous = labels_of(spec, window, rows, pins.get("examples"))
    outcome = told.where(told.notna(), labels)
    source = told.notna().map({True: FEEDBACK, False: None}).where(told.notna() | labels.isna(), "label")
    both = told.notna() & labels.notna()
    return Outcomes(
        rows=rows.assign(outcome=outcome, outcome_from=source),
        disagreements=int((told[both] != labels[both]).sum()),
        ambiguous=ambiguous,
        unreadable=unreadable,
    )


def _feedback(spec: ModelSpec, rows: pd.DataFrame, snapshot: str | None) -> tuple[pd.Series, int]:
    """Return the newest feedback of each answer, and of how many answers it is no outcome.

    All days are read: it may come as long after the event as the log is kept.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    lake = get_lake()
    if not lake.has(spec.name, FEEDBACK):
        return pd.Series(None, index=rows.index, dtype=object), 0
    table = lake.read(spec.name, FEEDBACK, snapshot=snapshot, columns=["prediction_id", "outcome", "at"])
    ours = table.filter(pc.is_in(table["prediction_id"], pa.array(rows["prediction_id"].unique(), pa.string())))
    return told_of(spec, rows["prediction_id"], ours.to_pandas())


def told_of(spec: ModelSpec, predictions: pd.Series, feedback: pd.DataFrame) -> tuple[pd.Series, int]:
    """Return the newest feedback of each answer, and of how many answers it is no outcome.

    Parameters
    ----------
    spec
        The model.
    predictions
        The ``prediction_id`` of each answer.
    feedback
        ``prediction_id``, ``outcome`` and ``at``.
    """
    ordered = feedback.sort_values(["at", "outcome"])
    newest = ordered.drop_duplicates("prediction_id", keep="last").set_index("prediction_id")["outcome"]
    said = predictions.map(newest).astype(object)
    outcome = _outcomes(spec, said)
    return outcome, int((said.notna() & outcome.isna()).sum())


def labels_of(
    spec: ModelSpec, window: Window, rows: pd.DataFrame, snapshot: str | None = None
) -> tuple[pd.Series, int]:
    """Return the label of each answer's example, and how many answers have several that differ.

    Parameters
    ----------
    spec
        The model.
    window
        The days of the events, in UTC.
    rows
        The answers: the entity keys as they were asked, as text, and ``event_timestamp``.
    snapshot
        The version of the examples to read; without one, the current one.
    """
    import pandas as pd

    lake, keys, label = get_lake(), list(spec.features.keys), spec.features.examples.label
    nothing = pd.Series(None, index=rows.index, dtype=object)
    if not keys or set(keys) & set(spec.serving.masked) or not lake.has(spec.name, "examples"):
        return nothing, 0
    # a model's days are those of its time zone, an answer's those of UTC
    days = Window(start=window.start - timedelta(days=1), end=window.end + timedelta(days=1))
    same = [*keys, EVENT_TIMESTAMP]
    examples = lake.read(spec.name, "examples", days, snapshot, columns=[*same, label])
    known = _as_text(examples, keys).to_pandas().dropna(subset=[label])
    outcomes = known.assign(outcome=_outcomes(spec, known[label].astype(object))).groupby(same)["outcome"]
    counted = outcomes.agg(["first", "nunique"]).reset_index()
    asked = rows[[*(f"{REQUEST}{key}" for key in keys), EVENT_TIMESTAMP]].set_axis(same, axis=1)
    joined = asked.merge(counted, on=same, how="left").set_index(rows.index)
    several = joined["nunique"] > 1
    return nothing.where(several | joined["first"].isna(), joined["first"]), int(several.sum())


def _as_text(table: pa.Table, columns: list[str]) -> pa.Table:
    """Return a table with some columns as text, before pandas makes floats of whole numbers beside nulls."""
    for name in columns:
        table = table.set_column(table.column_names.index(name), name, table[name].cast("string"))
    return table


def _outcomes(spec: ModelSpec, values: pd.Series) -> pd.Series:
    """Return outcomes as a model's task has them: classes as text, all else as numbers; null where one is neither."""
    import pandas as pd

    if spec.task is Task.MULTICLASS:
        return values.map(_class, na_action="ignore").astype(object)
    words = {"true": 1.0, "false": 0.0}
    text = values.map(lambda value: words.get(str(value).lower(), value), na_action="ignore")
    numbers = pd.to_numeric(text, errors="coerce").astype(float)
    return numbers.astype(object).where(numbers.notna(), None)


def _class(value: object) -> str:
    """Return a class as text: whole numbers are the same whether they came as floats or not."""
    return f"{value:.15g}" if isinstance(value, float) else str(value)
