"""Trains a challenger, judges it against the champion and promotes it when it is better beyond noise.

The training window ends before the evaluation window of the given partition, so neither model has seen what both
are judged on.

**Fires** from `<model>.retrain`, once per drift report (run `drift__<report id>`); by hand, with a partition in the
form. It has no schedule, and a backfill never starts it.

**Publishes** a version in the MLflow registry, the alias `champion` when promoted, and the decision with its
evidence in the audit log: `evergreen history <model>`.

#### Triage notes

- *gate green, all after it skipped*: "not justified" is a result. The gate's XCom says why.
- *assemble skipped*: too few labelled rows in a window, as early in a model's life; its reason counts them. Publish the
  missing partitions, or change `windows`.
- *train fails (out of memory)*: it is tried once more on the next larger profile; then raise `resources.training`.
- *approve waits (deferred)*: a person must approve under *Required actions*; no answer in time is a rejection, and
  skips promote. A waiting run holds up no later training. *approve_again* asks another person, who must approve too.
- *promote fails, nobody has answered approve*: it was marked as a success by hand, which approves nothing. Clear it.
- *approve skipped*: a newer challenger superseded this one; its question is the one to answer. `evergreen history`
  names it.
- *promote refused*: the champion was moved since the decision, by another promotion or a rollback. Train again.
- *evaluate or promote fails, the audit log has another champion*: somebody has moved the alias past the promotion. Find
  out who; `evergreen rollback <model>` puts it back or takes it over, on record.
- Clearing `train` resumes from the last checkpoint of the same run; it never starts a second registry version.
"""

from __future__ import annotations

from airflow.sdk import DAG

from evergreen_airflow.approval import active_trainings, approval
from evergreen_airflow.dag_defaults import TRAINING_POOL, Tag, dag_options, form, models, partition_param
from evergreen_airflow.steps import step_tasks

for spec in models():
    with DAG(
        f"{spec.name}.train",
        schedule=None,
        **{**dag_options(spec, Tag.TRAINING, __doc__), "max_active_runs": active_trainings(spec)},
    ) as dag:
        step_tasks(
            spec,
            "train",
            train={"pool": TRAINING_POOL},
            refit={"pool": TRAINING_POOL},
            assemble={"params_json": {"triggered_by": "{{ dag_run.triggering_user_name or '' }}"}},
            gate={"params_json": {"requested_by": "{{ dag_run.triggering_user_name or dag_run.run_id }}"}},
            before={"promote": approval(spec)},
        )
        form(dag, partition=partition_param())
