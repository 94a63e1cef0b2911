"""Deletes step pods that nobody waits for any more.

Every pod is deleted by the task that waits for it. This DAG deletes what is left when that was not possible: its task
has ended or was deleted, or its deadline is over. A pod whose task may still come back for it is never touched.

**Fires** every ten minutes; by hand, with *dry run* in the form, to see what it would delete. Where steps run as
processes it skips: they end with their tasks.

**Publishes** nothing; the names of the deleted pods are its XCom.

#### Triage notes

- *It deletes pods now and then*: look at what ended their tasks; a worker or the API server was down, or somebody
  deleted a run. The log names task and reason.
- *Failed, 403*: the service account of Airflow's tasks may not list or delete pods in `EVERGREEN_NAMESPACE`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from evergreen_airflow.dag_defaults import maintenance_options
from evergreen_airflow.reaper import PodReaper

with DAG(
    "maintenance.reap_pods",
    description="Deletes step pods that nobody waits for",
    params={"dry_run": Param(False, type="boolean", title="Dry run", description="Say only what would be deleted.")},
    schedule=timedelta(minutes=10),
    **maintenance_options(__doc__),
):
    PodReaper(task_id="reap")
