"""Which tasks tell of their end; where Airflow calls what tells, a real server is told."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from dag_policy import Parse

from alerts_kit import Receiver, connections, servers, variables
from evergreen.settings import PROJECT_ROOT, Settings
from evergreen_airflow.alerts import watch

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk import DAG

MODEL = "flight_delay"
CALLBACKS = ("on_execute_callback", "on_failure_callback", "on_success_callback", "on_skipped_callback")


def models_with(tmp_path: Path, alerts: str, approval: str = "false", deadline: str = "null") -> Path:
    """Return a models folder with the project's model, and these channels."""
    models = tmp_path / "models"
    shutil.copytree(PROJECT_ROOT / "include" / "models", models, ignore=shutil.ignore_patterns("__pycache__"))
    spec = models / MODEL / "model.yaml"
    text = spec.read_text().replace("required: false", f"required: {approval}")
    text = text.replace("  timezone: UTC\n", f"  timezone: UTC\n  deadline_hours: {deadline}\n")
    spec.write_text(f"{text}\nalerts: {alerts}\n")
    return models


def telling(dags: dict[str, DAG]) -> dict[str, set[str]]:
    """Return which tasks of the model's DAGs have a callback, by its name."""
    tasks = [task for dag in dags.values() if dag.dag_id.startswith(MODEL) for task in dag.tasks]
    return {name: {task.task_id for task in tasks if getattr(task, name)} for name in CALLBACKS}


def test_a_model_without_alerts_calls_nobody(parse: Parse, tmp_path: Path) -> None:
    assert telling(parse(models_with(tmp_path, "[]"))) == {name: set() for name in CALLBACKS}


def test_with_alerts_every_task_tells_of_its_failure_and_five_of_what_they_found(parse: Parse, tmp_path: Path) -> None:
    dags = parse(models_with(tmp_path, "[{type: log}]", approval="true"))
    every = {task.task_id for dag in dags.values() if dag.dag_id.startswith(MODEL) for task in dag.tasks}
    assert telling(dags) == {
        "on_execute_callback": {"approve"},
        "on_failure_callback": every,
        "on_success_callback": {"check_drift", "check_performance", "gate", "promote", "rollback", "rollout"},
        "on_skipped_callback": set(),
    }


def test_a_task_calls_nobody_for_what_no_channel_takes(parse: Parse, tmp_path: Path) -> None:
    """A step that nobody is told of still ends in the triggerer."""
    dags = parse(models_with(tmp_path, "[{type: log, events: [promotion]}]", approval="true"))
    expected = {name: set() for name in CALLBACKS} | {"on_success_callback": {"promote", "rollout"}}
    assert telling(dags) == expected


def test_dags_with_alerts_serialize(parse: Parse, tmp_path: Path) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    for dag in parse(models_with(tmp_path, "[{type: email, to: [someone@example.com]}]", approval="true")).values():
        document = str(DagSerialization.to_dict(dag))
        assert "someone@example.com" not in document


@pytest.fixture
def receiver(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with servers() as running:
        for name, value in variables(connections(*running)).items():
            monkeypatch.setenv(name, value)
        yield running[0]


@pytest.mark.parametrize(("state", "told"), [("failed", 1), ("up_for_retry", 0)])
def test_the_dag_processor_tells_of_a_task_whose_worker_died(
    dag_bag: Callable[[Path], DagBag], tmp_path: Path, receiver: Receiver, state: str, told: int
) -> None:
    """As it does when the scheduler misses a task's heartbeats; nothing of the task's process is left then."""
    from airflow.callbacks.callback_requests import TaskCallbackRequest
    from airflow.dag_processing.processor import _execute_task_callbacks
    from airflow.executors.workloads import TaskInstanceDTO

    bag = dag_bag(models_with(tmp_path, "[{type: slack}]"))
    ti = TaskInstanceDTO(
        id=uuid.uuid4(),
        dag_version_id=uuid.uuid4(),
        task_id="train",
        dag_id=f"{MODEL}.train",
        run_id="drift__1",
        try_number=4,
        pool_slots=1,
        queue="default",
        priority_weight=1,
    )
    request = TaskCallbackRequest.model_validate(
        {"filepath": "training.py", "bundle_name": "b", "bundle_version": None, "ti": ti, "task_callback_type": state}
    )
    for _ in range(2):
        _execute_task_callbacks(bag, request, structlog.get_logger())
    assert len(receiver.requests) == told
    if told:
        text = receiver.requests[0][1]["text"]
        assert "flight_delay.train, run drift__1: train failed: it was ended from outside, or its worker died." in text
        assert "/dags/flight_delay.train/runs/drift__1/tasks/train" in text
        assert "Owner: flight-operations (ml-platform) #flight-operations" in text


class Airflow:
    """What the watch asks Airflow: which pipelines are paused, and what was published."""

    def __init__(self, published: dict[str, list[str]], paused: bool = False, broken: bool = False) -> None:
        self.published = published
        self.paused = paused
        self.broken = broken

    def get_dag(self, dag_id: str) -> SimpleNamespace:
        return SimpleNamespace(is_paused=self.paused)

    def accessor(self, asset_name: str, asset_uri: str) -> SimpleNamespace:
        def after(begin: str) -> list[SimpleNamespace]:
            if self.broken:
                raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))
            days = [day for day in self.published.get(asset_name, ()) if day >= begin[:10]]
            return [SimpleNamespace(partition_key=day) for day in days]

        return SimpleNamespace(after=after)


@pytest.fixture
def look(
    parse: Parse, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Airflow], list[str]]:
    """Run the DAG's task at noon of 2 March, when 1 March should have been there for five hours."""
    dag = parse(models_with(tmp_path, "[{type: slack}]", deadline="1"))["maintenance.watch"]
    monkeypatch.setattr(watch, "utc_now", lambda: datetime(2013, 3, 2, 12, tzinfo=UTC))

    def execute(airflow: Airflow) -> list[str]:
        monkeypatch.setattr(watch, "InletEventsAccessor", airflow.accessor)
        context: Any = {"ti": airflow}
        found: list[str] = dag.get_task("watch").execute(context)
        return found

    return execute


DAY = "2013-03-01"
LATE = f"partition {DAY} is 6 hours late: {MODEL}"


@pytest.mark.parametrize(
    ("published", "stage"),
    [
        ({}, "ingest"),
        ({f"{MODEL}.published": ["2013-02-28"], f"{MODEL}.features": ["2013-02-28"]}, "ingest"),
        ({f"{MODEL}.published": [DAY]}, "features"),
    ],
)
def test_a_late_partition_is_told_once(
    look: Callable[[Airflow], list[str]], receiver: Receiver, published: dict[str, list[str]], stage: str
) -> None:
    for _ in range(2):
        assert look(Airflow(published)) == [f"{MODEL}: {LATE}.{stage} has not published it"]
    ((_, document, _),) = receiver.requests
    assert f"flight_delay: partition late: {LATE}.{stage} has not published it." in document["text"]
    assert f"/dags/{MODEL}.{stage}" in document["text"]


@pytest.mark.parametrize(
    "airflow",
    [
        Airflow({f"{MODEL}.published": [DAY], f"{MODEL}.features": [DAY]}),
        Airflow({}, paused=True),
        Airflow({}, broken=True),
    ],
    ids=["there", "paused", "Airflow does not say"],
)
def test_what_is_not_late_is_not_told(
    look: Callable[[Airflow], list[str]], receiver: Receiver, airflow: Airflow
) -> None:
    with pytest.raises(AirflowSkipException, match="Nothing is late"):
        look(airflow)
    assert receiver.requests == []
