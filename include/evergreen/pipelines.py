"""The one table of steps and pipelines: what each step reads and leaves, with which resources, for how long, and when.

The list of steps, the tasks of the DAGs with their profiles, time limits, upstreams and arrows, and the task ids by
which a replay finds manifests all follow from it. A step is a row here and a module ``evergreen.steps.<name>`` with a
function ``run(request, spec) -> Result``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Literal

StepSecret = Literal["signing", "registry"]


@dataclass(frozen=True)
class Step:
    """One step of a pipeline; its task is called like it.

    Parameters
    ----------
    name
        The module in ``evergreen.steps``.
    reads
        The steps whose manifests it is given; those of another pipeline by their addresses.
    outputs
        What it may leave; ``{source}`` and ``{view}`` stand for each source and feature view of the model.
    resources
        Which profile of ``resources`` in model.yaml its pod gets.
    time_limit
        How long an attempt may take; the pod's deadline too.
    after
        The steps it follows; default: the last one it reads, or none.
    secrets
        What it is given beyond what every step is: the key that signs, the login that may move aliases. Its pod reads
        the Secrets ``evergreen-<name>``, and no other pod does.
    """

    name: str
    reads: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    resources: Literal["default", "features", "training"] = "default"
    time_limit: timedelta = timedelta(hours=1)
    after: tuple[str, ...] = ()
    secrets: tuple[StepSecret, ...] = ()


_INGEST = (
    Step("ingest", outputs=("raw_{source}",)),
    Step("validate", reads=("ingest",), outputs=("validation",)),
    Step("publish", reads=("ingest", "validate"), outputs=("{source}", "{source}_quarantine")),
)
_FEATURES = (
    Step("build_features", outputs=("examples", "{view}"), resources="features"),
    Step("materialize", reads=("build_features",), outputs=("{view}",), resources="features"),
)


PICTURES: Mapping[str, str] = MappingProxyType(
    {
        "improvement_by_slice": "Improvement by slice",
        "metric_by_day": "Metric by day",
        "roc_curve": "ROC curve",
        "calibration": "Calibration",
        "predicted_and_true": "Predicted against true",
        "residuals": "Residuals",
        "confusion_matrix": "Confusion matrix",
    }
)
"""Output of ``evaluate`` -> what it is called; which of them there are depends on the task."""


def _in_bulk(step: Step, after: tuple[str, ...] = ()) -> Step:
    """Return a step for many days at once, which needs memory and time like a training does."""
    return replace(step, resources="training", time_limit=timedelta(hours=6), after=after or step.after)


PIPELINES: Mapping[str, tuple[Step, ...]] = MappingProxyType(
    {
        "ingest": _INGEST,
        "features": _FEATURES,
        "monitor": (
            Step("check_performance", outputs=("performance_report",), resources="features"),
            # it draws what the other has measured, and asks nothing of it
            Step("check_drift", outputs=("drift_report",), resources="features", after=("check_performance",)),
        ),
        "retrain": (Step("guard", reads=("check_drift", "check_performance")),),
        "train": (
            Step("assemble", outputs=("training", "evaluation"), resources="features"),
            Step(
                "train",
                reads=("assemble",),
                outputs=("model", "baseline"),
                resources="training",
                time_limit=timedelta(hours=6),
                secrets=("signing",),
            ),
            Step(
                "evaluate",
                reads=("assemble", "train"),
                outputs=("evaluation", *PICTURES),
                resources="features",
                secrets=("signing",),
            ),
            Step("gate", reads=("train", "evaluate"), secrets=("signing",)),
            Step(
                "refit",
                reads=("assemble", "train", "gate"),
                outputs=("model", "baseline"),
                resources="training",
                time_limit=timedelta(hours=6),
                secrets=("signing",),
            ),
            Step("register", reads=("gate", "refit"), outputs=("version",), secrets=("signing", "registry")),
            Step("promote", reads=("gate", "register"), outputs=("champion",), secrets=("signing", "registry")),
        ),
        "rollback": (Step("rollback", outputs=("champion",), secrets=("signing", "registry")),),
        "deliver": (Step("rollout", outputs=("champion",), secrets=("signing", "registry")),),
        "release": (Step("release", secrets=("signing",)),),
        "predict": (Step("predict", outputs=("predictions", "predictions_of_file"), resources="features"),),
        "ingest_predictions": (Step("ingest_predictions", outputs=("served", "feedback")),),
        "backfill": (
            *(_in_bulk(step) for step in _INGEST),
            _in_bulk(_FEATURES[0], after=("publish",)),
            _in_bulk(_FEATURES[1]),
        ),
    }
)
"""Pipeline -> its steps, in an order in which they can run one after another."""

STEPS: Mapping[str, Step] = MappingProxyType(
    {step.name: step for steps in reversed(tuple(PIPELINES.values())) for step in steps}
)
"""Every step there is, as its own pipeline has it."""

PUBLISHERS: Mapping[str, str] = MappingProxyType({"ingest": "publish", "features": "materialize", "monitor": "done"})
"""Pipeline -> the task whose end publishes the partition; the next of `CASCADE` follows from that."""

CASCADE = (*PUBLISHERS, "retrain")
"""The pipelines that a partition goes through, each started by what the one before publishes."""

APPROVED, REJECTED = "Approve", "Reject"
"""What a person answers between ``register`` and ``promote``, where a model asks for it."""
WITHDRAWN = "Withdrawn"
"""What stands for the answer to a question that the other approver's rejection has ended."""
QUESTIONS = ("approve", "approve_again")
"""The tasks that ask, at the same time; the second one where ``approval.approvers`` is 2."""


def dag_id(model: str, pipeline: str) -> str:
    """Return the DAG that runs a pipeline of a model."""
    return f"{model}.{pipeline}"


def training_run(report_id: str) -> str:
    """Return the run of ``<model>.train`` that a report leads to, once; the report's id may be a template."""
    return f"drift__{report_id}"


def upstream_of(step: Step, pipeline: str) -> dict[str, str]:
    """Return the manifests a step is given by its pipeline: step name to task id of the same run."""
    inside = {row.name for row in PIPELINES[pipeline]}
    return {name: name for name in step.reads if name in inside}


def arrows(pipeline: str) -> list[tuple[str, str]]:
    """Return which step of a pipeline follows which: (before, after)."""
    names = [row.name for row in PIPELINES[pipeline]]
    pairs = []
    for row in PIPELINES[pipeline]:
        before = row.after or sorted(upstream_of(row, pipeline), key=names.index)[-1:]
        pairs += [(name, row.name) for name in before]
    return pairs


def outputs_of(step: str, sources: tuple[str, ...], views: tuple[str, ...]) -> set[str]:
    """Return the names of the outputs a step may leave for a model with these sources and feature views."""
    return {
        output.format(source=source, view=view)
        for output in STEPS[step].outputs
        for source in (sources if "{source}" in output else ("",))
        for view in (views if "{view}" in output else ("",))
    }
