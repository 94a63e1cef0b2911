"""Brings what the model's servers have answered, and what became of it, into the lake's tables `served` and `feedback`.

**Fires** on the model's cron, for the day before; by hand, with a partition, or a first and a last day, in the form.
Each run also looks at the `serving.log_late_days` days before its own: one with files that came since is read again.

**Publishes** no asset. Days written longer ago than `serving.log_retention_days` are removed, from the tables and
from the artifact store.

#### Triage notes

- *Skipped*: no server has written anything new for these days.
- *`files_set_aside` in the result*: a file that is no Parquet, or has a column of another type, lies under `set_aside/`
  in the artifact store; the rest of the day was ingested. Look at the server that wrote it.
- *`rows_set_aside`*: rows that no server writes, by reason; they lie there too.
- *`dropped` is not 0*: servers had no room to log these answers; look at their disk and at `serving.log`.
- Running a partition again writes nothing unless its files have changed.
"""

from __future__ import annotations

from airflow.sdk import DAG

from evergreen_airflow.dag_defaults import Tag, dag_options, daily, form, models, optional_day_param, partition_param
from evergreen_airflow.steps import step_tasks

for spec in models():
    with DAG(
        f"{spec.name}.ingest_predictions",
        schedule=daily(spec),
        **dag_options(spec, Tag.PREDICTION, __doc__),
    ) as dag:
        step_tasks(spec, "ingest_predictions")
        form(
            dag,
            partition=partition_param(),
            start=optional_day_param("First day", "Of a range, in place of a partition."),
            end=optional_day_param("Last day", f"Included; at most {spec.schedule.maximum_backfill_days} days in all."),
        )
