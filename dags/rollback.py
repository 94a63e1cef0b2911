"""Lets an earlier champion serve again, when the present one turns out to be bad.

**Fires** by hand only, with a form: the version (empty: the champion before the present one), the reason, and the
model's name as a confirmation. `evergreen rollback <model>` does the same from a shell.

**Publishes** nothing; it moves the alias `champion` and writes down who did it and why: `evergreen history <model>`.

#### Triage notes

- *Fails (configuration)*: no earlier champion, no such version, one that never served, or one that serves already; the
  message names those to choose from. A rollback goes back only: what is to be new goes through `<model>.train`.
- *Clearing promote of the training that made the bad version* does not bring it back: it is refused with the reason.
- *The alias was moved by hand*, and every load is refused: without a version the form puts back the champion that the
  audit log has; with that of the alias it takes it over. Both are on record with the reason.
- *After it*: the next challenger is compared with the champion that serves again. Cool-down and new labels count as
  before, so a retraining that cannot wait is a run of `<model>.train` by hand.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param

from evergreen_airflow.dag_defaults import Tag, dag_options, form, models
from evergreen_airflow.steps import step_tasks

for spec in models():
    with DAG(
        f"{spec.name}.rollback",
        schedule=None,
        **{**dag_options(spec, Tag.ROLLBACK, __doc__), "max_active_runs": 1},
    ) as dag:
        params = {
            "version": "{{ params.version or '' }}",
            "reason": "{{ params.reason }}",
            "by": "{{ dag_run.triggering_user_name or dag_run.run_id }}",
        }
        step_tasks(spec, "rollback", rollback={"params_json": params})
        form(
            dag,
            version=Param(
                default=None,
                type=["null", "string"],
                pattern="^([0-9]+|none)$",
                title="Version",
                description="One that was champion, or none. Empty: the one before; during a rollout, the champion.",
            ),
            reason=Param(type="string", minLength=1, title="Reason", description="Kept in the audit log."),
            confirm=Param(type="string", const=spec.name, title="Confirmation", description=f"Write {spec.name}."),
        )
