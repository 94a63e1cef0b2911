"""A day that arrives late, or again, is in everything that counts it: against plain pandas."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from data_steps import MODEL, day, run
from evergreen.catalog import load_function, load_model
from evergreen.contract import Status, Window
from evergreen.data import transform
from evergreen.data.lake import get_lake
from evergreen.data.tables import published_schema, raw_rows
from evergreen.features.feast_repo import get_feature_store
from evergreen.settings import Settings
from evergreen.steps import build_features
from flights_kit import examples_of, flights_of_the_year

pytestmark = pytest.mark.integration
BEFORE, LATE, AFTER = (
    Window(start=date(2013, 1, 1), end=date(2013, 1, 9)),
    day("2013-01-10"),
    Window(start=date(2013, 1, 11), end=date(2013, 1, 26)),
)
HISTORIES = {"route_history": ("route", 14), "carrier_history": ("carrier", 7)}


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    """The flights that arrived, of the day on which that was known."""
    year = flights_of_the_year().dropna(subset="known")
    return year.assign(ds=year["known"])


def expected(flights: pd.DataFrame, days: list[str], key: str, window: int) -> dict[tuple[str, str], tuple]:
    """Return (flights, share of them late) by day and key, over the days that have arrived."""
    daily = flights[flights["ds"].isin(days)].assign(late=lambda counted: counted["arr_delay"] > 15)
    found = {}
    for last in days:
        first = str(date.fromisoformat(last) - timedelta(days=window - 1))
        part = daily[daily["ds"].between(first, last)].groupby(key)["late"].agg(["size", "mean"])
        for name, known, rate in part.itertuples():
            found[last, name] = (known, pytest.approx(rate))
    return found


def built(table: str) -> dict[tuple[str, str], tuple]:
    key, _ = HISTORIES[table]
    short = table.removesuffix("_history")
    rows = get_lake().read(MODEL, table).to_pandas().sort_values(["ds", key])
    rates = rows[f"{short}_late_rate"].astype(object).where(rows[f"{short}_late_rate"].notna(), None)
    places, counts = zip(rows["ds"], rows[key], strict=True), rows[f"{short}_flights"]
    found = dict(zip(places, zip(counts, rates, strict=True), strict=True))
    assert len(found) == len(rows)
    return found


def assert_right(flights: pd.DataFrame) -> None:
    days = [name for name, _ in get_lake().partitions(MODEL, "arrivals")]
    for table, (key, window) in HISTORIES.items():
        assert built(table) == expected(flights, days, key, window)


def publish(window: Window) -> None:
    """Put the days into the published tables; what validation does is tested elsewhere."""
    spec = load_model(MODEL)
    days = [window.start + timedelta(days=offset) for offset in range(window.days)]
    for source in spec.sources:
        read = load_function(spec, source.reader)
        rows = pa.concat_tables([raw_rows(source, each, read(each)) for each in days])
        get_lake().write(MODEL, source.name, rows.select(published_schema(source).names), window)


def snapshots() -> dict[str, str]:
    return {table: get_lake().snapshot(MODEL, table) for table in ("examples", "airport_weather", *HISTORIES)}


def online(table: str, name: str) -> float:
    key, _ = HISTORIES[table]
    feature = f"{key}_late_rate"
    found = get_feature_store().get_online_features([f"{MODEL}_{table}:{feature}"], [{key: name}]).to_dict()
    return found[feature][0]


@pytest.fixture
def gap(lake_settings: Settings) -> Settings:
    """Twenty-five days in the lake; the tenth has not arrived."""
    for window in (BEFORE, AFTER):
        publish(window)
        run("build_features", window)
    return lake_settings


def test_a_late_day_is_in_every_history_that_counts_it(gap: Settings, flights: pd.DataFrame) -> None:
    assert_right(flights)
    before = snapshots()
    run("materialize", AFTER)
    publish(LATE)
    features = run("build_features", LATE)
    assert features.facts["rebuilt"] == {"examples": 2, "route_history": 13, "carrier_history": 6}
    assert features.facts["rebuilt_through"] == "2013-01-23"
    assert features.facts["rows"]["examples"] == len(examples_of("2013-01-10", "2013-01-10"))
    assert_right(flights)
    written = {output.name: output.version for output in features.outputs}
    assert written == snapshots()
    for table, version in written.items():  # one commit each
        history = [entry.snapshot_id for entry in get_lake().load(MODEL, table).history()]
        assert history.index(int(version)) - history.index(int(before[table])) <= 2  # an overwrite is delete and append
    assert run("materialize", LATE, {"build_features": "build_features"}).status is Status.OK
    newest = get_lake().read(MODEL, "carrier_history", day("2013-01-26")).to_pandas().set_index("carrier")
    assert online("carrier_history", "UA") == newest.loc["UA", "carrier_late_rate"]


def test_the_same_request_again_writes_nothing(gap: Settings) -> None:
    publish(LATE)
    first = run("build_features", LATE)
    before = snapshots()
    again = run("build_features", LATE)
    assert (again.outputs, again.facts) == (first.outputs, first.facts)
    assert snapshots() == before


def test_a_day_published_again_takes_back_what_it_said(gap: Settings, flights: pd.DataFrame) -> None:
    """The first time only every other arrival of it was there."""
    publish(LATE)
    lake = get_lake()
    whole = lake.read(MODEL, "arrivals", LATE)
    lake.write(MODEL, "arrivals", whole.take(list(range(0, whole.num_rows, 2))), LATE)
    run("build_features", LATE)
    with pytest.raises(AssertionError):
        assert_right(flights)
    publish(LATE)
    assert run("build_features", LATE).facts["rebuilt"]["route_history"] == 13
    assert_right(flights)


def test_a_day_that_is_emptied_is_taken_out_again(gap: Settings, flights: pd.DataFrame) -> None:
    publish(LATE)
    run("build_features", LATE)
    lake = get_lake()
    for table in ("flights", "arrivals", "weather"):
        lake.write(MODEL, table, lake.read(MODEL, table, LATE).slice(0, 0), LATE)
    emptied = run("build_features", LATE)
    assert emptied.status is Status.OK
    assert emptied.facts["rows"]["examples"] == 0
    assert_right(flights)


def test_days_in_order_rebuild_nothing(gap: Settings) -> None:
    publish(day("2013-01-27"))
    assert run("build_features", day("2013-01-27")).facts["rebuilt"] == {}


def test_a_day_that_is_published_while_another_is_built_is_in_both(gap: Settings, flights: pd.DataFrame) -> None:
    """The next day has read the lake before the late one is published, and writes after that one is built."""
    with pytest.MonkeyPatch.context() as patch:
        reached, go_on = threading.Event(), threading.Event()
        original = transform.build_examples

        def slow(*arguments):
            if not reached.is_set():
                reached.set()
                assert go_on.wait(60)
            return original(*arguments)

        patch.setattr(build_features, "build_examples", slow)
        with ThreadPoolExecutor(1) as pool:
            slower = pool.submit(run, "build_features", day("2013-01-11"))
            assert reached.wait(60)
            patch.setattr(build_features, "build_examples", original)
            publish(LATE)
            assert run("build_features", LATE).facts["rebuilt"]["route_history"] == 13
            go_on.set()
            assert slower.result(60).status is Status.OK
    assert_right(flights)


def test_read_only_what_is_needed(gap: Settings) -> None:
    publish(LATE)
    manifest = run("build_features", LATE)
    rows = get_lake().read(MODEL, "route_history", columns=["ds"])
    assert pc.max(rows["ds"]).as_py() == "2013-01-26"
    assert manifest.output("route_history").rows < rows.num_rows


def rename(window: Window, carriers: dict[str, str]) -> None:
    """Publish arrivals of other carriers."""
    lake = get_lake()
    rows = lake.read(MODEL, "arrivals", window)
    names = pa.array([carriers.get(name, name) for name in rows["carrier"].to_pylist()])
    lake.write(MODEL, "arrivals", rows.set_column(rows.column_names.index("carrier"), "carrier", names), window)


@pytest.fixture
def corrected(gap: Settings) -> Window:
    """The last day first said that HA flew, which had ceased a week before, and XX, which nobody knows."""
    last, whole = day("2013-01-26"), Window(start=BEFORE.start, end=AFTER.end)
    rename(whole, {"HA": "AA"})
    rename(day("2013-01-19"), {"F9": "HA"})  # the only day it flew: it has rows until the 25th
    run("build_features", whole)
    rename(last, {"UA": "XX", "B6": "HA"})
    run("build_features", last)
    run("materialize", whole)
    assert online("carrier_history", "XX") is not None
    rename(last, {"XX": "UA", "HA": "B6"})
    return last


def test_a_key_that_a_corrected_day_has_no_more_is_served_as_it_was_before(corrected: Window) -> None:
    run("build_features", corrected)
    assert run("materialize", corrected).status is Status.OK
    rates = get_lake().read(MODEL, "carrier_history").to_pandas().set_index(["ds", "carrier"])["carrier_late_rate"]
    assert online("carrier_history", "XX") is None
    assert ("2013-01-26", "HA") not in rates
    assert online("carrier_history", "HA") == rates["2013-01-25", "HA"]
    for name in ("UA", "B6"):
        assert online("carrier_history", name) == rates["2013-01-26", name]


def test_what_is_older_than_the_ttl_is_not_served_again(corrected: Window) -> None:
    week = Window(start=date(2013, 1, 19), end=corrected.end)
    rename(day("2013-01-19"), {"HA": "F9"})
    run("build_features", week)
    assert run("materialize", week).status is Status.OK
    assert online("carrier_history", "HA") is None


def test_the_keys_of_a_day_that_is_emptied_are_served_as_they_were_before(corrected: Window) -> None:
    lake = get_lake()
    for table in ("flights", "arrivals", "weather"):
        lake.write(MODEL, table, lake.read(MODEL, table, corrected).slice(0, 0), corrected)
    run("build_features", corrected)
    assert run("materialize", corrected).status is Status.OK
    before = lake.read(MODEL, "carrier_history", day("2013-01-25")).to_pandas().set_index("carrier")
    assert {name: online("carrier_history", name) for name in ("UA", "HA", "XX")} == {
        **before["carrier_late_rate"][["UA", "HA"]].to_dict(),
        "XX": None,
    }
