"""What tests of deferred steps need: a trigger is serialized and made anew, a task re-enters in a new operator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from airflow.jobs.triggerer_job_runner import TriggerRunner
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import SetXCom
from airflow.triggers.base import BaseTaskEndEvent, TaskSkippedEvent

from evergreen_airflow.operator import StepOperator
from operator_kit import Kit


def quick(kit: Kit, body: str = "return Result()", **options: Any) -> StepOperator:
    return kit.operator(body, poll_interval=0.05, startup_check_interval_seconds=1, **options)


def launch(operator: StepOperator, context: dict[str, Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context)  # type: ignore[arg-type]
    return caught.value


@dataclass(frozen=True)
class Ended:
    """A trigger has ended its task: with which event, and the XComs it has set before."""

    event: BaseTaskEndEvent
    xcoms: dict[str, Any]


class Supervisor:
    """Takes the XComs that a trigger sets."""

    def __init__(self) -> None:
        self.xcoms: dict[str, Any] = {}

    async def asend(self, message: SetXCom) -> None:
        self.xcoms[message.key] = message.value


async def _run_trigger(
    deferred: TaskDeferred, meanwhile: Callable[[], object], kill: bool, supervisor: Supervisor
) -> list[Any]:
    from airflow.sdk._shared.module_loading import import_string

    path, arguments = deferred.trigger.serialize()
    trigger = import_string(path)(**arguments)
    trigger.task_instance = None
    runner = TriggerRunner()
    task = asyncio.ensure_future(runner.run_trigger(1, trigger))
    runner.triggers[1] = {"task": task, "is_watcher": False, "name": "test", "events": 0}
    await asyncio.to_thread(meanwhile)
    if kill:
        runner.to_cancel.append(1)
        await runner.cancel_triggers()
    await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 60)
    events = [entry.event for entry in runner.events]
    return [Ended(one, supervisor.xcoms) if isinstance(one, BaseTaskEndEvent) else one.payload for one in events]


def watch(deferred: TaskDeferred, meanwhile: Callable[[], object] = lambda: None, *, kill: bool = False) -> Any:
    """Run the deferred task's trigger as the triggerer does; return the event's payload, None if there was none.

    If the trigger has ended the task, that is returned.
    """
    with pytest.MonkeyPatch.context() as patch:
        supervisor = Supervisor()
        patch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
        events = asyncio.run(_run_trigger(deferred, meanwhile, kill, supervisor))
    return events[0] if events else None


def resume(operator: StepOperator, deferred: TaskDeferred, event: Any, context: dict[str, Any]) -> Any:
    """Re-enter the task in a new operator, as a new process does, unless the trigger has ended it."""
    if isinstance(event, Ended):
        context["ti"].pushed.update(event.xcoms)
        if isinstance(event.event, TaskSkippedEvent):
            raise AirflowSkipException(event.xcoms["return_value"]["reason"])
        return event.xcoms["return_value"]
    return operator.resume_execution(deferred.method_name, {"event": event}, context)  # type: ignore[arg-type]
