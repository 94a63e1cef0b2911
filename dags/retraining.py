"""Decides whether a monitored partition leads to a training, and starts it at most once.

The sensor finds the run of `<model>.monitor` and skips unless its checks propose a retraining, the guard decides (it
checks the reports, the cool-down and the new labels), the trigger starts `<model>.train`.

**Fires** for every monitored partition; by hand, with a partition in the form.

**Publishes** nothing. It starts at most one run of `<model>.train` per report, called `drift__<report id>`, and does
not wait for it.

#### Triage notes

- *proposal skipped*: the inputs are stable, or there are too few rows to say; the reason is in the log.
- *proposal up for reschedule for long*: that partition was not monitored. Run `<model>.monitor` for it.
- *trigger_training skipped*: the guard refused (cool-down, too few new labels), or that report has already led to a
  training. To train anyway, run `<model>.train` by hand.
"""

from __future__ import annotations

from airflow.sdk import DAG, chain

from evergreen_airflow.assets import monitored
from evergreen_airflow.dag_defaults import Tag, dag_options, each_partition_of, form, models, partition_param
from evergreen_airflow.retraining import ProposalSensor, TrainingTrigger
from evergreen_airflow.steps import step_tasks

for spec in models():
    with DAG(
        f"{spec.name}.retrain",
        schedule=each_partition_of(monitored(spec)),
        **dag_options(spec, Tag.RETRAINING, __doc__),
    ) as dag:
        proposal = ProposalSensor(task_id="proposal", model=spec.name, monitored=monitored(spec))
        guard = step_tasks(spec, "retrain", guard={"upstream": proposal.output})["guard"]
        trigger_training = TrainingTrigger(task_id="trigger_training", model=spec.name, guard_task="guard")
        chain(proposal, guard, trigger_training)
        form(dag, partition=partition_param())
