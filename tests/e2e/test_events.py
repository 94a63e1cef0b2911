"""No published partition is lost: bursts, twins, a killed scheduler, a pipeline that is paused and resumed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from evergreen.settings import get_settings
from evergreen_laptop.status import read_status
from installation import Installation, installed
from isolation import inside
from person_kit import MODEL, Person, until
from small_model import scaled_models

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1500)]

FOLLOWERS = {"published": "features", "features": "monitor", "monitored": "retrain"}
DAYS = [f"2013-01-{day:02}" for day in range(1, 16)]


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    with installed(scaled_models) as made, inside(made.environment):
        yield made


@pytest.fixture(scope="module")
def person(installation: Installation) -> Person:
    person = Person(installation, "admin")
    for pipeline in ("ingest", *FOLLOWERS.values()):
        pause(person, pipeline, paused=False)
    return person


def pause(person: Person, pipeline: str, *, paused: bool) -> None:
    person.http.patch(f"/api/v2/dags/{MODEL}.{pipeline}", json={"is_paused": paused}).raise_for_status()


def ingest(person: Person, partitions: Iterable[str], run: str) -> None:
    """Start a run of ingestion for each partition, all at once."""
    for partition in partitions:
        body = {"logical_date": None, "dag_run_id": f"{run}_{partition}", "partition_key": partition}
        person.http.post(f"/api/v2/dags/{MODEL}.ingest/dagRuns", json=body).raise_for_status()


def publish(person: Person, asset: str, partition: str) -> None:
    """Let a partition's event come, without any run that it comes from."""
    found = person.get(f"/api/v2/assets?name_pattern={MODEL}.{asset}")["assets"]
    (number,) = [one["id"] for one in found if one["name"] == f"{MODEL}.{asset}"]
    body = {"asset_id": number, "partition_key": partition}
    person.http.post("/api/v2/assets/events", json=body).raise_for_status()


def runs_of(person: Person, pipeline: str) -> Counter[str]:
    """Return how many runs each partition has."""
    return Counter(run["partition_key"] for run in person.runs(pipeline).values())


def quiet(person: Person) -> bool:
    """Tell whether every run of every pipeline has ended."""
    pipelines = ("ingest", *FOLLOWERS.values())
    return all(run["state"] in {"success", "failed"} for one in pipelines for run in person.runs(one).values())


def followed(person: Person, partitions: Iterable[str]) -> None:
    """Wait until each partition has been through every pipeline, and nothing else is going on."""
    wanted = set(partitions)
    until(
        lambda: all(wanted <= set(runs_of(person, pipeline)) for pipeline in FOLLOWERS.values()) and quiet(person),
        600,
        lambda: {pipeline: runs_of(person, pipeline) for pipeline in FOLLOWERS.values()},
    )


def runs_per_event(person: Person) -> dict[str, list[int]]:
    """Return for each asset how many runs of the pipeline that follows each of its events has led to."""
    found: dict[str, list[int]] = {}
    for asset, pipeline in FOLLOWERS.items():
        events = person.get(f"/api/v2/assets/events?name_pattern={MODEL}.{asset}&limit=100")["asset_events"]
        found[asset] = [
            sum(run["dag_id"] == f"{MODEL}.{pipeline}" for run in event["created_dagruns"])
            for event in events
            if event["name"] == f"{MODEL}.{asset}"
        ]
    return found


def reconcile(person: Person, run: str) -> str:
    """Look now, without waiting for what Airflow may still do; returns the task's state."""
    path = "/api/v2/dags/maintenance.reconcile/dagRuns"
    body = {"logical_date": None, "dag_run_id": run, "conf": {"minutes": 0}}
    person.http.post(path, json=body).raise_for_status()

    def state() -> Any:
        (task,) = person.get(f"{path}/{run}/taskInstances")["task_instances"]
        return task["state"]

    until(lambda: state() in {"success", "skipped", "failed"}, 300, state)
    return str(state())


def test_a_burst_leads_to_one_run_of_everything_for_each_partition(person: Person) -> None:
    """Six at once, where four runs may be active (apache/airflow #56050)."""
    burst = DAYS[:6]
    ingest(person, burst, "burst")
    followed(person, burst)
    for pipeline in FOLLOWERS.values():
        assert runs_of(person, pipeline) == dict.fromkeys(burst, 1), pipeline
    assert runs_per_event(person) == dict.fromkeys(FOLLOWERS, [1] * len(burst))


def test_twins_of_one_partition_are_both_followed(person: Person) -> None:
    """Two at once (apache/airflow #71070): each event leads to one run, which two of them may share."""
    twin = DAYS[6]
    for run in ("one", "two"):
        ingest(person, [twin], run)
    followed(person, [twin])
    for asset, counts in runs_per_event(person).items():
        assert set(counts) == {1}, asset
    assert 1 <= runs_of(person, "features")[twin] <= 2


def test_events_that_come_while_the_scheduler_is_dead_are_followed(person: Person) -> None:
    lonely = DAYS[7]
    ingest(person, [lonely], "lonely")
    followed(person, [lonely])
    before = runs_of(person, "features")[lonely]
    scheduler = {one.name: one for one in getattr(read_status(get_settings()), "services", ())}["scheduler"]
    os.kill(scheduler.pid or 0, signal.SIGSTOP)  # it can do nothing between the event and its death
    publish(person, "published", lonely)
    assert runs_of(person, "features")[lonely] == before
    os.kill(scheduler.pid or 0, signal.SIGKILL)
    # each event leads to one run; between an event and its run all may be quiet, but not yet followed
    until(
        lambda: all(set(counts) == {1} for counts in runs_per_event(person).values()) and quiet(person),
        300,
        lambda: runs_per_event(person),
    )
    assert runs_of(person, "features")[lonely] == before + 1


def test_what_a_paused_pipeline_missed_is_started_once_and_only_that(person: Person) -> None:
    """Apache/airflow #49857: by itself Airflow starts nothing for these, which the third partition shows."""
    assert reconcile(person, "nothing") == "skipped", "nothing is missing yet"
    before = {pipeline: runs_of(person, pipeline) for pipeline in FOLLOWERS.values()}
    missed, later = DAYS[8:10], DAYS[10]
    pause(person, "features", paused=True)
    ingest(person, missed, "missed")
    until(lambda: set(missed) <= set(runs_of(person, "ingest")) and quiet(person), 300, lambda: person.runs("ingest"))
    assert reconcile(person, "paused") == "skipped", "a repetition would be missed as well"
    pause(person, "features", paused=False)
    ingest(person, [later], "later")
    followed(person, [later])
    assert not set(missed) & set(runs_of(person, "features"))

    assert reconcile(person, "found") == "success"
    followed(person, missed)
    assert reconcile(person, "again") == "skipped"
    until(lambda: quiet(person), 300, lambda: person.runs("features"))
    new = dict.fromkeys([*missed, later], 1)
    assert {pipeline: runs_of(person, pipeline) - before[pipeline] for pipeline in FOLLOWERS.values()} == (
        dict.fromkeys(FOLLOWERS.values(), new)
    )
