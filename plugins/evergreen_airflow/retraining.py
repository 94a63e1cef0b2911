"""From a monitored partition to at most one training run."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import Asset, BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException

from evergreen.contract import DataError, Manifest, RunIdentity, Status, StepError
from evergreen.monitoring.proposal import addresses_of, proposal_of
from evergreen.pipelines import STEPS, dag_id, training_run
from evergreen.store import get_store, manifest_uri, read_manifest
from evergreen_airflow.outcome import airflow_error
from evergreen_airflow.partition import resolve_window

if TYPE_CHECKING:
    from airflow.sdk import Context


class ProposalSensor(BaseSensorOperator):
    """Waits until the run's partition is monitored; skips unless the checks propose a retraining.

    A run that an event started asks about the very run of ``<model>.monitor`` that published it; one by hand, or after
    an event that ``maintenance.reconcile`` repeated, about the newest that published the partition.

    Parameters
    ----------
    model
        Whose checks to ask.
    monitored
        The asset whose event says that a partition is monitored.
    poll_interval
        Seconds between two looks.
    timeout
        How long to wait for the event; then the task fails.

    Returns
    -------
    dict
        The addresses of the manifests of the checks, by step: what the guard reads.
    """

    def __init__(
        self,
        *,
        model: str,
        monitored: Asset,
        poll_interval: float = 30,
        timeout: timedelta = timedelta(hours=6),
        **kwargs: Any,
    ) -> None:
        super().__init__(mode="reschedule", poke_interval=poll_interval, timeout=timeout, inlets=[monitored], **kwargs)
        self.source = dag_id(model, "monitor")
        self.monitored = monitored

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """Look for the run that has monitored the partition, and what its checks propose."""
        partition = resolve_window(context).end.isoformat()
        run_id = self._monitoring_run(context, partition)
        if run_id is None:
            self.log.info("No run of %s has published %s yet.", self.source, partition)
            return False
        try:
            checks = [self._manifest(run_id, check) for check in STEPS["guard"].reads]
            proposal = proposal_of(*checks)
        except StepError as error:
            raise airflow_error(error) from None
        if not proposal.retrain:
            raise AirflowSkipException(proposal.why)
        self.log.info("Retraining is proposed: %s.", proposal.why)
        return PokeReturnValue(True, addresses_of(checks))

    def _monitoring_run(self, context: Context, partition: str) -> str | None:
        """Return the run that published a partition last: of those whose events started this run, else of all."""
        triggering = context["triggering_asset_events"].get(self.monitored, ())
        try:
            return self._newest(triggering, partition) or self._newest(
                context["inlet_events"][self.monitored], partition
            )
        except AirflowRuntimeError as error:  # it cannot tell while a run that follows is queued (apache/airflow#71360)
            self.log.warning("Airflow does not say which runs have published %s: %s", partition, error)
            return None

    def _newest(self, events: Iterable[Any], partition: str) -> str | None:
        runs = [
            (event.timestamp, event.source_run_id)
            for event in events
            if event.partition_key == partition and event.source_dag_id == self.source
        ]
        return max(runs)[1] if runs else None

    def _manifest(self, run_id: str, check: str) -> Manifest:
        store, run = get_store(), RunIdentity(dag_id=self.source, run_id=run_id, task_id=check)
        manifest = read_manifest(store, run)
        if manifest is None:
            raise DataError(
                f"{manifest_uri(store, run)}: the manifest is gone.", f"Run {self.source} for the day again."
            )
        return manifest


class TrainingTrigger(TriggerDagRunOperator):
    """Starts ``<model>.train`` once per report that the guard has let pass.

    The run has the name of the guard's report, which is the one that was judged and claimed.

    Parameters
    ----------
    model
        Whose training to start.
    guard_task
        Where the guard's answer comes from (XCom).
    """

    def __init__(self, *, model: str, guard_task: str, **kwargs: Any) -> None:
        answer = f"ti.xcom_pull(task_ids='{guard_task}')"
        super().__init__(
            trigger_dag_id=dag_id(model, "train"),
            trigger_run_id=training_run(f"{{{{ {answer}['report_id'] }}}}"),
            conf={"partition": f"{{{{ {answer}['partition'] }}}}"},
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
