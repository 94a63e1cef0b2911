"""Starts what should have followed from a published partition, where Airflow has not.

Airflow tells of an event only the pipelines that are unpaused at that moment. A partition that was published while
`<model>.features` was paused, or before a new model's files were read, leads to no run by itself. This DAG compares
the events of every asset with the runs that followed from them, and publishes again those that led to none; the
scheduler then starts one run for each partition, as it should have at first.

**Fires** every ten minutes; by hand, with how far to look back in the form, and *dry run* to see what it would do.

**Publishes** partitions of `<model>.published`, `<model>.features` and `<model>.monitored` again, each at most once a
day and only if its newest event led to no run. The event names the ones it repeats.

#### Triage notes

- *Skipped*: every partition was followed, or the pipeline that should is paused or has runs in its queue: those are
  looked at the next time.
- *It publishes now and then*: a pipeline was paused and resumed. If none was, the scheduler's log of that time and the
  graph of the asset say what became of the event.
- *A pipeline was paused for longer than two weeks*: trigger it by hand with more days in the form. Bulk history that
  came through `<model>.backfill` has no events, and nothing follows from it.
- *A run that was deleted comes back*: its partition is published, and nothing has followed from it. Mark it instead.
- *Failed*: Airflow's API server did not say which events there are; the message names the asset.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from evergreen_airflow.dag_defaults import maintenance_options
from evergreen_airflow.reconciler import PartitionReconciler

with DAG(
    "maintenance.reconcile",
    description="Starts what should have followed from published partitions",
    params={
        "days": Param(14, type="integer", minimum=1, maximum=3660, title="Days", description="How far to look back."),
        "minutes": Param(
            5, type="integer", minimum=0, title="Minutes", description="How long Airflow may take to start a run."
        ),
        "dry_run": Param(False, type="boolean", title="Dry run", description="Say only what would be published again."),
    },
    schedule=timedelta(minutes=10),
    **maintenance_options(__doc__),
):
    PartitionReconciler(task_id="reconcile")
