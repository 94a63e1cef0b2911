"""Brings a whole range of days into the lake, the feature tables and the online store: the fast path for history.

One pod per step takes all days, instead of one pod per day.

**Fires** by hand only, with the first and the last day in the form.

**Publishes** no partition events: years of history would start years of monitoring and proposals. To replay days
with everything downstream, run `airflow backfill create --dag-id <model>.ingest` instead. It never trains and never
moves a model alias.

#### Triage notes

- *Refused at once*: the last day is before the first one, or there are more days than
  `schedule.maximum_backfill_days` of model.yaml allows; the message says so.
- *Days the source has nothing for* are left out; the run is skipped only when it has nothing for the whole range.
- Running a range again replaces its partitions; clearing the failed task is enough.
"""

from __future__ import annotations

from airflow.sdk import DAG

from evergreen_airflow.dag_defaults import Tag, dag_options, day_param, form, models
from evergreen_airflow.steps import step_tasks

for spec in models():
    with DAG(
        f"{spec.name}.backfill",
        schedule=None,
        **{**dag_options(spec, Tag.BACKFILL, __doc__), "max_active_runs": 1},
    ) as dag:
        step_tasks(
            spec, "backfill", ingest={"params_json": {"triggered_by": "{{ dag_run.triggering_user_name or '' }}"}}
        )
        form(
            dag,
            start=day_param("First day", f"Not before {spec.schedule.start}."),
            end=day_param("Last day", f"Included; at most {spec.schedule.maximum_backfill_days} days in all."),
        )
