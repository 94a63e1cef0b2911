"""Whatever comes in whatever order, each request gets its own answers, or one error."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergreen.catalog import load_model
from evergreen.contract import DataError
from evergreen.serving.answers import Answer
from evergreen.serving.batches import new_id
from evergreen.serving.deployment import Deployment, Variant
from evergreen.serving.engine import LANES, Engine
from evergreen.serving.following import refuse_unfit
from evergreen.serving.online_features import FeatureRows
from evergreen.serving.requests import (
    Column,
    InvalidRequestError,
    OverloadedError,
    Problem,
    Rows,
    Value,
    VersionAwayError,
)
from evergreen.spec import ModelSpec, Task
from evergreen.training.graph import Graph, GraphDescription
from serving_engine_kit import summing_graph

GRAPH = summing_graph()


def asking_graph(*names: str) -> Graph:
    """Return a graph that asks for other columns than its server may have."""
    return Graph(GraphDescription(numeric=names, outputs=("probability",)), GRAPH.session)


MOST = 40


class Held:
    """Features that are read when they are let: height, rain and age are 0, a place ``bad`` is refused."""

    columns = (Column("place", "string"), Column("amount", "number"))

    def __init__(self, *, held: bool = False) -> None:
        self.go_on = threading.Event()
        self.reads: list[int] = []
        if not held:
            self.go_on.set()

    def read(self, keys: Mapping[str, Sequence[Value]], at: Sequence[datetime]) -> FeatureRows:
        assert self.go_on.wait(60)
        self.reads.append(len(at))
        problems = {
            row: [Problem(row, "place", place, "another", "missing_features")]
            for row, place in enumerate(keys["place"])
            if place == "bad"
        }
        return FeatureRows({name: [0.0] * len(at) for name in ("height", "rain", "age")}, {}, problems)


def engine_of(features: Any, **serving: Any) -> Engine:
    whole: ModelSpec = load_model("flight_delay")
    told = {"maximum_wait_ms": 60_000, **serving}
    return Engine(whole.model_copy(update={"serving": whole.serving.model_copy(update=told)}), features)


def rows(*amounts: float, place: str = "a") -> Rows:
    return Rows({"place": [place] * len(amounts), "amount": list(amounts)})


def amounts(answers: list[Answer]) -> list[float]:
    return [answer.outputs["probability"] for answer in answers]


REQUESTS = st.lists(
    st.tuples(st.integers(1, 15), st.sampled_from(["asked", "bad", "cancelled", "swap"]), st.booleans()), max_size=25
)


@given(REQUESTS)
@settings(max_examples=60)
def test_every_request_gets_exactly_its_own(requests: list[tuple[int, str, bool]]) -> None:
    async def go() -> None:
        engine = engine_of(Held(), maximum_waiting_rows=MOST)
        engine.use(Deployment(Variant("0", GRAPH)))
        tasks, sent, ids = [], 0, set()
        for version, (size, kind, pause) in enumerate(requests):
            if kind == "swap":
                engine.use(Deployment(Variant(str(version), GRAPH)))
            wanted = [float(sent + number) for number in range(size)]
            sent += size
            place = "bad" if kind == "bad" else "a"
            tasks.append((kind, wanted, asyncio.ensure_future(engine.predict(rows(*wanted, place=place), "me"))))
            if pause:
                await asyncio.sleep(0)
            assert engine._waiting_rows <= MOST
            if kind == "cancelled":
                tasks[-1][2].cancel()
        for kind, wanted, task in tasks:
            (found,) = await asyncio.gather(task, return_exceptions=True)
            if kind == "cancelled":
                assert isinstance(found, asyncio.CancelledError | OverloadedError)
            elif isinstance(found, list):
                assert kind != "bad"
                assert amounts(found) == wanted
                assert len({answer.version for answer in found}) == 1
                assert ids.isdisjoint(answer.prediction_id for answer in found)
                ids |= {answer.prediction_id for answer in found}
            else:
                assert isinstance(found, OverloadedError) or (kind == "bad" and isinstance(found, InvalidRequestError))
        await engine.drain()
        assert (engine._waiting_rows, engine._queued_rows, engine._queue) == (0, 0, {})
        assert amounts(await engine.predict(rows(5.0), "me")) == [5.0]
        engine.close()

    asyncio.run(go())


def test_what_waits_is_computed_together_and_what_was_given_up_is_not() -> None:
    async def go() -> list[int]:
        features = Held(held=True)
        engine = engine_of(features)
        engine.use(Deployment(Variant("0", GRAPH)))
        first = []
        for number in range(LANES):  # every lane is busy
            first.append(asyncio.ensure_future(engine.predict(rows(float(number)), "me")))
            await until(lambda: engine._in_flight == len(first))
        later = [asyncio.ensure_future(engine.predict(rows(1.0, 2.0), "me")) for _ in range(10)]
        await asyncio.sleep(0)
        later[3].cancel()
        await asyncio.sleep(0)
        features.go_on.set()
        await asyncio.gather(*first, *later, return_exceptions=True)
        engine.close()
        return sorted(features.reads)

    assert asyncio.run(go()) == [1] * LANES + [18]


def test_a_request_is_refused_when_it_has_waited_too_long_and_one_more_when_there_is_no_room() -> None:
    async def go() -> None:
        features = Held(held=True)
        engine = engine_of(features, maximum_waiting_rows=LANES + 1, maximum_wait_ms=20)
        with pytest.raises(OverloadedError, match="no version"):
            await engine.predict(rows(1.0), "me")
        engine.use(Deployment(Variant("0", GRAPH)))
        first = []
        for number in range(LANES):
            first.append(asyncio.ensure_future(engine.predict(rows(float(number)), "me")))
            await until(lambda: engine._in_flight == len(first))
        waiting = asyncio.ensure_future(engine.predict(rows(1.0), "me"))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="3 rows of 3 requests wait"):
            await engine.predict(rows(1.0), "me")
        with pytest.raises(OverloadedError, match="20 ms"):
            await waiting
        features.go_on.set()
        assert [amounts(await task) for task in first] == [[0.0], [1.0]]
        engine.close()

    asyncio.run(go())


def test_a_graph_that_fails_on_one_request_fails_no_other() -> None:
    async def go() -> list[Any]:
        engine = engine_of(Held())
        engine.use(Deployment(Variant("0", GRAPH)))
        asked = [rows(1.0), Rows({"place": ["a"], "amount": ["text"]}), rows(3.0)]
        found = await asyncio.gather(*(engine.predict(one, "me") for one in asked), return_exceptions=True)
        engine.close()
        return found

    first, second, third = asyncio.run(go())
    assert (amounts(first), amounts(third)) == ([1.0], [3.0])
    assert "ValueError" in str(second)


def test_the_split_gives_each_row_its_variant() -> None:
    async def go() -> list[Answer]:
        engine = engine_of(Held())
        challenger = Variant("9", summing_graph(2.0))
        engine.use(Deployment(Variant("8", GRAPH), challenger, share=0.5, salt="s", split_by=("amount",)))
        found = await engine.predict(rows(*map(float, range(1, 101))), "me")
        engine.close()
        return found

    found = asyncio.run(go())
    for number, answer in enumerate(found, start=1):
        challenged = answer.variant == "challenger"
        assert (answer.version, answer.outputs["probability"]) == (("9", 2.0 * number) if challenged else ("8", number))
    assert 20 < sum(answer.variant == "challenger" for answer in found) < 80


def pinned(asked: Rows, version: str) -> Rows:
    return replace(asked, version=version)


@pytest.mark.parametrize(("version", "weight"), [("8", 1.0), ("9", 2.0)])
def test_a_version_that_is_named_answers_every_row_and_is_no_evidence(version: str, weight: float) -> None:
    kept = Kept()
    asked = rows(*map(float, range(1, 41)))

    async def go() -> tuple[list[Answer], list[Answer]]:
        engine = engine_of(Held())
        engine._log = kept  # type: ignore[assignment]
        engine.use(
            Deployment(Variant("8", GRAPH), Variant("9", summing_graph(2.0)), 0.5, False, "e1", "s", ("amount",))
        )
        assert engine.versions == ["8", "9"]
        found = await asyncio.gather(engine.predict(pinned(asked, version), "one"), engine.predict(asked, "two"))
        engine.close()
        return found[0], found[1]

    chosen, split = asyncio.run(go())
    assert {answer.version for answer in chosen} == {version}
    assert amounts(chosen) == [weight * number for number in range(1, 41)]
    assert {answer.version for answer in split} == {"8", "9"}, "the other request of the batch is split as ever"
    logged = {(one["client"], one["experiment"]) for one in kept.records}
    assert logged == {("one", "none"), ("two", "e1")}
    assert {one["version"] for one in kept.records if one["client"] == "one"} == {version}


def test_a_challenger_in_the_shadow_answers_nobody_and_no_row_of_a_chosen_version_again() -> None:
    kept = Kept()

    async def go() -> list[Any]:
        engine = engine_of(Held())
        engine._log = kept  # type: ignore[assignment]
        engine.use(Deployment(Variant("8", GRAPH), Variant("9", summing_graph(2.0)), 1.0, True, "e1"))
        assert engine.versions == ["8"]
        asked = [pinned(rows(1.0), "9"), pinned(rows(2.0), "8"), rows(3.0)]
        found = await asyncio.gather(*(engine.predict(one, "me") for one in asked), return_exceptions=True)
        await until(lambda: any(record["shadow"] for record in kept.records))
        engine.close()
        return found

    challenger, champion, neither = asyncio.run(go())
    assert isinstance(challenger, VersionAwayError)
    assert "version '9' of flight_delay does not answer; there is 8" in str(challenger)
    assert (amounts(champion), amounts(neither)) == ([2.0], [3.0])
    assert [one["request_amount"] for one in kept.records if one["shadow"]] == [3.0]


def test_a_version_that_goes_while_its_request_waits_is_not_stood_in_for() -> None:
    async def go() -> list[Any]:
        features = Held(held=True)
        engine = engine_of(features)
        engine.use(Deployment(Variant("8", GRAPH)))
        first = []
        for number in range(LANES):
            first.append(asyncio.ensure_future(engine.predict(rows(float(number)), "me")))
            await until(lambda: engine._in_flight == len(first))
        later = [asyncio.ensure_future(engine.predict(one, "me")) for one in (pinned(rows(1.0), "8"), rows(1.0))]
        await asyncio.sleep(0)
        engine.use(Deployment(Variant("9", GRAPH)))
        features.go_on.set()
        found = await asyncio.gather(*first, *later, return_exceptions=True)
        await engine.drain()
        engine.close()
        return found

    *first, gone, answered = asyncio.run(go())
    assert isinstance(gone, VersionAwayError)
    assert {answer.version for answers in first for answer in answers} == {"8"}
    assert [answer.version for answer in answered] == ["9"]


class Kept:
    """A log in memory."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []

    def append(self, records: Sequence[Mapping[str, Any]]) -> bool:
        self.records += records
        return True


UNANSWERED = [summing_graph(float("inf")), summing_graph(float("nan")), asking_graph("a column that nobody has")]


@pytest.mark.parametrize("graph", UNANSWERED, ids=["infinite", "nan", "another column"])
@pytest.mark.parametrize("shadow", [True, False])
def test_what_a_challenger_cannot_answer_is_an_error_of_the_challenger(graph: Graph, shadow: bool) -> None:
    kept = Kept()

    async def go() -> list[Any]:
        engine = engine_of(Held())
        engine._log = kept  # type: ignore[assignment]
        challenger = Variant("9", graph)
        engine.use(Deployment(Variant("8", GRAPH), challenger, 0.5, shadow, "e1", "s", ("amount",)))
        asked = [rows(float(number)) for number in range(1, 41)]
        found = await asyncio.gather(*(engine.predict(one, "me") for one in asked), return_exceptions=True)
        if shadow:
            await until(lambda: sum(record["shadow"] for record in kept.records) == len(asked))
        engine.close()
        return found

    failed = [one for one in asyncio.run(go()) if isinstance(one, Exception)]
    errors = [record for record in kept.records if record["status"] == "error"]
    assert {(one["variant"], one["version"], one["experiment"]) for one in errors} == {("challenger", "9", "e1")}
    assert all(one["version"] == "8" for one in kept.records if one["status"] == "ok")
    assert (len(errors), len(failed)) == ((40, 0) if shadow else (len(failed), len(failed)))
    assert errors


def test_a_row_that_is_refused_is_on_record_with_who_would_have_answered() -> None:
    kept = Kept()

    async def go() -> None:
        engine = engine_of(Held())
        engine._log = kept  # type: ignore[assignment]
        engine.use(Deployment(Variant("8", GRAPH), Variant("9", GRAPH), 1.0, False, "e1", "s", ("amount",)))
        with pytest.raises(InvalidRequestError):
            await engine.predict(rows(1.0, place="bad"), "me")
        engine.close()

    asyncio.run(go())
    assert [(one["status"], one["variant"], one["version"]) for one in kept.records] == [("refused", "challenger", "9")]


def test_the_shadow_answers_the_same_rows_for_the_log_alone() -> None:
    async def go() -> list[Answer]:
        engine = engine_of(Held())
        engine._log = kept  # type: ignore[assignment]
        engine.use(Deployment(Variant("8", GRAPH), Variant("9", summing_graph(2.0)), share=1.0, shadow=True))
        found = await asyncio.gather(
            engine.predict(rows(1.0), "me"),
            engine.predict(rows(5.0, place="bad"), "me"),
            engine.predict(rows(2.0), "me"),
            return_exceptions=True,
        )
        await until(lambda: sum(record["shadow"] for record in kept.records) == 2)
        engine.close()
        return [*found[0], *found[2]]

    kept = Kept()
    found = asyncio.run(go())
    assert [(answer.version, answer.outputs["probability"]) for answer in found] == [("8", 1.0), ("8", 2.0)]
    shadowed = [record for record in kept.records if record["shadow"]]
    assert [(one["version"], one["variant"], one["output_probability"]) for one in shadowed] == [
        ("9", "challenger", 2.0),
        ("9", "challenger", 4.0),
    ]
    assert [one["prediction_id"] for one in shadowed] == [answer.prediction_id for answer in found]


@pytest.mark.parametrize("shadow", [True, False])
def test_the_time_of_a_graph_is_its_own_whoever_answers_beside_it(shadow: bool) -> None:
    kept = Kept()

    async def go() -> None:
        engine = engine_of(Held())
        engine._log = kept  # type: ignore[assignment]
        slow = Variant("9", Slow(GRAPH.description, GRAPH.session))
        engine.use(Deployment(Variant("8", GRAPH), slow, 0.5, shadow, "e1", "s", ("amount",)))
        await engine.predict(rows(*map(float, range(1, 41))), "me")  # one batch, and both graphs in it
        if shadow:
            await until(lambda: any(record["shadow"] for record in kept.records))
        with pytest.raises(InvalidRequestError):
            await engine.predict(rows(1.0, place="bad"), "me")
        engine.close()

    asyncio.run(go())
    took: dict[tuple[str, str], set[float]] = {}
    for one in kept.records:
        took.setdefault((one["status"], one["variant"]), set()).add(one["graph_ms"])
    assert took.pop(("refused", "champion"), {None}) == took.pop(("refused", "challenger"), {None}) == {None}
    (fast,), (slow,) = took["ok", "champion"], took["ok", "challenger"]
    assert 0 < fast < slow >= Slow.MILLISECONDS


class Slow(Graph):
    """A graph that takes its time."""

    MILLISECONDS = 200

    def run(self, columns: Mapping[str, Sequence[Value]]) -> dict[str, Any]:
        time.sleep(self.MILLISECONDS / 1000)
        return super().run(columns)


def test_a_version_that_asks_for_a_column_that_its_server_lacks_is_refused_by_name() -> None:
    engine = engine_of(Held())
    refuse_unfit("m", Variant("8", asking_graph("amount", "dep_time")), {*engine.supplied, "dep_time"})
    with pytest.raises(DataError, match="version 9 of m asks for tail, gate, and this server has no such column: it"):
        refuse_unfit("m", Variant("9", asking_graph("amount", "tail", "gate")), engine.supplied)
    engine.close()


def test_feedback_may_name_a_class_that_the_challenger_alone_knows() -> None:
    kept = Kept()

    async def go() -> None:
        engine = engine_of(Held())
        engine._log = kept  # type: ignore[assignment]
        engine._spec = engine._spec.model_copy(update={"task": Task.MULTICLASS})
        known = [Graph(GraphDescription(outputs=outputs), GRAPH.session) for outputs in (("a", "b"), ("a", "b", "c"))]
        engine.use(Deployment(Variant("8", known[0]), Variant("9", known[1]), 0.5, False, "e1", "s", ("amount",)))
        await engine.feedback(new_id(datetime(2024, 1, 1, tzinfo=UTC)), "c", "me")
        with pytest.raises(InvalidRequestError):
            await engine.feedback(new_id(datetime(2024, 1, 1, tzinfo=UTC)), "d", "me")
        engine.close()

    asyncio.run(go())
    assert [one["outcome"] for one in kept.records] == ["c"]


async def until(met: Any, seconds: float = 60) -> None:
    async def wait() -> None:
        while not met():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(wait(), seconds)
