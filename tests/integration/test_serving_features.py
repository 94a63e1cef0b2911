"""The engine sees the features that training saw: the same store, the same bounds of time, the same nulls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from evergreen.catalog import load_model
from evergreen.data.lake import get_lake
from evergreen.features.feast_repo import apply
from evergreen.features.feature_store import materialize, training_set
from evergreen.serving.answers import Answer
from evergreen.serving.deployment import Deployment
from evergreen.serving.engine import Engine
from evergreen.serving.log_files import log_keys, log_schema, read_log
from evergreen.serving.online_features import CACHED_SECONDS, OnlineFeatures
from evergreen.serving.online_store import repo_config
from evergreen.serving.prediction_log import PredictionLog
from evergreen.serving.requests import Column, InvalidRequestError, Rows
from evergreen.settings import get_settings
from evergreen.spec import ModelSpec
from evergreen.spec.serving import Unavailable
from evergreen.store import get_store
from isolation import own_settings
from serving_engine_kit import DAY, KNOWN, MODEL, NUMBERS, TTL, variant, write_features, write_model

pytestmark = pytest.mark.integration
MOMENT = timedelta(microseconds=1)
PEOPLE = [(1, KNOWN, {"age": 30}), (2**53 + 1, KNOWN, {"age": None})]
PLACES = [("a", KNOWN, {"height": 1.5, "rain": None}), ("ü", KNOWN, {"height": 2.5, "rain": 3.5})]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[ModelSpec]:
    """A model whose features are materialized."""
    folder = tmp_path_factory.mktemp("served")
    with own_settings(folder, postgres_url), pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVERGREEN_MODELS_DIR", str(folder / "models"))
        patch.setenv("EVERGREEN_FEATURE_REPO", str(folder / "feature_repo"))
        get_settings.cache_clear()
        repo_config.cache_clear()
        write_model(folder)
        spec = load_model(MODEL)
        apply(spec)
        write_features("places", PLACES)
        write_features("people", PEOPLE)
        materialize(spec, DAY)
        yield spec
        repo_config.cache_clear()


def serving(spec: ModelSpec, policy: Unavailable) -> ModelSpec:
    told = spec.serving.model_copy(update={"missing_features": policy, "stale_features": policy})
    return spec.model_copy(update={"serving": told})


def offline(spec: ModelSpec, keys: list[tuple[str, int]], at: datetime) -> list[dict[str, float | None]]:
    rows = {
        "ds": [str(DAY.start)] * len(keys),
        "place": [place for place, _ in keys],
        "person": [person for _, person in keys],
        "event_timestamp": pa.array([at] * len(keys), pa.timestamp("us", tz="UTC")),
        "amount": [float(number) for number in range(len(keys))],
        "outcome": [1.0] * len(keys),
    }
    get_lake().write(MODEL, "examples", pa.table(rows), DAY)
    found = training_set(spec, DAY).sort_values("amount")[list(NUMBERS)]
    return found.astype(object).where(found.notna(), None).to_dict("records")


def online(spec: ModelSpec, keys: list[tuple[str, int]], at: datetime) -> list[dict[str, float | None]]:
    features = OnlineFeatures(serving(spec, Unavailable.SERVE))
    columns = {"place": [place for place, _ in keys], "person": [person for _, person in keys]}
    values = features.read(columns, [at] * len(keys)).values
    values["amount"] = [float(number) for number in range(len(keys))]
    return [{name: values[name][row] for name in NUMBERS} for row in range(len(keys))]


KEYS = [("a", 1), ("ü", 2**53 + 1), ("nowhere", 1), ("a", 99), ("ü", 1), ("a", 1)]


@pytest.mark.parametrize("at", [KNOWN - MOMENT, KNOWN, KNOWN + timedelta(hours=5), KNOWN + TTL], ids=str)
def test_a_row_is_answered_with_what_it_would_be_trained_with(spec: ModelSpec, at: datetime) -> None:
    found, expected = online(spec, KEYS, at), offline(spec, KEYS, at)
    assert found == expected
    assert any(row["height"] is not None for row in found) is (at >= KNOWN), "else nothing is compared"


def test_the_ttl_ends_where_the_join_says(spec: ModelSpec) -> None:
    """Later than that training sees nothing, and a server refuses: it would answer with what training never saw."""
    late = KNOWN + TTL + MOMENT
    assert offline(spec, [("a", 1)], late)[0]["height"] is None
    features = OnlineFeatures(spec)
    [problem] = features.read({"place": ["a"], "person": [1]}, [late]).problems[0]
    assert (problem.kind, problem.column, problem.value) == ("stale_features", "place", "a")
    told = "at most 36 hours old (ttl): those of place='a' are of 2024-01-02 06:00:00Z, 36 hours before"
    assert problem.expected == f"features of places {told}"
    assert not features.read({"place": ["a"], "person": [1]}, [KNOWN + TTL]).problems


def test_a_view_without_ttl_is_never_stale(spec: ModelSpec) -> None:
    late = KNOWN + timedelta(days=1000)
    found = OnlineFeatures(spec).read({"place": ["a"], "person": [1]}, [late])
    assert found.values["age"] == [30]
    assert [problem.column for problem in found.problems[0]] == ["place"]


def test_the_columns_of_a_request_are_keys_of_their_kind_and_inputs(spec: ModelSpec) -> None:
    assert OnlineFeatures(spec).columns == (
        Column("place", "string"),
        Column("person", "integer"),
        Column("amount", "number"),
    )


def test_a_key_that_nothing_can_hold_is_missing_and_fails_no_other_row(spec: ModelSpec) -> None:
    found = OnlineFeatures(spec).read({"place": ["a", "\ud800", "a"], "person": [2**64, 1, 1]}, [KNOWN] * 3)
    assert sorted(found.problems) == [0, 1]
    assert (found.values["height"], found.values["age"]) == ([1.5, None, 1.5], [None, 30, 30])


def test_a_materialization_is_seen_when_the_cache_is_old(spec: ModelSpec) -> None:
    now = 0.0
    features = OnlineFeatures(spec, lambda: now)
    asked = {"place": ["new"], "person": [1]}
    assert features.read(asked, [KNOWN]).problems
    write_features("places", [*PLACES, ("new", KNOWN, {"height": 7.0})])
    materialize(spec, DAY)
    now = CACHED_SECONDS - 0.1
    assert features.read(asked, [KNOWN]).problems
    now = CACHED_SECONDS
    found = features.read(asked, [KNOWN])
    assert (found.values["height"], found.problems) == ([7.0], {})


def test_one_bad_request_of_a_batch_fails_alone_and_all_of_it_is_logged(spec: ModelSpec, tmp_path: Path) -> None:
    async def ask() -> list[list[Answer] | BaseException]:
        def rows(places: list[str], people: list[int]) -> Rows:
            return Rows({"place": places, "person": people, "amount": [1.0] * len(places)}, KNOWN)

        with PredictionLog.of(spec, features) as written:
            engine = Engine(spec, features, written)
            engine.use(Deployment(variant("7")))
            found = await asyncio.gather(
                engine.predict(rows(["ü"], [1]), "one"),
                engine.predict(rows(["ü", "nowhere"], [1, 1]), "two"),
                engine.predict(rows(["a", "ü"], [1, 1]), "three"),
                return_exceptions=True,
            )
            await engine.drain()
            engine.close()
            return found

    patient = spec.serving.model_copy(update={"maximum_wait_ms": 30_000})
    spec = spec.model_copy(update={"serving": patient})
    features = OnlineFeatures(spec)
    first, second, third = asyncio.run(ask())
    assert [answer.outputs["probability"] for answer in first] == [37.0]
    assert [answer.outputs["probability"] for answer in third] == [1032.5, 37.0]
    assert isinstance(second, InvalidRequestError)
    assert [(problem.row, problem.value) for problem in second.problems] == [(1, "nowhere")]
    columns = {column.name: column.type for column in log_schema(spec, ["person"])}
    table = read_log(get_store(), log_keys(get_store(), MODEL), columns).table.to_pylist()
    logged = {row["prediction_id"]: row for row in table}
    assert {answer.prediction_id for answer in [*first, *third]} == {
        name for name, row in logged.items() if row["status"] == "ok"
    }
    assert [row["reason"] for row in table if row["status"] == "refused"] == ["missing_features: place"] * 2
    kept = logged[first[0].prediction_id]
    told = {"version": "7", "client": "one", "request_place": "ü", "request_person": 1, "feature_rain": 3.5}
    assert kept | told | {"output_probability": 37.0, "age_places": 0.0, "event_timestamp": KNOWN} == kept
    assert replace(first[0], prediction_id="") == Answer("", "7", "champion", {"probability": 37.0})


@pytest.mark.parametrize(("models", "kept"), [(1, 1_000_000), (4, 250_000)])
def test_the_models_of_a_server_share_its_spool(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, models: int, kept: int
) -> None:
    monkeypatch.setenv("EVERGREEN_SERVING_SPOOL_MEGABYTES", "1")
    get_settings.cache_clear()
    told = {"prediction_id": "x" * 10_000, "outcome": "1", "client": "me", "at": KNOWN, "event_timestamp": KNOWN}
    with PredictionLog.of(spec, OnlineFeatures(spec), models) as written:
        most = next(number for number in range(1000) if not written.append([told]))
    assert kept * 0.9 < most * 10_000 < kept
    get_settings.cache_clear()
