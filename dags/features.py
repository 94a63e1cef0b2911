"""Builds the feature tables of one partition and brings the newest values into the online store.

**Fires** for every published partition of the model; by hand, with a partition in the form.

**Publishes** the partition of `<model>.features`.

#### Triage notes

- *build_features skipped*: nothing is published for the partition. Ingest it: that starts this pipeline again.
- *build_features fails (data)*: what is published does not fit the SQL in `include/models/<model>/features`; the
  message names the file. Correct the source or the SQL, then clear.
- *materialize fails (temporary)*: the online store did not answer; it retries by itself.
- Running a partition again replaces its rows and never moves the online store back to older values.
"""

from __future__ import annotations

from airflow.sdk import DAG

from evergreen_airflow.assets import features, published
from evergreen_airflow.dag_defaults import Tag, dag_options, each_partition_of, form, models, partition_param
from evergreen_airflow.steps import step_tasks

for spec in models():
    with DAG(
        f"{spec.name}.features",
        schedule=each_partition_of(published(spec)),
        **dag_options(spec, Tag.FEATURES, __doc__),
    ) as dag:
        step_tasks(spec, "features", publishes=features(spec))
        form(dag, partition=partition_param())
