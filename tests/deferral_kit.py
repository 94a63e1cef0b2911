"""What tests of deferred steps need: a trigger is serialized and made anew, a task re-enters in a new operator."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from airflow.jobs.triggerer_job_runner import TriggerRunner
from airflow.sdk.exceptions import TaskDeferred

from evergreen_airflow.operator import StepOperator
from operator_kit import Kit


def quick(kit: Kit, body: str = "return Result()", **options: Any) -> StepOperator:
    return kit.operator(body, poll_interval=0.05, startup_check_interval_seconds=1, **options)


def launch(operator: StepOperator, context: dict[str, Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(context)  # type: ignore[arg-type]
    return caught.value


async def _run_trigger(deferred: TaskDeferred, meanwhile: Callable[[], object], kill: bool) -> list[dict[str, Any]]:
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
    return [entry.event.payload for entry in runner.events]


def watch(deferred: TaskDeferred, meanwhile: Callable[[], object] = lambda: None, *, kill: bool = False) -> Any:
    """Run the deferred task's trigger as the triggerer does; return the event's payload, None if there was none."""
    events = asyncio.run(_run_trigger(deferred, meanwhile, kill))
    return events[0] if events else None


def resume(operator: StepOperator, deferred: TaskDeferred, event: dict[str, Any], context: dict[str, Any]) -> Any:
    """Re-enter the task in a new operator, as a new process does."""
    return operator.resume_execution(deferred.method_name, {"event": event}, context)  # type: ignore[arg-type]
