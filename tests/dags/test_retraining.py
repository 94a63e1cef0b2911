"""From a drift report to a training: the sensor, its trigger and the guarded start of the training."""

from __future__ import annotations

import asyncio
import json
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DagRunTriggerException
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

from evergreen.contract import ConfigurationError
from evergreen.monitoring.proposal import report_key
from evergreen.settings import Settings
from evergreen.store import get_store
from evergreen_airflow.retraining import ProposalSensor, TrainingTrigger
from evergreen_airflow.triggers import DriftReportTrigger

DAY = date(2013, 4, 30)
CONTEXT: Any = {"dag_run": SimpleNamespace(partition_key=str(DAY)), "params": {}}


def write_report(verdict: str = "drift", file: str = "drift.json", **facts: object) -> None:
    report = {"report_id": "toy-2013-04-30-aa", "verdict": verdict, "drifted_share": 0.5, **facts}
    get_store().write(report_key("toy", DAY, file), json.dumps(report).encode())


def sensor() -> ProposalSensor:
    return ProposalSensor(task_id="proposal", model="toy")


def test_drift_proposes_a_training(settings: Settings) -> None:
    write_report()
    answer = sensor().execute(CONTEXT)
    assert (answer["report_id"], answer["partition"]) == ("toy-2013-04-30-aa", "2013-04-30")
    assert "50%" in answer["why"]


@pytest.mark.parametrize("verdict", ["stable", "insufficient"])
def test_no_drift_skips_with_the_reason(settings: Settings, verdict: str) -> None:
    write_report(verdict)
    with pytest.raises(AirflowSkipException, match=verdict):
        sensor().execute(CONTEXT)


def test_a_worse_champion_proposes_a_training_without_drift(settings: Settings) -> None:
    write_report("stable")
    write_report(file="performance.json", proposal=True, why="AUC fell by 0.05")
    assert "AUC fell by 0.05" in sensor().execute(CONTEXT)["why"]


def test_a_broken_report_is_named(settings: Settings) -> None:
    get_store().write(report_key("toy", DAY, "drift.json"), b"{")
    with pytest.raises(ConfigurationError, match=r"drift\.json: not a drift report"):
        sensor().execute(CONTEXT)


def test_without_a_report_the_sensor_defers_to_its_trigger(settings: Settings) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        sensor().execute(CONTEXT)
    path, arguments = deferred.value.trigger.serialize()
    assert path == "evergreen_airflow.triggers.DriftReportTrigger"
    assert arguments == {"model": "toy", "partition": "2013-04-30", "poll_seconds": 30}
    assert deferred.value.timeout is not None
    write_report()
    resumed = getattr(sensor(), deferred.value.method_name)(CONTEXT, {"partition": "2013-04-30"})
    assert resumed["retrain"] is True


def test_the_trigger_fires_when_the_report_arrives(settings: Settings) -> None:
    async def wait() -> dict[str, str]:
        events = DriftReportTrigger("toy", str(DAY), 0.01).run()
        waiting = asyncio.ensure_future(anext(events))
        done, _ = await asyncio.wait([waiting], timeout=0.1)
        assert not done, "it fired without a report"
        write_report()
        return dict((await asyncio.wait_for(waiting, timeout=10)).payload)

    assert asyncio.run(wait()) == {"partition": "2013-04-30"}


def start_training(guard: dict[str, str]) -> None:
    trigger = TrainingTrigger(task_id="trigger", model="toy", proposal_task="proposal", guard_task="guard")
    trigger.trigger_run_id, trigger.conf = "drift__toy-2013-04-30-aa", {"partition": "2013-04-30"}
    ti = SimpleNamespace(xcom_pull=lambda task_ids: {"guard": guard}[task_ids])
    trigger.execute({"ti": ti})  # type: ignore[typeddict-item]


def test_an_allowed_training_is_triggered_once_per_report() -> None:
    with pytest.raises(DagRunTriggerException) as triggered:
        start_training({"status": "ok", "reason": ""})
    request = triggered.value
    assert (request.trigger_dag_id, request.dag_run_id) == ("toy.train", "drift__toy-2013-04-30-aa")
    assert request.conf == {"partition": "2013-04-30"}
    assert request.skip_when_already_exists
    assert request.logical_date is None


def named_run(sensor: dict[str, str], guard: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return the run, and its parameters, that follow from what the sensor and the guard have answered."""
    with DAG("toy.retrain", schedule=None):
        trigger = TrainingTrigger(task_id="trigger", model="toy", proposal_task="proposal", guard_task="guard")
    answers = {"proposal": sensor, "guard": guard}
    trigger.render_template_fields({"ti": SimpleNamespace(xcom_pull=lambda task_ids: answers[task_ids])})  # type: ignore[typeddict-item]
    return trigger.trigger_run_id, trigger.conf


def test_a_report_that_is_replaced_between_sensor_and_guard_leads_to_one_run(settings: Settings) -> None:
    """The guard claims the report that it has read; its retraining then finds that very run."""
    write_report()
    seen = sensor().execute(CONTEXT)
    write_report(report_id="toy-2013-04-30-bb")  # the partition came again, and was checked again
    seen_again = sensor().execute(CONTEXT)
    guard = {"status": "ok", "reason": "", "report_id": "toy-2013-04-30-bb"}
    expected = ("drift__toy-2013-04-30-bb", {"partition": "2013-04-30"})
    assert named_run(seen, guard) == named_run(seen_again, guard) == expected


def test_a_refused_training_is_skipped_with_the_guards_reason() -> None:
    with pytest.raises(AirflowSkipException, match="trained 3 days ago"):
        start_training({"status": "refused", "reason": "trained 3 days ago"})


def test_a_monitored_partition_is_named_in_its_event() -> None:
    """A run started with a form has no partition key, and Airflow shows its events to nobody downstream."""
    from airflow.sdk import Asset
    from airflow.sdk.execution_time.context import OutletEventAccessors

    from evergreen_airflow.assets import PartitionDone

    asset, events = Asset("toy.monitored"), OutletEventAccessors()
    context: Any = {
        "dag_run": SimpleNamespace(partition_key=None),
        "params": {"partition": str(DAY)},
        "outlet_events": events,
    }
    PartitionDone(task_id="done", outlets=[asset]).execute(context)
    assert events[asset].partition_keys == {"2013-04-30"}
