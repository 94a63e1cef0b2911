"""Processes that add to one decision log at once."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from datetime import UTC, date, datetime
from multiprocessing.synchronize import Barrier

from evergreen.contract import RunIdentity
from evergreen.judgement.events import Event, append, read_events
from evergreen.store import ArtifactStore, get_store

MODEL = "raced"


def _event(who: int, number: int) -> Event:
    run = RunIdentity(dag_id=f"{MODEL}.train", run_id=f"{who}-{number}", task_id="register")
    noon = datetime(2013, 6, 1, 12, tzinfo=UTC)  # all of one instant
    fields = {"kind": "registered", "model": MODEL, "at": noon, "run": run, "partition": date(2013, 5, 31)}
    return Event.model_validate({**fields, "training": run.run_id, "version": f"{who}"})


def _write(who: int, events: int, ready: Barrier) -> None:
    try:
        store = get_store()
        ready.wait(120)
        for number in range(events):
            append(store, _event(who, number))
            append(store, _event(who, number))  # a retry, which says the same again
    finally:
        os._exit(0)  # what the test's own process cleans up is not a child's to clean up


def assert_none_is_lost(store: ArtifactStore, count: int, events: int = 1) -> None:
    """Every event of so many processes is in the log once, numbered without a gap, each process's own in its order."""
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(count)
    processes = [context.Process(target=_write, args=(who, events, ready)) for who in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    found = read_events(store, MODEL)
    assert [one.number for one in found] == list(range(1, count * events + 1))
    own = {who: [one.training for one in found if one.version == f"{who}"] for who in range(count)}
    assert own == {who: [f"{who}-{number}" for number in range(events)] for who in range(count)}
    assert set(Counter(one.training for one in found).values()) == {1}
