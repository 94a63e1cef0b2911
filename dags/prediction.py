"""Predicts every row of a partition with the champion, in bulk, into the lake's table `predictions`.

**Fires** for every partition whose features are ready; by hand, with a partition, or a first and a last day, in the
form. The form may name a version other than the champion; which one predicted stands in every row. It may also name a
file of rows below `entities/<model>/` in the artifact store, which is predicted into a file below `predicted/<model>/`.

**Publishes** no asset. The predictions are in the table `predictions`, replaced by partition in one commit.

#### Triage notes

- *Skipped*: there is no champion yet, or there are no examples of that partition.
- *Fails (configuration), the audit log has another champion*: somebody has moved the alias past the promotion; nothing
  is loaded. `evergreen rollback <model>` puts it back or takes it over, on record.
- *Fails (data), inputs that the model does not have*: model.yaml has lost an input of the champion. Put it back until a
  version without it is promoted.
- *Fails (data), a file, row and column*: the file that the form names does not fit the model; correct the file.
- Running a partition again replaces its predictions; the same version on the same data writes nothing.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param

from evergreen_airflow.assets import features
from evergreen_airflow.dag_defaults import (
    Tag,
    dag_options,
    each_partition_of,
    form,
    models,
    optional_day_param,
    partition_param,
)
from evergreen_airflow.steps import step_tasks

for spec in models():
    with DAG(
        f"{spec.name}.predict",
        schedule=each_partition_of(features(spec)),
        **dag_options(spec, Tag.PREDICTION, __doc__),
    ) as dag:
        params = {"version": "{{ params.version or '' }}", "file": "{{ params.file or '' }}"}
        step_tasks(spec, "predict", predict={"params_json": params})
        form(
            dag,
            partition=partition_param(),
            start=optional_day_param("First day", "Of a range, in place of a partition."),
            end=optional_day_param("Last day", f"Included; at most {spec.schedule.maximum_backfill_days} days in all."),
            file=Param(
                default=None,
                type=["null", "string"],
                pattern=rf"^(.*/)?entities/{spec.name}/[^/].*\.(parquet|csv)$",
                title="File",
                description=f"Of rows to predict, below entities/{spec.name}/ in the artifact store, in place of days.",
            ),
            version=Param(
                default=None,
                type=["null", "string"],
                pattern="^[0-9]+$",
                title="Version",
                description="A registered version. Empty: the champion.",
            ),
        )
