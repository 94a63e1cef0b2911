"""Compares the newest inputs with what the champion learned from, and measures the champion once labels are known.

**Fires** for every partition whose features are ready; by hand, with a partition in the form.

**Publishes** the partition of `<model>.monitored`, whatever the verdict. The reports (HTML and JSON) are in the
artifact store under `reports/<model>/<partition>/<run>/`.

#### Triage notes

- *check_performance skipped*: there is no champion yet, or too few labels that it has not learned from; the reason
  is in the log. Drift is judged all the same.
- *Verdict "insufficient"*: fewer rows than `drift.minimum_rows`; small samples drift by chance, so there is no verdict.
- *`concept_columns` of check_performance*: the label has another relation to these inputs than the champion learned.
- *`evidence` of the result*: whether what was served was judged, or offline rows, and why.
- *`skew` is "skewed"*: features were served with other or older values than offline; `skew_why` names the worst.
- *Drift is not an incident*: it only proposes a retraining. Look at the report, and at `<model>.retrain` for what
  came of it.
"""

from __future__ import annotations

from airflow.sdk import DAG, TriggerRule

from evergreen_airflow.assets import PartitionDone, features, monitored
from evergreen_airflow.dag_defaults import Tag, dag_options, each_partition_of, form, models, partition_param
from evergreen_airflow.steps import step_tasks

for spec in models():
    with DAG(
        f"{spec.name}.monitor",
        schedule=each_partition_of(features(spec)),
        **dag_options(spec, Tag.MONITORING, __doc__),
    ) as dag:
        whatever = {"trigger_rule": TriggerRule.ALL_DONE}  # inputs are judged whatever became of the performance
        checks = step_tasks(spec, "monitor", check_drift=whatever)
        done = PartitionDone(
            task_id="done",
            outlets=[monitored(spec)],
            trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,  # performance waits for labels; drift does not
        )
        list(checks.values()) >> done
        form(dag, partition=partition_param())
