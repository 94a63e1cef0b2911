"""Airflow's callbacks that send alerts, and which tasks have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from evergreen.spec import AlertEvent, ModelSpec
from evergreen_airflow.alerts.findings import RESULTS, approval_waits, result_of, task_failed
from evergreen_airflow.alerts.message import Alert, Finding

if TYPE_CHECKING:
    from airflow.sdk import Context


class AlertNotifier(BaseNotifier):
    """Tells a model's channels what there is to tell of a task.

    It runs where the task ends: in its own process; or in the DAG processor, when a worker died or the scheduler ended
    the task. The triggerer runs no callback of a success, so a step with one ends in a worker
    (`StepOperator.conclusion`).

    Parameters
    ----------
    spec
        The model.
    find
        What there is to tell of a task, given its context; None: nothing.
    """

    def __init__(self, spec: ModelSpec, find: Callable[[Context, ModelSpec], Finding | None]) -> None:
        super().__init__()
        self.spec = spec
        self.find = find

    def notify(self, context: Context) -> None:
        """Find out what there is to tell, and send it."""
        from evergreen_airflow.alerts.delivery import deliver  # no parse pays for it

        finding = self.find(context, self.spec)
        if finding is not None:
            deliver(Alert(self.spec, finding, context["ti"].log_url))


def failure_callback(spec: ModelSpec) -> dict[str, Any]:
    """Return the default argument of a model's DAGs that tells of a task which has failed for good."""
    wanted = _wanted(spec, AlertEvent.TASK_FAILED)
    return {"on_failure_callback": AlertNotifier(spec, task_failed)} if wanted else {}


def result_callback(spec: ModelSpec, step: str) -> dict[str, Any]:
    """Return the argument of a step's task that tells what the step has found; none if nobody wants to know."""
    wanted = any(_wanted(spec, row.event) for row in RESULTS.get(step, ()))
    return {"on_success_callback": AlertNotifier(spec, result_of)} if wanted else {}


def approval_callback(spec: ModelSpec) -> dict[str, Any]:
    """Return the argument of the task that asks a person, which tells that it does."""
    wanted = _wanted(spec, AlertEvent.APPROVAL_WAITS)
    return {"on_execute_callback": AlertNotifier(spec, approval_waits)} if wanted else {}


def _wanted(spec: ModelSpec, event: AlertEvent) -> bool:
    return any(channel.takes(event) for channel in spec.alerts)
