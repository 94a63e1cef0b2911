"""Looks after a challenger that answers beside the champion: step by step it gets more, or the champion stays.

**Fires** every `delivery.check_minutes` of model.yaml, whatever its `delivery.strategy` is now: a rollout that is under
way is looked after to its end. And by hand, with a form: *pause*, *resume*, *finish* and *roll back* are a person's
decisions, each with its reason; they do not wait for a check.

**Publishes** nothing; when a rollout has gone well it moves the alias `champion`. Every change is in `evergreen history
<model>`; what a check that changes nothing has measured is in its manifest.

#### Triage notes

- *Skipped*: no rollout is under way, or another check is at work; no pod was started to find that out.
- *A rollout does not go on*: the manifest of `rollout` says what it waits for (`waits_for`): requests, entities,
  minutes or outcomes. A rollout that stays undecided ends after `delivery.maximum_days`, and the champion stays.
- *It was rolled back*: the alert and the history say by which guardrail, with the figures. Clearing `promote` does not
  begin it again: a new training does.
- *Fails (configuration)*: the alias was moved by hand, or the challenger cannot be loaded; the message says which.
- *Something is wrong now*: choose *roll back* in the form, or run `evergreen rollback <model>`: both end it at once.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param, chain

from evergreen_airflow.dag_defaults import Tag, dag_options, form, models
from evergreen_airflow.delivery import RolloutUnderWay
from evergreen_airflow.steps import step_tasks

for spec in models():
    with DAG(
        f"{spec.name}.deliver",
        schedule=timedelta(minutes=spec.delivery.check_minutes),
        **dag_options(spec, Tag.DELIVERY, __doc__),
    ) as dag:
        params = {
            "action": "{{ params.action }}",
            "reason": "{{ params.reason or '' }}",
            "by": "{{ dag_run.triggering_user_name or dag_run.run_id }}",
        }
        under_way = RolloutUnderWay(task_id="is_under_way", model=spec.name)
        chain(under_way, step_tasks(spec, "deliver", rollout={"params_json": params})["rollout"])
        form(
            dag,
            action=Param(
                "check",
                type="string",
                enum=["check", "pause", "resume", "finish", "roll_back"],
                title="Action",
                description="What is to become of the rollout; a check decides by what was answered.",
            ),
            reason=Param(
                default=None,
                type=["null", "string"],
                title="Reason",
                description="Kept in the audit log.",
            ),
            confirm=Param(
                default=None,
                type=["null", "string"],
                title="Confirmation",
                description=f"To finish or roll back, write {spec.name}.",
            ),
        )
