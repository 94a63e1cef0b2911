"""Events of a log, and processes that add to one at once."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from datetime import UTC, date, datetime
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

from typer.testing import CliRunner

from evergreen.catalog import load_model
from evergreen.cli import app
from evergreen.contract import Request, RunIdentity, StepError, Window
from evergreen.judgement.audit import append, read_events
from evergreen.judgement.decisions import decision_of
from evergreen.judgement.events import Event, Judgement, last_move
from evergreen.judgement.evidence import Baseline, Candidate, Decision, Evaluation, SliceScore
from evergreen.steps import promote
from evergreen.store import ArtifactStore, get_store
from evergreen.training.registry import Version

MODEL = "raced"
_NOON = datetime(2013, 6, 1, 12, tzinfo=UTC)
_DAY = date(2013, 5, 31)
WINDOW = Window(start=date(2013, 5, 2), end=_DAY)
TRAINING = Window(start=date(2013, 2, 1), end=date(2013, 5, 1))


def event(kind: str, training: str, *, at: datetime = _NOON, model: str = MODEL, **fields: object) -> Event:
    """Return an event about a training."""
    run = RunIdentity(dag_id=f"{model}.train", run_id=training or "by hand", task_id="promote")
    given = {"kind": kind, "model": model, "at": at, "run": run, "partition": _DAY, "training": training}
    return Event.model_validate({**given, **fields})


def evaluation(champion: str | None = "1", model: str = MODEL) -> Evaluation:
    """Return an evaluation that justifies a promotion of flight_delay."""
    metrics = {"auc": 0.75, "log_loss": 0.4, "brier": 0.1}
    better = {"improvement": 0.05, "low": 0.04, "high": 0.06}
    row = {"column": "origin", "rows": 900, "partitions": 30, **better}
    rival = Candidate(version=champion or "", run_id="q", training=TRAINING, metrics={"auc": 0.7})
    return Evaluation(
        model=model,
        metric="auc",
        window=WINDOW,
        rows=9000,
        partitions=30,
        dataset="d",
        challenger=Candidate(run_id="r", training=TRAINING, metrics=metrics),
        champion=rival if champion else None,
        baseline=None if champion else Baseline(name="constant", score=0.5, **better),
        slices=tuple(SliceScore(value=value, **row) for value in ("EWR", "JFK")),  # type: ignore[arg-type]
        confidence=0.95,
        **better,
    )


def decided(
    training: str,
    *,
    at: datetime = _NOON,
    model: str = MODEL,
    champion: str | None = "1",
    why: str = "better beyond noise",
) -> Event:
    """Return the event of a gate that says yes."""
    given = {
        "decision": Decision.PROMOTE,
        "why": why,
        "requested_by": "drift",
        "config_digest": "c",
        "code_version": "v",
    }
    judgement = Judgement.model_validate({**given, "evaluation": evaluation(champion, model)})
    return event("decided", training, at=at, model=model, judgement=judgement)


def log(*events: Event) -> None:
    """Add events to their logs."""
    for one in events:
        assert isinstance(append(get_store(), one), Event)


def four() -> None:
    """Log what comes of a training: four records, all signed."""
    log(decided("a"), event("registered", "a", version="2"), event("approved", "a", by="ada", version="2"))
    log(event("promoted", "a", version="2", previous="1", by="ada"))


def invoke(*arguments: str) -> tuple[str, str]:
    """Run an ``evergreen`` command; returns what it printed, and its error."""
    done = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "250"})
    assert done.exception is None or isinstance(done.exception, StepError | SystemExit), done.exception
    return done.output, str(done.exception or "")


def _registered(who: int, number: int) -> Event:
    return event("registered", f"{who}-{number}", version=f"{who}")


def _write(who: int, events: int, ready: Barrier) -> None:
    try:
        store = get_store()
        ready.wait(120)
        for number in range(events):
            append(store, _registered(who, number))
            append(store, _registered(who, number))  # a retry, which says the same again
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


def promotions_of_two_processes(rounds: int, model: str = "flight_delay") -> list[list[str]]:
    """Let two processes promote a challenger each, at once and again and again; returns each round's answers."""
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(2)
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    processes = [
        context.Process(target=_promote, args=(who, model, rounds, ready, pipe[1])) for who, pipe in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    answers = [reader.recv() for reader, _ in pipes]
    for process in processes:
        process.join(60)
    return [[*pair] for pair in zip(*answers, strict=True)]


def _promote(who: int, model: str, rounds: int, ready: Barrier, answers: Connection) -> None:
    try:
        spec, store, found = load_model(model), get_store(), []
        rule = {"rule": "confidence", "minimum_improvement": 0.0}
        spec = spec.model_copy(update={"gate": spec.gate.model_copy(update=rule)})
        for number in range(rounds):
            champion = last_move(read_events(store, model))
            ready.wait(120)  # both know the same champion
            run = RunIdentity(dag_id=f"{model}.train", run_id=f"{number}-{who}", task_id="promote")
            append(store, decided(run.run_id, model=model, champion=champion.version if champion else None))
            request = Request(step="promote", model=model, window=Window(start=_DAY, end=_DAY), run=run)
            record = decision_of(read_events(store, model), request)
            assert record
            ready.wait(120)
            logged = promote._logged(
                request, spec, record, Version(model, f"{number}.{who}", "r"), record.judgement.requested_by
            )
            found.append("promoted" if isinstance(logged, Event) else logged.status.value)
            ready.wait(120)
        answers.send(found)
    finally:
        os._exit(0)
