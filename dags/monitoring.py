"""Compares the newest inputs with what the champion learned from, and measures the champion once labels are known.

**Fires** for every partition whose features are ready; by hand, with a partition in the form.

**Publishes** the partition of `<model>.monitored`, whatever the verdict. The reports (HTML and JSON) are in the
artifact store under `reports/<model>/<partition>/`.

#### Triage notes

- *Skipped, "no champion"*: nothing is in production yet; train the first model with `<model>.train`.
- *Verdict "insufficient"*: fewer rows than `drift.minimum_rows`; small samples drift by chance, so there is no verdict.
- *Drift is not an incident*: it only proposes a retraining. Look at the report, and at `<model>.retrain` for what
  came of it.
"""

from __future__ import annotations

from airflow.sdk import DAG, chain
from evergreen_airflow.operator import StepOperator

from evergreen.catalog import load_models
from evergreen_airflow.assets import features, monitored
from evergreen_airflow.dag_defaults import Tag, dag_options, each_partition_of, partition_param

for spec in load_models():
    with DAG(
        f"{spec.name}.monitor",
        schedule=each_partition_of(features(spec)),
        params={"partition": partition_param()},
        **dag_options(spec, Tag.MONITORING, __doc__),
    ):
        check_drift = StepOperator(step="check_drift", spec=spec, profile=spec.resources.features)
        check_performance = StepOperator(
            step="check_performance",
            spec=spec,
            upstream={"check_drift": "check_drift"},
            profile=spec.resources.features,
            outlets=[monitored(spec)],
        )
        chain(check_drift, check_performance)
