"""The tasks of a pipeline's steps, as the table of steps has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset, BaseOperator, chain

from evergreen.pipelines import PIPELINES, PUBLISHERS, arrows, upstream_of
from evergreen.spec import ModelSpec
from evergreen_airflow.alerts.notifier import result_callback
from evergreen_airflow.operator import StepOperator


def step_tasks(
    spec: ModelSpec,
    pipeline: str,
    before: Mapping[str, Sequence[BaseOperator]] | None = None,
    publishes: Asset | None = None,
    **options: Mapping[str, Any],
) -> dict[str, StepOperator]:
    """Return a pipeline's steps as tasks of the DAG under construction, by name, with their arrows.

    Parameters
    ----------
    spec
        The model.
    pipeline
        The pipeline's name in the table.
    before
        Step to the tasks that come between it and the steps before it, all at the same time.
    publishes
        The asset of which the step that publishes the partition makes an event.
    options
        Step to further arguments of its operator.

    Raises
    ------
    ValueError
        If ``before`` or ``options`` name a step the pipeline does not have.
    """
    if publishes is not None:
        publisher = PUBLISHERS[pipeline]
        options[publisher] = {"outlets": [publishes], **options.get(publisher, {})}
    tasks = {
        step.name: StepOperator(
            step=step.name,
            spec=spec,
            profile=getattr(spec.resources, step.resources),
            execution_timeout=step.time_limit,
            secrets=step.secrets,
            **{
                "upstream": upstream_of(step, pipeline),
                **result_callback(spec, step.name),
                **options.get(step.name, {}),
            },
        )
        for step in PIPELINES[pipeline]
    }
    if unknown := {*options, *(before or {})} - tasks.keys():
        raise ValueError(f"{pipeline} has no step {', '.join(sorted(unknown))}: see evergreen/pipelines.py.")
    for first, second in arrows(pipeline):
        between = list((before or {}).get(second, ()))
        chain(tasks[first], *([between] if between else []), tasks[second])
    return tasks
