"""What the DAG files yield: which DAGs, with which tasks, schedules, assets and forms."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, CronPartitionTimetable, PartitionedAssetTimetable
from airflow.sdk.exceptions import ParamValidationError
from dag_policy import MAINTENANCE, Parse

from evergreen.catalog import load_model
from evergreen.pipelines import PIPELINES, QUESTIONS, arrows
from evergreen.settings import PROJECT_ROOT
from evergreen_airflow.dag_defaults import form, partition_param
from evergreen_airflow.steps import step_tasks

sys.path.insert(0, str(PROJECT_ROOT / "tests" / "benchmarks"))
from parse import TASKS

MODEL = "flight_delay"


def outlets(dag: DAG) -> dict[str, list[str]]:
    """Return the names of the assets each task publishes."""
    return {task.task_id: [asset.name for asset in task.outlets] for task in dag.tasks if task.outlets}


def order(dag: DAG) -> list[str]:
    """Return the task ids of a DAG that is one chain."""
    tasks = dag.topological_sort()
    assert all(len(task.downstream_task_ids) <= 1 for task in tasks)
    return [task.task_id for task in tasks]


def test_one_dag_per_pipeline_and_model(parse: Parse, two_models: Path) -> None:
    expected = {f"{model}.{pipeline}" for model in (MODEL, "taxi_fare") for pipeline in PIPELINES}
    assert set(parse(two_models)) == expected | MAINTENANCE


def test_the_benchmark_of_parsing_compares_with_as_many_tasks(dags: dict[str, DAG]) -> None:
    assert {pipeline: len(dags[f"{MODEL}.{pipeline}"].tasks) for pipeline in PIPELINES} == TASKS


@pytest.mark.parametrize("strategy", ["direct", "canary"])
def test_a_rollout_is_looked_after_whatever_model_yaml_says_by_now(
    parse: Parse, two_models: Path, strategy: str
) -> None:
    path = two_models / MODEL / "model.yaml"
    delivery = {"strategy": strategy, "check_minutes": 7}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "delivery": delivery}))
    dag = parse(two_models)[f"{MODEL}.deliver"]
    assert dag.schedule == timedelta(minutes=7)
    assert dag.max_active_runs > 2  # a check that reads, one that waits for it, and a person


def test_an_empty_models_folder_yields_no_pipeline(parse: Parse, tmp_path: Path) -> None:
    assert set(parse(tmp_path)) == MAINTENANCE


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_steps_read_the_manifests_the_contract_names(dags: dict[str, DAG], pipeline: str) -> None:
    steps = [task for task in dags[f"{MODEL}.{pipeline}"].topological_sort() if task.task_type == "StepOperator"]
    rows = {row.name: row for row in PIPELINES[pipeline]}
    assert [task.task_id for task in steps] == [task.step for task in steps] == list(rows)
    for task in steps:
        row = rows[task.step]
        if task.step == "guard":  # it reads what another pipeline left: the sensor says which run's
            assert (task.upstream_steps.operator.task_id, task.upstream_task_ids) == ("proposal", {"proposal"})
            continue
        assert task.upstream_steps == {step: step for step in row.reads}, task.task_id
        assert set(task.upstream_steps) <= task.get_flat_relative_ids(upstream=True), task.task_id
        assert task.profile == getattr(load_model(MODEL).resources, row.resources), task.task_id
        assert task.execution_timeout == row.time_limit, task.task_id
        before = {first for first, second in arrows(pipeline) if second == task.step}
        assert before <= task.get_flat_relative_ids(upstream=True), task.task_id


def test_an_option_of_a_step_that_the_pipeline_does_not_have_is_refused() -> None:
    with (
        DAG("misspelt", schedule=None),
        pytest.raises(ValueError, match=r"train has no step trian: see"),
    ):
        step_tasks(load_model(MODEL), "train", trian={"pool": "training"})
    with DAG("misspelt", schedule=None), pytest.raises(ValueError, match=r"ingest has no step promote"):
        step_tasks(load_model(MODEL), "ingest", before={"promote": []})


def test_ingest_works_on_the_day_before_its_tick(dags: dict[str, DAG]) -> None:
    dag = dags[f"{MODEL}.ingest"]
    assert isinstance(dag.timetable, CronPartitionTimetable)
    assert (dag.timetable.expression, dag.timetable.run_offset) == ("0 6 * * *", -1)
    assert dag.timetable.key_format == "%Y-%m-%d"
    assert outlets(dag) == {"publish": [f"{MODEL}.published"]}


@pytest.mark.parametrize(
    ("pipeline", "listens_to", "publishes"),
    [
        ("features", "published", {"materialize": [f"{MODEL}.features"]}),
        ("predict", "features", {}),
        ("monitor", "features", {"done": [f"{MODEL}.monitored"]}),
        ("retrain", "monitored", {}),
    ],
)
def test_the_cascade(dags: dict[str, DAG], pipeline: str, listens_to: str, publishes: dict[str, list[str]]) -> None:
    dag = dags[f"{MODEL}.{pipeline}"]
    assert isinstance(dag.timetable, PartitionedAssetTimetable)
    assert isinstance(dag.timetable.asset_condition, Asset)
    assert dag.timetable.asset_condition.name == f"{MODEL}.{listens_to}"
    assert outlets(dag) == publishes


def test_a_skipped_performance_check_still_leads_to_a_proposal(dags: dict[str, DAG]) -> None:
    done = dags[f"{MODEL}.monitor"].get_task("done")
    assert done.upstream_task_ids == {"check_drift", "check_performance"}
    assert done.trigger_rule == "none_failed_min_one_success"


def test_inputs_are_judged_whatever_becomes_of_the_performance(dags: dict[str, DAG]) -> None:
    drift = dags[f"{MODEL}.monitor"].get_task("check_drift")
    assert drift.upstream_task_ids == {"check_performance"}
    assert drift.trigger_rule == "all_done"


def test_backfill_publishes_no_events_and_never_trains(dags: dict[str, DAG]) -> None:
    dag = dags[f"{MODEL}.backfill"]
    assert outlets(dag) == {}
    assert not {"train", "register", "promote", "trigger_training"} & set(dag.task_ids)


def test_training_is_serial_and_takes_a_place_in_its_pool(dags: dict[str, DAG]) -> None:
    dag = dags[f"{MODEL}.train"]
    assert dag.max_active_runs == 1
    assert [task.task_id for task in dag.tasks if task.pool == "training"] == ["train", "refit"]


def test_a_training_that_waits_for_a_person_holds_up_no_other(parse: Parse, two_models: Path) -> None:
    parsed = parse(two_models)
    assert (parsed[f"{MODEL}.train"].max_active_runs, parsed["taxi_fare.train"].max_active_runs) == (1, 4)


def test_a_rollback_asks_for_a_reason_and_a_confirmation(dags: dict[str, DAG]) -> None:
    params = dags[f"{MODEL}.rollback"].params
    assert params.get_param("version").resolve() is None
    assert params.get_param("version").resolve("3") == "3"
    assert params.get_param("confirm").resolve(MODEL) == MODEL
    for name, value in (("version", "latest"), ("reason", ""), ("confirm", "yes")):
        with pytest.raises(ParamValidationError):
            params.get_param(name).resolve(value)


def test_a_release_asks_for_source_day_and_reason_and_leads_to_an_ingestion(dags: dict[str, DAG]) -> None:
    dag = dags[f"{MODEL}.release"]
    assert dag.params.get_param("source").resolve("weather") == "weather"
    assert dag.params.get_param("reason").resolve() is None
    for name, value in (("source", "sales"), ("source", None), ("partition", "May"), ("partition", None), ("why", "")):
        with pytest.raises(ParamValidationError):
            dag.params.get_param(name).resolve(value)
    assert order(dag) == ["release", "trigger_ingest"]
    trigger = dag.get_task("trigger_ingest")
    assert trigger.trigger_dag_id == f"{MODEL}.ingest"
    assert trigger.trigger_run_id == "release__{{ ti.xcom_pull(task_ids='release')['event'] }}"
    assert trigger.conf == {"partition": "{{ ti.xcom_pull(task_ids='release')['partition'] }}"}
    assert trigger.skip_when_already_exists


def test_approval_stands_between_registration_and_promotion(parse: Parse, two_models: Path) -> None:
    parsed = parse(two_models)
    assert order(parsed[f"{MODEL}.train"])[-2:] == ["register", "promote"]
    dag = parsed["taxi_fare.train"]
    assert order(dag)[-3:] == ["register", "approve", "promote"]
    approve = dag.get_task("approve")
    assert approve.options == ["Approve", "Reject"]
    assert approve.downstream_task_ids == {"promote"}
    assert approve.defaults == ["Reject"]
    assert approve.response_timeout == timedelta(hours=72)
    assert approve.subject == "Promote the challenger of taxi_fare?"


def test_two_approvers_are_asked_at_the_same_time(parse: Parse, two_models: Path) -> None:
    path = two_models / "taxi_fare" / "model.yaml"
    path.write_text(path.read_text().replace("required: true", "required: true\n  approvers: 2"))
    dag = parse(two_models)["taxi_fare.train"]
    asks = [dag.get_task(name) for name in QUESTIONS]
    for task in asks:
        assert task.upstream_task_ids == {"register"}
        assert task.downstream_task_ids == {"promote"}
    assert [task.others for task in asks] == [["approve_again"], ["approve"]]
    assert asks[0].subject == ("Promote the challenger of taxi_fare? (1 of 2 approvers, each another person)")
    assert dag.max_active_runs == 4


def told_by_xcom(dag: DAG) -> list[str]:
    """Return the steps with the key that signs whose parameters come from what tasks return, which people may write."""
    signs = {step.name for step in PIPELINES["train"] if "signing" in step.secrets}
    return [task.task_id for task in dag.tasks if task.task_id in signs and "xcom" in str(task.params_json)]


def test_nothing_that_is_signed_comes_from_what_tasks_return(parse: Parse, two_models: Path) -> None:
    dag = parse(two_models)["taxi_fare.train"]
    assert told_by_xcom(dag) == []
    dag.get_task("promote").params_json = {"by": "{{ ti.xcom_pull(task_ids='approve')['responded_by_user'] }}"}
    assert told_by_xcom(dag) == ["promote"]


def test_a_training_run_is_named_by_its_report(dags: dict[str, DAG]) -> None:
    trigger = dags[f"{MODEL}.retrain"].get_task("trigger_training")
    assert trigger.trigger_dag_id == f"{MODEL}.train"
    assert trigger.trigger_run_id == "drift__{{ ti.xcom_pull(task_ids='guard')['report_id'] }}"
    assert trigger.skip_when_already_exists
    assert not trigger.wait_for_completion


@pytest.mark.parametrize("pipeline", ["ingest", "features", "predict", "monitor", "retrain", "train"])
def test_the_form_takes_a_day_or_nothing(dags: dict[str, DAG], pipeline: str) -> None:
    partition = dags[f"{MODEL}.{pipeline}"].params.get_param("partition")
    assert partition.resolve() is None
    assert partition.resolve("2013-04-30") == "2013-04-30"
    with pytest.raises(ParamValidationError, match="date"):
        partition.resolve("yesterday")


def test_tasks_hold_no_copies_of_the_form(dags: dict[str, DAG]) -> None:
    """Airflow would validate each of them whenever it parses and serializes the DAG."""
    own = [dags[f"{MODEL}.{pipeline}"] for pipeline in PIPELINES]
    assert [f"{dag.dag_id}.{task.task_id}" for dag in own for task in dag.tasks if task.params] == []
    with DAG("form.first", schedule=None) as dag:
        form(dag, partition=partition_param())
        copied = EmptyOperator(task_id="copied")
    assert set(copied.params) == {"partition"}, "Airflow copies no more: the form may come first"


def test_the_backfill_form_asks_for_both_days(dags: dict[str, DAG]) -> None:
    params = dags[f"{MODEL}.backfill"].params
    for name in ("start", "end"):
        with pytest.raises(ParamValidationError, match="No value passed"):
            params.get_param(name).resolve()
        with pytest.raises(ParamValidationError, match="date"):
            params.get_param(name).resolve("2013-02-30")


def test_the_prediction_log_is_ingested_daily_with_its_model(dags: dict[str, DAG]) -> None:
    dag = dags[f"{MODEL}.ingest_predictions"]
    assert isinstance(dag.timetable, CronPartitionTimetable)
    assert (dag.timetable.expression, dag.timetable.run_offset) == ("0 6 * * *", -1)
    assert outlets(dag) == {}
    assert set(dag.params) == {"partition", "start", "end"}


def test_the_form_of_predictions_takes_a_range_and_a_version_or_neither(dags: dict[str, DAG]) -> None:
    dag = dags[f"{MODEL}.predict"]
    params = {"version": "{{ params.version or '' }}", "file": "{{ params.file or '' }}"}
    assert dag.get_task("predict").params_json == params
    file = f"entities/{MODEL}/a.csv"
    days = (("start", "2013-01-01", "May"), ("end", "2013-01-31", "2013-02-30"))
    files = (("file", file, "/etc/passwd"), ("file", f"s3://bucket/{file}", "a.csv"))
    for name in ("start", "end", "file", "version"):
        assert dag.params.get_param(name).resolve() is None
    for name, good, bad in (*days, *files, ("version", "3", "new")):
        assert dag.params.get_param(name).resolve(good) == good
        with pytest.raises(ParamValidationError):
            dag.params.get_param(name).resolve(bad)
