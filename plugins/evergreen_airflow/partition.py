"""Which daily partitions a run works on, whatever started it."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from evergreen.contract import ConfigurationError, Window

if TYPE_CHECKING:
    from airflow.sdk import Context


def resolve_window(context: Context) -> Window:
    """Return the partitions of a run: a single day, or several for a run that was given a first and a last day.

    The first of these that the run has: its partition key (scheduled, asset-driven, backfilled); the parameter
    ``partition``; the parameters ``start`` and ``end``; the start of its data interval; the day before it was due,
    in the DAG's time zone. The logical date is never asked: partitioned and asset-driven runs have none.

    Raises
    ------
    ConfigurationError
        If what was given is no day, or a range has one end only or ends before it starts.
    """
    run: Any = context["dag_run"]
    params = context["params"]
    if run.partition_key or params.get("partition"):
        where = "the run's partition key" if run.partition_key else "the parameter partition"
        day = _day(run.partition_key or params["partition"], where)
    elif params.get("start") or params.get("end"):
        return _range(params.get("start"), params.get("end"))
    else:
        start, end = run.data_interval_start, run.data_interval_end
        day = (start or run.run_after).astimezone(getattr(context["dag"], "timezone", None)).date()
        if not (start and end and start < end):  # a moment, not an interval: what is complete is the day before
            day -= timedelta(days=1)
    return Window(start=day, end=day)


def _range(start: Any, end: Any) -> Window:
    if not start or not end:
        missing = "end" if start else "start"
        raise ConfigurationError(f"the parameter {missing} is missing.", "Give the first and the last day, or neither.")
    first, last = _day(start, "the parameter start"), _day(end, "the parameter end")
    if first > last:
        raise ConfigurationError(f"the parameter start, {first}, is after the parameter end, {last}.", "Swap them.")
    return Window(start=first, end=last)


def _day(value: Any, name: str) -> date:
    try:
        day = date.fromisoformat(value)
    except (TypeError, ValueError):
        day = None
    if day is None or day.isoformat() != value:  # fromisoformat takes 20130301 and 2013-W09-5 too
        raise ConfigurationError(f"{name} is {value!r}, which is not a day.", "Write it as 2013-03-01.")
    return day
