"""From a drift report to at most one training run."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowSkipException

from evergreen.contract import Status
from evergreen.monitoring.proposal import read_proposal
from evergreen.store import get_store
from evergreen_airflow.partition import resolve_window
from evergreen_airflow.triggers import DriftReportTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class ProposalSensor(BaseSensorOperator):
    """Waits, deferred, for the drift report of the run's partition; skips unless it proposes a retraining.

    Parameters
    ----------
    model
        Whose reports to read.
    poll_interval
        Seconds between two looks of the triggerer.
    timeout
        How long to wait for the report; then the task fails.

    Returns
    -------
    dict
        The proposal: report_id, partition, retrain, why.
    """

    def __init__(
        self, *, model: str, poll_interval: float = 30, timeout: timedelta = timedelta(hours=6), **kwargs: Any
    ) -> None:
        super().__init__(poke_interval=poll_interval, timeout=timeout, **kwargs)
        self.model = model

    def execute(self, context: Context) -> dict[str, Any]:
        """Answer at once when the report is there, which saves the way through the triggerer; else defer."""
        partition = resolve_window(context).end
        if read_proposal(get_store(), self.model, partition) is None:
            self.log.info("No drift report of %s for %s yet: waiting for it.", self.model, partition)
            self.defer(
                trigger=DriftReportTrigger(self.model, partition.isoformat(), self.poke_interval),
                method_name="execute_complete",
                timeout=timedelta(seconds=self.timeout),
            )
        return self._answer(partition)

    def execute_complete(self, context: Context, event: dict[str, str]) -> dict[str, Any]:
        """Read the report the trigger has seen."""
        return self._answer(date.fromisoformat(event["partition"]))

    def _answer(self, partition: date) -> dict[str, Any]:
        proposal = read_proposal(get_store(), self.model, partition)
        if proposal is None or not proposal.retrain:
            raise AirflowSkipException(proposal.why if proposal else f"the report of {partition} was removed")
        self.log.info("Retraining is proposed: %s.", proposal.why)
        return proposal.model_dump(mode="json")


class TrainingTrigger(TriggerDagRunOperator):
    """Starts ``<model>.train`` once per report that the guard has let pass.

    The run has the name of the guard's report, which is the one that was judged and claimed: the sensor may have seen
    an earlier one, when the partition was checked anew in between.

    Parameters
    ----------
    model
        Whose training to start.
    proposal_task, guard_task
        Where the proposal's partition and the guard's answer come from (XCom).
    """

    def __init__(self, *, model: str, proposal_task: str, guard_task: str, **kwargs: Any) -> None:
        super().__init__(
            trigger_dag_id=f"{model}.train",
            trigger_run_id=f"drift__{{{{ ti.xcom_pull(task_ids='{guard_task}')['report_id'] }}}}",
            conf={"partition": f"{{{{ ti.xcom_pull(task_ids='{proposal_task}')['partition'] }}}}"},
            logical_date=None,
            skip_when_already_exists=True,
            **kwargs,
        )
        self.guard_task = guard_task

    def execute(self, context: Context) -> None:
        """Skip with the guard's reason when it refused; else trigger."""
        guard = context["ti"].xcom_pull(task_ids=self.guard_task)
        if guard["status"] == Status.REFUSED:
            raise AirflowSkipException(guard["reason"])
        super().execute(context)
