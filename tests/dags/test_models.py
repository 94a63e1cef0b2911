"""One wrong model.yaml: the others keep their DAGs, and Airflow shows what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.definitions.context import _AIRFLOW_PARSING_CONTEXT_DAG_ID
from airflow.serialization.serialized_objects import DagSerialization
from dag_policy import MAINTENANCE, Parse

from evergreen.catalog import survey
from evergreen.pipelines import PIPELINES, dag_id

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

Bag = Callable[[Path], "DagBag"]


def dags_of(*models: str) -> set[str]:
    return MAINTENANCE | {dag_id(model, pipeline) for model in models for pipeline in PIPELINES}


def replace(models: Path, before: str, after: str) -> None:
    """Change one line of the second model."""
    path = models / "taxi_fare/model.yaml"
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("metric: auc", "metric: beauty", "gate.metric: 'beauty' is not a metric of a binary model; use one of auc"),
        ("team: ml-platform", "team: [ml", "not valid YAML"),
        ('cron: "0 6 * * *"', 'cron: "0 66 * * *"', "schedule.cron: a minute and an hour of every day"),
        ("team: ml-platform", f"team: {'x' * 90}", "team: String should have at most 80 characters"),
        ("required: true", "required: true\n  timeout_hours: 1000000000000", "approval.timeout_hours: Input should be"),
        ("required: true", "required: true\n  approvers: 3", "approval.approvers: Input should be 1 or 2"),
        (
            "required: true",
            "required: false\n  approvers: 2",
            "approval.approvers: 2 asks nobody without required: true",
        ),
        ("team: ml-platform", 'team: "a\\0b"', "not valid YAML: a control character, such as \\0, in a text"),
        ("team: ml-platform", 'team: a\n"b\\0c": 1', "not valid YAML: a control character"),
        ("name: taxi_fare", "name: flight_delay", "name: 'flight_delay' differs from its folder 'taxi_fare'"),
    ],
)
def test_a_wrong_model_is_an_import_error_and_the_others_have_their_dags(
    dag_bag: Bag, two_models: Path, before: str, after: str, said: str
) -> None:
    replace(two_models, before, after)
    Path(os.fsdecode(os.fsencode(two_models) + b"/caf\xe9")).mkdir()  # a name that is not UTF-8
    bag = dag_bag(two_models)
    assert set(bag.dags) == dags_of("flight_delay")
    assert set(bag.import_errors) == {"models.py"}  # Airflow drops every DAG of a file it has an error of
    assert f"{two_models}/taxi_fare/model.yaml: " in bag.import_errors["models.py"]
    assert said in bag.import_errors["models.py"]
    assert "caf\\udce9" in bag.import_errors["models.py"].encode().decode()  # the database takes it
    assert "flight_delay/model.yaml" not in bag.import_errors["models.py"]


def test_right_models_are_no_error(dag_bag: Bag, two_models: Path) -> None:
    bag = dag_bag(two_models)
    assert bag.import_errors == {}
    assert set(bag.dags) == dags_of("flight_delay", "taxi_fare")


def test_a_missing_models_folder_is_an_error_of_every_file(dag_bag: Bag, tmp_path: Path) -> None:
    bag = dag_bag(tmp_path / "nowhere")
    assert "models.py" in bag.import_errors
    assert all("nowhere: there is no such folder" in error for error in bag.import_errors.values())


@pytest.fixture
def parsed_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let Airflow's task runner be the one that parses, to run a task of that DAG."""
    return lambda dag: monkeypatch.setenv(_AIRFLOW_PARSING_CONTEXT_DAG_ID, dag)


def test_a_task_s_process_makes_the_dags_of_its_model_alone(
    parse: Parse, two_models: Path, parsed_for: Callable[[str], None]
) -> None:
    parsed_for("taxi_fare.train")
    assert set(parse(two_models)) == dags_of("taxi_fare")
    parsed_for("somebody.elses")
    assert set(parse(two_models)) == dags_of("flight_delay", "taxi_fare")


def test_a_task_of_a_wrong_model_is_told_what_is_wrong(
    dag_bag: Bag, two_models: Path, parsed_for: Callable[[str], None]
) -> None:
    replace(two_models, "metric: auc", "metric: beauty")
    parsed_for("taxi_fare.train")
    assert "'beauty' is not a metric" in dag_bag(two_models).import_errors["training.py"]
    parsed_for("flight_delay.train")
    assert "training.py" not in dag_bag(two_models).import_errors


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('cron: "0 6 * * *"', 'cron: "59 23 * * *"'),
        ("start: 2013-01-01", "start: 1900-01-01"),
        ("start: 2013-01-01", "start: 2199-12-31"),
        ("timezone: UTC", "timezone: Pacific/Kiritimati"),
        ("team: ml-platform", f"team: {'x' * 80}"),
        ("required: true", "required: true\n  timeout_hours: 8760"),
    ],
)
def test_what_a_model_may_say_airflow_takes(parse: Parse, two_models: Path, before: str, after: str) -> None:
    """A value that model.yaml takes and Airflow refuses would drop the DAGs of every model."""
    replace(two_models, before, after)
    assert survey(two_models).problems == {}
    for dag in parse(two_models).values():
        DagSerialization.to_dict(dag)
