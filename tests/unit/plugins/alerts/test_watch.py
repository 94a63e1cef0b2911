"""What the watch finds: partitions whose deadline is over, and champions that no task of Airflow has moved."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from alerts_kit import model
from evergreen.contract import RunIdentity
from evergreen.judgement.events import Event
from evergreen.spec import AlertEvent
from evergreen_airflow.alerts.watch import lateness, recent

NOW = datetime(2013, 3, 2, 12, tzinfo=UTC)


def schedule(hours: float | None, **fields: Any) -> dict[str, Any]:
    return {"start": "2013-01-01", "cron": "0 6 * * *", "deadline_hours": hours, **fields}


@pytest.mark.parametrize(
    ("fields", "at", "due"),
    [
        (schedule(None), NOW, None),
        (schedule(6), NOW, date(2013, 3, 1)),
        (schedule(6), NOW - timedelta(seconds=1), date(2013, 2, 28)),
        (schedule(0.5), NOW, date(2013, 3, 1)),
        (schedule(48), NOW, date(2013, 2, 27)),
        (schedule(6, start="2013-03-01"), NOW, date(2013, 3, 1)),
        (schedule(6, start="2013-03-02"), NOW, None),
        (schedule(6, timezone="America/New_York"), NOW, date(2013, 2, 28)),
        (schedule(6, timezone="America/New_York"), NOW + timedelta(hours=5), date(2013, 3, 1)),
        (schedule(1, timezone="Pacific/Kiritimati", cron="30 0 * * *"), NOW, date(2013, 3, 2)),
    ],
)
def test_the_newest_partition_whose_deadline_is_over(fields: dict[str, Any], at: datetime, due: date | None) -> None:
    assert model(schedule=fields).schedule.newest_due(at) == due


def test_a_late_partition_is_told_with_what_holds_it_up() -> None:
    found = lateness(model(schedule=schedule(2)), date(2013, 3, 1), "features", NOW - timedelta(minutes=30))
    assert found == (
        AlertEvent.PARTITION_LATE,
        "2013-03-01",
        "partition 2013-03-01 is 5 hours late: tiny.features has not published it",
    )


def event(kind: str, number: int = 3, hours: float = 1, **fields: Any) -> Event:
    run = RunIdentity(dag_id="tiny.shell", run_id="rollback__1", task_id="rollback")
    about = {"model": "tiny", "run": run, "partition": "2013-03-01", "at": NOW - timedelta(hours=hours)}
    return Event.model_validate({**about, "kind": kind, "number": number, **fields})


def test_a_champion_that_was_moved_past_the_pipelines_is_told() -> None:
    seen = event("alias_moved", why="the alias champion was seen at version 9; the log of decisions has 7")
    (found,) = recent([seen], NOW)
    assert (found.event, found.what) == (AlertEvent.ALIAS_MOVED, seen.why)
    (again,) = recent([event("alias_moved", number=8, hours=0.5, why=seen.why)], NOW)
    assert again.matter != found.matter, "moved once more is another matter"


def test_a_rollback_from_a_shell_is_told_under_its_run() -> None:
    (found,) = recent([event("rolled_back", version="6", previous="7", why="bad in Newark", by="ada")], NOW)
    what = "version 6 serves again in the place of 7: bad in Newark (by ada)"
    assert found == (AlertEvent.ROLLBACK, "rollback__1", what)


@pytest.mark.parametrize(
    "other",
    [
        event("alias_moved", hours=49, why="long ago"),
        event("rolled_back", hours=49, version="6", by="ada", why="w"),
        event("promoted", version="7", by="ada"),
        event("rejected"),
        event("something_of_a_newer_version"),
    ],
    ids=lambda other: f"{other.kind}",
)
def test_nothing_else_is(other: Event) -> None:
    assert recent([other], NOW) == []
