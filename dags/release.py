"""Lets rows out of quarantine that are right, although they do not meet what is expected of them.

The release is an exemption on record: of rows by their content, from the expectations that they fail, by whom and why.
Then the partition is ingested again, and `publish` lets the rows pass, now and whenever that day runs again.

**Fires** by hand only, with a form: the source, the partition, why, and, if not all rows are meant, for which reason
they are in quarantine. `evergreen quarantine show <model>` lists rows and reasons; `evergreen quarantine release` does
the same from a shell.

**Publishes** nothing itself; the run of `<model>.ingest` that it starts, `release__<record>`, publishes the partition.

#### Triage notes

- *Fails (configuration)*: no such source, no rows of that day in quarantine, none for that reason, or none that only
  warnings keep back; the message names what there is. What the contract refuses (a type, a key, another day) cannot be
  released, nor a day that a critical expectation refuses: correct the source or the expectation.
- *trigger_ingest skipped*: this release has had its run. Clear that run to ingest the day once more.
- *The run of `<model>.ingest` waits*: the pipeline is paused.
- *The rows are in quarantine again*: the source gives other rows now than were released, or they fail more than that.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param, chain

from evergreen_airflow.dag_defaults import Tag, dag_options, day_param, form, models
from evergreen_airflow.ingestion import IngestionTrigger
from evergreen_airflow.steps import step_tasks

for spec in models():
    with DAG(
        f"{spec.name}.release",
        schedule=None,
        **{**dag_options(spec, Tag.RELEASE, __doc__), "max_active_runs": 1},
    ) as dag:
        params = {
            "source": "{{ params.source }}",
            "reason": "{{ params.reason or '' }}",
            "why": "{{ params.why }}",
            "by": "{{ dag_run.triggering_user_name or dag_run.run_id }}",
        }
        release = step_tasks(spec, "release", release={"params_json": params})["release"]
        trigger_ingest = IngestionTrigger(task_id="trigger_ingest", model=spec.name, release_task="release")
        chain(release, trigger_ingest)
        form(
            dag,
            source=Param(type="string", enum=[source.name for source in spec.sources], title="Source"),
            partition=day_param("Partition", "The day whose rows are to be released."),
            reason=Param(
                default=None,
                type=["null", "string"],
                title="Reason",
                description="As the quarantine names it. Empty: all rows of the day that only warnings keep back.",
            ),
            why=Param(type="string", minLength=1, title="Why", description="Kept in the audit log."),
        )
