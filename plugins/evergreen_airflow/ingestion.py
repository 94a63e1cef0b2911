"""From rows that a person has released to a run that publishes them."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator

from evergreen.pipelines import dag_id


class IngestionTrigger(TriggerDagRunOperator):
    """Starts ``<model>.ingest`` for the partition of a release, once for each record of the audit log.

    Parameters
    ----------
    model
        Whose partition to ingest again.
    release_task
        Where the partition and the number of the record come from (XCom).
    """

    def __init__(self, *, model: str, release_task: str, **kwargs: Any) -> None:
        answer = f"ti.xcom_pull(task_ids='{release_task}')"
        super().__init__(
            trigger_dag_id=dag_id(model, "ingest"),
            trigger_run_id=f"release__{{{{ {answer}['event'] }}}}",
            conf={"partition": f"{{{{ {answer}['partition'] }}}}"},
            logical_date=None,
            skip_when_already_exists=True,
            **kwargs,
        )
