"""Brings one daily partition of every source into the lake, checks it and publishes it.

**Fires** on the model's cron, for the day before; by hand, with a partition in the form or a partition key
over REST; by `airflow backfill create`, for any range of days. A day missed while paused is not caught up by itself:
backfill it. `--to-date` is a moment, so give the day after: from 2013-07-01 to 2013-07-04 is three partitions.

**Publishes** the partition of `<model>.published`; its event carries the snapshot that holds the rows.
Every downstream pipeline of the model follows from that event.

#### Triage notes

- *Skipped, "The sources have nothing"*: not for that day, or not yet. Run the partition again once they have.
- *validate fails (data)*: the Great Expectations report named in the log says which expectation failed on which
  column. Fix the source, or the suite in `include/models/<model>/expectations`, then clear `ingest` and downstream.
- *Rows in quarantine*: the run is green; the rows and their reasons are in the table `<source>_quarantine`.
- Running a partition again replaces it and publishes it again, so everything downstream is refreshed too.
"""

from __future__ import annotations

from airflow.sdk import DAG

from evergreen_airflow.assets import published
from evergreen_airflow.dag_defaults import Tag, dag_options, daily, form, models, partition_param
from evergreen_airflow.steps import step_tasks

for spec in models():
    with DAG(
        f"{spec.name}.ingest",
        schedule=daily(spec),
        **dag_options(spec, Tag.INGESTION, __doc__),
    ) as dag:
        step_tasks(spec, "ingest", publishes=published(spec))
        form(dag, partition=partition_param())
