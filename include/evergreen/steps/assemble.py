"""``assemble``: the training and evaluation sets of a partition, as two versioned Parquet files."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from evergreen.contract import Request, Result, Status, Window
from evergreen.data.arrow import count_known
from evergreen.data.lake import PARTITION, get_lake
from evergreen.data.lineage import current_together
from evergreen.features.feature_store import feature_tables, training_set
from evergreen.handover import store_frames
from evergreen.judgement.decisions import write_start
from evergreen.judgement.events import EventKind
from evergreen.pipelines import dag_id, training_run
from evergreen.spec import ModelSpec
from evergreen.store import get_store

if TYPE_CHECKING:
    import pandas as pd


def run(request: Request, spec: ModelSpec) -> Result:
    """Write ``training`` and ``evaluation``: what the challenger learns from, and what both models are judged on.

    The newest labelled partition is the request's, less the label delay. With too few labelled rows in either window,
    or on too few days, nothing is written and the run is skipped: early in a model's life that is no failure, and it
    ends by itself.
    """
    windows = _windows(request, spec)
    if request.run.dag_id == dag_id(spec.name, "train") and not request.run.run_id.startswith(training_run("")):
        write_start(get_store(), request, EventKind.TRAINING_STARTED)
    if isinstance(windows, str):
        return Result(status=Status.SKIPPED, reason=windows)
    inputs = current_together(spec.name, feature_tables(spec))
    snapshots = {table.name: table.version for table in inputs}
    frames = {name: training_set(spec, window, snapshots=snapshots) for name, window in windows.items()}
    shares = {name: _label_share(spec, window, snapshots.get("examples")) for name, window in windows.items()}
    facts = {
        "rows": {name: len(frame) for name, frame in frames.items()},
        "windows": {name: str(window) for name, window in windows.items()},
        "label_mean": {name: _mean(frame, spec) for name, frame in frames.items()},
        "label_share": shares,
        "snapshots": snapshots,
    }
    if reason := " ".join([*_too_few(spec, windows, frames), *immature(spec, windows, shares)]):
        return Result(status=Status.SKIPPED, reason=reason, inputs=tuple(inputs), facts=facts)
    outputs = store_frames(spec.name, request.partition, frames)
    return Result(outputs=outputs, inputs=tuple(inputs), facts={**facts, "digest": outputs[0].version})


def _windows(request: Request, spec: ModelSpec) -> dict[str, Window] | str:
    """Return the two windows, or why there are none yet."""
    delay, start = spec.features.examples.label_delay_days, spec.schedule.start
    newest = request.partition - timedelta(days=delay)
    training, evaluation = spec.windows.training(newest, delay), spec.windows.evaluation(newest)
    if training.end < start:
        return (
            f"The evaluation window {evaluation} leaves no days to train on: the model's data starts on {start}. "
            f"The first partition with any is {start + (request.partition - training.end)}."
        )
    return {"training": Window(start=max(training.start, start), end=training.end), "evaluation": evaluation}


def _too_few(spec: ModelSpec, windows: dict[str, Window], frames: dict[str, pd.DataFrame]) -> list[str]:
    needed = {
        "training": spec.windows.minimum_training_rows,
        "evaluation": spec.windows.minimum_evaluation_rows,
    }
    reasons = [
        f"{name}: {len(frames[name]):,} labelled rows in {windows[name]}, "
        f"windows.minimum_{name}_rows asks for {needed[name]:,}."
        for name in windows
        if len(frames[name]) < needed[name]
    ]
    days, least = frames["evaluation"][PARTITION].nunique(), spec.windows.minimum_evaluation_partitions
    if days < least:
        reasons.append(
            f"evaluation: labelled rows on {days} days of {windows['evaluation']}, "
            f"windows.minimum_evaluation_partitions asks for {least}."
        )
    return reasons


def _label_share(spec: ModelSpec, window: Window, snapshot: str | None) -> float | None:
    """Return the share of a window's examples that have a label, or None if it has no examples."""
    label = spec.features.examples.label
    rows = get_lake().read(spec.name, "examples", window, snapshot, [label])
    return round(count_known(rows[label]) / rows.num_rows, 6) if rows.num_rows else None


def immature(spec: ModelSpec, windows: dict[str, Window], shares: dict[str, float | None]) -> list[str]:
    """Return why the evaluation's labels are no fair sample yet: far fewer examples have one than in training."""
    now, before = shares["evaluation"], shares["training"]
    if now is None or before is None or now >= spec.windows.minimum_label_share * before:
        return []
    return [
        f"evaluation: labels are immature: {now:.0%} of the examples in {windows['evaluation']} have one, against "
        f"{before:.0%} in {windows['training']}; the first to come are no fair sample. If they always take longer, "
        "raise features.examples.label_delay_days; if fewer examples get one from now on, lower "
        "windows.minimum_label_share."
    ]


def _mean(frame: pd.DataFrame, spec: ModelSpec) -> float | None:
    import pandas as pd

    label = frame[spec.features.examples.label]
    return round(float(label.mean()), 6) if len(label) and pd.api.types.is_numeric_dtype(label) else None
