"""Scores champion and challenger on the same labelled rows, as a whole and by slice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from evergreen.contract import DataError
from evergreen.data.lake import PARTITION
from evergreen.judgement.baseline import best_baseline
from evergreen.judgement.evidence import Baseline, Candidate, Evaluation, SliceScore
from evergreen.judgement.figures import MISSING, figures_of, parts_of
from evergreen.judgement.interval import Interval, Jackknife, improvement
from evergreen.judgement.metrics import Scored, scored
from evergreen.spec import ModelSpec
from evergreen.training.preparation import check_labels, window_of

if TYPE_CHECKING:
    import pandas as pd

    from evergreen.training.scorer import Scorer


def score(spec: ModelSpec, frame: pd.DataFrame, models: list[Scorer]) -> list[Scored]:
    """Return the predictions of loaded models beside the labels of a frame.

    Raises
    ------
    DataError
        If a column is missing, or a label is missing or no value of the task.
    """
    label = spec.features.examples.label
    needed = [label, *spec.features.numeric, *spec.features.categorical]
    if missing := [name for name in needed if name not in frame.columns]:
        raise DataError(f"the evaluation set of {spec.name} lacks the columns {', '.join(missing)}.")
    check_labels(spec, frame[label])
    return scored(spec.task, frame[label], [model.predict(_inputs(model, frame)) for model in models])


def _inputs(model: Scorer, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns a model asks for: a champion may know fewer inputs than the spec names today."""
    if missing := [name for name in model.inputs if name not in frame.columns]:
        raise DataError(
            f"a model asks for inputs the data set does not have: {', '.join(missing)}.",
            "Keep the inputs of the champion in model.yaml until it is replaced, or remove its alias.",
        )
    return frame[list(model.inputs)]


def evaluation_of(
    spec: ModelSpec,
    frame: pd.DataFrame,
    dataset: str,
    challenger: tuple[Candidate, Scored],
    champion: tuple[Candidate, Scored] | None,
    earlier: Callable[[], pd.DataFrame],
    look: int = 1,
) -> Evaluation:
    """Return the evidence of a comparison: all that the gate decides on.

    Parameters
    ----------
    spec, frame, dataset
        The model, the rows of the evaluation window, and their address and version.
    challenger
        It and its scores on these rows.
    champion
        The champion and its scores; None where there is no champion yet.
    earlier
        Reads the training window's rows, which together with the frame's say what can be predicted without a model.
        It is asked where there is no champion, or where a prediction of the champion is not finite: there the best
        baseline stands in for it, so that a champion that fails gives way to a challenger that is better than both. It
        also says which values of a slice were learned from: one that has no row in the frame is one without evidence.
    look
        Which judgement it is, of those about this champion on days that overlap these.

    Raises
    ------
    ConfigurationError
        If a column of a slice, or a sensitive one, is not in the data set.
    """
    challenger_candidate, challenger_scores = challenger
    champion_candidate, champion_scores = champion or (None, None)
    baseline, unscored, risk = None, 0, spec.gate.risk(look)
    if champion_scores is None or not champion_scores.finite.all():
        name, trivial = best_baseline(spec, frame, earlier(), challenger_scores)
        better = _overall(spec, frame, trivial, challenger_scores)
        bounds = _bounds(better.interval(risk) if better else None)
        baseline = Baseline(name=name, score=trivial.metrics().get(spec.gate.metric), **bounds)
        if champion_scores is not None:
            unscored = int((~champion_scores.finite).sum())
            champion_scores = champion_scores.filled(trivial)
    over_champion = _overall(spec, frame, champion_scores, challenger_scores) if champion_scores else None
    interval = over_champion.interval(risk) if over_champion else None
    return Evaluation(
        model=spec.name,
        metric=spec.gate.metric,
        window=window_of(frame),
        rows=len(frame),
        partitions=frame[PARTITION].nunique(),
        dataset=dataset,
        challenger=challenger_candidate,
        champion=champion_candidate,
        confidence=1 - 2 * risk,
        look=look,
        unit="partition" if interval else "",
        effective_partitions=interval.effective if interval else None,
        baseline=baseline,
        unscored=unscored,
        slices=(*slice_scores(spec, frame, champion_scores, challenger_scores), *_without_rows(spec, frame, earlier)),
        figures=tuple(figures_of(spec, frame, champion_scores, challenger_scores)),
        **_bounds(interval),
        **(asdict(over_champion.outlook()) if over_champion else {}),
    )


def _overall(spec: ModelSpec, frame: pd.DataFrame, champion: Scored, challenger: Scored) -> Jackknife | None:
    return improvement(champion, challenger, spec.gate.metric, frame[PARTITION].to_numpy())


def _bounds(interval: Interval | None) -> dict[str, float]:
    if interval is None:
        return {}
    return {"improvement": interval.improvement, "low": interval.low, "high": interval.high}


def _without_rows(spec: ModelSpec, frame: pd.DataFrame, earlier: Callable[[], pd.DataFrame]) -> Iterator[SliceScore]:
    """Yield the values of slices that were learned from and have no row to be judged on."""
    from evergreen.training.encoder import category_names

    learned = earlier() if spec.gate.slices else frame
    for rule in spec.gate.slices:
        if rule.column in learned.columns:
            judged, known = (set(category_names(rows[rule.column]).fillna(MISSING)) for rows in (frame, learned))
            yield from (SliceScore(column=rule.column, value=value, rows=0) for value in sorted(known - judged))


def slice_scores(
    spec: ModelSpec, frame: pd.DataFrame, champion: Scored | None, challenger: Scored
) -> Iterator[SliceScore]:
    """Yield the deciding metric on every value of every slice column, with the improvement over a champion.

    The intervals of a column's values share the risk, so that many values are not many chances of an error.
    """
    metric = spec.gate.metric
    for rule in spec.gate.slices:
        parts = parts_of(spec, frame, "gate.slices", rule.column)
        risk = (1 - spec.gate.confidence) / max(1, len(parts))
        for value, rows in parts.items():
            days, challenger_slice = frame[PARTITION].to_numpy()[rows], challenger.select(rows)
            champion_slice = champion.select(rows) if champion else None
            better = improvement(champion_slice, challenger_slice, metric, days) if champion_slice else None
            yield SliceScore(
                column=rule.column,
                value=value,
                rows=len(days),
                partitions=len(set(days)),
                champion=champion_slice.metrics().get(metric) if champion_slice else None,
                challenger=challenger_slice.metrics().get(metric),
                **_bounds(better.interval(risk) if better else None),
            )
