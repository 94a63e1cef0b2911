"""Tells a model's channels of what no task can tell: a partition that is late, a champion moved past the pipelines.

The channels and what each is told are `alerts` in model.yaml, how late is late is `schedule.deadline_hours`;
docs/alerts.md says how to set them up.

**Fires** every ten minutes; by hand.

**Publishes** nothing; what it found is its XCom. Each matter goes through each channel once.

#### Triage notes

- *Skipped*: nothing is late, and no champion was moved past the pipelines.
- *A partition is late and nobody was told*: the model has no `schedule.deadline_hours`, or its `<model>.ingest` is
  paused; else the log says which channel did not take it. It is tried again every ten minutes.
- *Failed, or no runs*: nobody is told of late partitions meanwhile; what tasks tell does not depend on it.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from evergreen_airflow.alerts.watch import ModelWatch
from evergreen_airflow.dag_defaults import maintenance_options

with DAG(
    "maintenance.watch",
    description="Tells of late partitions and of champions moved past the pipelines",
    schedule=timedelta(minutes=10),
    **maintenance_options(__doc__),
):
    ModelWatch(task_id="watch")
