"""From a monitored partition to a training: the sensor and the guarded start of the training."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from airflow.providers.common.compat.sdk import DagRunTriggerException
from airflow.sdk import DAG, Asset
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowRuntimeError,
    AirflowSensorTimeout,
    AirflowSkipException,
    ErrorType,
)
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor

from evergreen.settings import Settings
from evergreen_airflow.retraining import ProposalSensor, TrainingTrigger
from monitoring_kit import leave_drift, leave_performance

DAY = date(2013, 4, 30)
MONITORED = Asset("toy.monitored")
CHECKS = {
    "check_drift": "toy.monitor/monitored/check_drift",
    "check_performance": "toy.monitor/monitored/check_performance",
}


def event(minute: int, run: str = "monitored", *, source: str = "toy.monitor", partition: date = DAY) -> Any:
    """Return an event of the asset as Airflow gives it to a task."""
    return SimpleNamespace(
        timestamp=datetime(2013, 5, 1, 6, minute, tzinfo=UTC),
        source_dag_id=source,
        source_run_id=run,
        partition_key=str(partition),
        asset=MONITORED,
        source_aliases=[],
    )


def context(triggering: list[Any] | None = None, known: Any = (), **run: Any) -> Any:
    """Return the context of a run that some events have started, when the asset has others too."""
    ti = SimpleNamespace(get_first_reschedule_date=lambda _: None)
    return {
        "ti": ti,
        "dag_run": SimpleNamespace(**{"partition_key": str(DAY), **run}),
        "params": {"partition": str(DAY)},
        "triggering_asset_events": TriggeringAssetEventsAccessor.build(triggering or []),
        "inlet_events": {MONITORED: known},
    }


class NotAsked:
    """Events that nobody may ask for."""

    def __iter__(self) -> NoReturn:
        raise AssertionError("Airflow was asked for all events")


def sensor(**options: Any) -> ProposalSensor:
    return ProposalSensor(task_id="proposal", model="toy", monitored=MONITORED, **options)


def test_drift_proposes_a_training_by_the_run_whose_event_came(settings: Settings) -> None:
    leave_drift("toy", DAY)
    leave_performance("toy", DAY, worse=False)
    assert sensor().execute(context([event(1)], NotAsked())) == CHECKS


def test_a_check_that_has_measured_nothing_is_not_handed_on(settings: Settings) -> None:
    leave_drift("toy", DAY)
    leave_performance("toy", DAY, worse=None)
    assert sensor().execute(context([event(1)])) == {"check_drift": CHECKS["check_drift"]}


@pytest.mark.parametrize("verdict", ["stable", "insufficient"])
def test_no_drift_skips_with_the_reason(settings: Settings, verdict: str) -> None:
    leave_drift("toy", DAY, verdict)
    leave_performance("toy", DAY, worse=None)
    with pytest.raises(AirflowSkipException, match=verdict):
        sensor().execute(context([event(1)]))


def test_a_worse_champion_proposes_a_training_without_drift(settings: Settings) -> None:
    leave_drift("toy", DAY, "stable")
    leave_performance("toy", DAY, worse=True)
    assert sensor().execute(context([event(1)])) == CHECKS


def test_no_report_is_read_before_the_guard_does(settings: Settings) -> None:
    drift = leave_drift("toy", DAY)
    leave_performance("toy", DAY, worse=False)
    Path(drift.output("drift_report").uri).write_text("no report")
    assert sensor().execute(context([event(1)])) == CHECKS


def test_of_several_events_the_newest_run_is_asked(settings: Settings) -> None:
    leave_drift("toy", DAY, run_id="second")
    leave_performance("toy", DAY, worse=None, run_id="second")
    answer = sensor().execute(context([event(1, "first"), event(3, "second"), event(2, "between")]))
    assert answer == {"check_drift": "toy.monitor/second/check_drift"}


def test_a_run_by_hand_asks_the_newest_run_that_published_the_partition(settings: Settings) -> None:
    leave_drift("toy", DAY)
    leave_performance("toy", DAY, worse=None)
    others = [event(7, "elsewhere", partition=date(2013, 4, 29)), event(8, "not by the checks", source="toy.other")]
    by_hand = context([], [event(1, "earlier"), event(5), *others], partition_key=None)
    assert sensor().execute(by_hand) == {"check_drift": CHECKS["check_drift"]}


def test_a_run_after_a_repeated_event_asks_the_run_that_published_it_first(settings: Settings) -> None:
    """An event of the reconciler comes from a DAG that has checked nothing."""
    leave_drift("toy", DAY)
    leave_performance("toy", DAY, worse=None)
    repetition = event(9, "scheduled__2013-05-01", source="maintenance.reconcile")
    answer = sensor().execute(context([repetition], [event(1), repetition]))
    assert answer == {"check_drift": CHECKS["check_drift"]}


def unanswered() -> AirflowRuntimeError:
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 500}))


class Unanswered:
    """Events that Airflow does not tell."""

    def __iter__(self) -> NoReturn:
        raise unanswered()


@pytest.mark.parametrize("known", [[], [event(1, partition=date(2013, 4, 29))], Unanswered()])
def test_without_an_event_the_sensor_comes_again_until_its_time_is_over(settings: Settings, known: Any) -> None:
    with pytest.raises(AirflowRescheduleException):
        sensor().execute(context([], known))
    with pytest.raises(AirflowSensorTimeout):
        sensor(timeout=0).execute(context([], known))


def test_a_manifest_that_is_gone_is_named_with_what_to_do(settings: Settings) -> None:
    with pytest.raises(AirflowFailException, match=r"check_drift/result\.json: .* gone\. Run toy\.monitor .* again"):
        sensor().execute(context([event(1)]))


def start_training(guard: dict[str, str]) -> None:
    trigger = TrainingTrigger(task_id="trigger", model="toy", guard_task="guard")
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


def test_the_run_is_named_and_told_by_the_guard_alone() -> None:
    """The guard claims the report that it has read: a retraining that is repeated finds that very run."""
    with DAG("toy.retrain", schedule=None):
        trigger = TrainingTrigger(task_id="trigger", model="toy", guard_task="guard")
    answers = {"guard": {"status": "ok", "reason": "", "report_id": "toy-2013-04-30-bb", "partition": "2013-04-30"}}
    trigger.render_template_fields({"ti": SimpleNamespace(xcom_pull=lambda task_ids: answers[task_ids])})  # type: ignore[typeddict-item]
    assert (trigger.trigger_run_id, trigger.conf) == ("drift__toy-2013-04-30-bb", {"partition": "2013-04-30"})


def test_a_refused_training_is_skipped_with_the_guards_reason() -> None:
    with pytest.raises(AirflowSkipException, match="trained 3 days ago"):
        start_training({"status": "refused", "reason": "trained 3 days ago"})


def test_a_monitored_partition_is_named_in_its_event() -> None:
    """A run started with a form has no partition key, and Airflow shows its events to nobody downstream."""
    from airflow.sdk.execution_time.context import OutletEventAccessors

    from evergreen_airflow.assets import PartitionDone

    asset, events = MONITORED, OutletEventAccessors()
    of_the_run: Any = {
        "dag_run": SimpleNamespace(partition_key=None),
        "params": {"partition": str(DAY)},
        "outlet_events": events,
    }
    PartitionDone(task_id="done", outlets=[asset]).execute(of_the_run)
    assert events[asset].partition_keys == {"2013-04-30"}
