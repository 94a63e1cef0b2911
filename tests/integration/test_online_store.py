"""The online store has the newest known row of every key, in whatever order days are materialized."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event

import pandas as pd
import pyarrow as pa
import pytest

from data_steps import MODEL, day
from evergreen.catalog import load_model
from evergreen.contract import Window
from evergreen.data.lake import get_lake
from evergreen.features import feast_repo, feature_store
from evergreen.features.feast_repo import apply, definitions, get_feature_store
from evergreen.features.feature_store import materialize
from evergreen.settings import Settings
from evergreen.spec import FeatureView, ModelSpec

pytestmark = pytest.mark.integration
VIEW = "carrier_history"
FIRST, LATER, LAST = day("2013-01-10"), day("2013-01-13"), day("2013-01-15")
ALL = Window(start=FIRST.start, end=LAST.end)


@pytest.fixture
def spec(lake_settings: Settings) -> ModelSpec:
    """Return the model with one of its views, and nothing in the lake."""
    whole = load_model(MODEL)
    views = tuple(view for view in whole.features.views if view.name == VIEW)
    spec = whole.model_copy(update={"features": whole.features.model_copy(update={"views": views})})
    apply(spec)
    return spec


def write(window: Window, *rows: tuple[Window, str, float]) -> None:
    days = [each.start for each, _, _ in rows]
    table = pa.table(
        {
            "ds": pa.array(map(str, days), pa.string()),
            "carrier": pa.array([carrier for _, carrier, _ in rows], pa.string()),
            "event_timestamp": pa.array(
                [datetime(on.year, on.month, on.day, 12, tzinfo=UTC) for on in days], pa.timestamp("us", tz="UTC")
            ),
            "carrier_late_rate": pa.array([rate for _, _, rate in rows], pa.float64()),
            "carrier_flights": pa.array([1] * len(rows), pa.int64()),
        }
    )
    get_lake().write(MODEL, VIEW, table, window)


def online(*carriers: str) -> list[float | None]:
    found = get_feature_store().get_online_features(
        [f"{MODEL}_{VIEW}:carrier_late_rate"], [{"carrier": name} for name in carriers]
    )
    rates: list[float | None] = found.to_dict()["carrier_late_rate"]
    return rates


def test_an_old_day_takes_no_key_back_that_it_does_not_even_have(spec: ModelSpec) -> None:
    """BB's newest row lies after the only day of ZZ that is older than it."""
    write(
        ALL,
        (FIRST, "AA", 0.1),
        (FIRST, "BB", 0.2),
        (LATER, "BB", 0.3),
        (day("2013-01-11"), "ZZ", 0.4),
        (LAST, "ZZ", 0.9),
    )
    assert materialize(spec, ALL) == {VIEW: 3}
    assert materialize(spec, FIRST) == {VIEW: 2}
    assert online("AA", "BB", "ZZ") == [0.1, 0.3, 0.9]


def test_of_two_materializations_at_once_the_newest_row_stays(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has read the lake before the later day is built, and writes after the second was started."""
    write(FIRST, (FIRST, "AA", 0.1))
    reached, go_on = Event(), Event()
    original: Callable[..., pd.DataFrame] = feature_store._latest

    def slow(spec: ModelSpec, view: FeatureView, window: Window) -> pd.DataFrame:
        rows = original(spec, view, window)
        if window == FIRST:
            reached.set()
            assert go_on.wait(60)
        return rows

    monkeypatch.setattr(feature_store, "_latest", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(materialize, spec, FIRST)
        assert reached.wait(60)
        write(LATER, (LATER, "AA", 0.3))
        second = pool.submit(materialize, spec, LATER)
        await_condition(lambda: second.done() or is_lock_awaited())
        go_on.set()
        assert first.result(60) == second.result(60) == {VIEW: 1}
    assert online("AA") == [0.3]


def test_what_another_process_has_registered_meanwhile_is_known(lake_settings: Settings) -> None:
    """Two days of a new model are materialized at once: the second reads the registry while the first fills it."""
    spec, store = load_model(MODEL), get_feature_store()
    entity = next(one for one in definitions(spec) if one.name == "carrier")
    store.apply([entity])
    store.refresh_registry()
    get_feature_store.cache_clear()
    assert apply(spec), "another process registers the rest"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feast_repo, "get_feature_store", lambda: store)
        assert not apply(spec)
    found = store.get_online_features([f"{MODEL}_airport_weather:temp"], [{"origin": "JFK"}])
    assert found.to_dict()["temp"] == [None]


def is_lock_awaited() -> bool:
    from sqlalchemy import NullPool, create_engine, text

    from evergreen.settings import get_settings

    engine = create_engine(get_settings().database("feast"), poolclass=NullPool)
    with engine.connect() as connection:
        awaited = connection.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
    return bool(awaited)


def await_condition(met: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)
