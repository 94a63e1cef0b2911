"""Data steps on an empty lake: days without data, steps before their turn, replays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from data_steps import MODEL, day, run, run_all
from evergreen.catalog import load_model
from evergreen.contract import RunIdentity, Status, Window
from evergreen.data.lake import get_lake
from evergreen.features.feast_repo import apply, get_feature_store, import_feast
from evergreen.features.feature_store import training_set
from evergreen.runner import build_request, execute
from evergreen.settings import Settings
from evergreen.spec import Features

pytestmark = pytest.mark.integration


def test_a_replay_from_snapshots_reads_what_was_read(lake_settings: Settings) -> None:
    window = Window(start=date(2013, 1, 1), end=date(2013, 1, 3))
    run_all(window)
    lake, spec = get_lake(), load_model(MODEL)
    tables = ["examples", *(view.name for view in spec.features.views)]
    snapshots = {table: lake.snapshot(MODEL, table) for table in tables}
    before = training_set(spec, window)
    for table in tables:
        rows = lake.read(MODEL, table, window)
        lake.write(MODEL, table, rows.slice(0, rows.num_rows // 2), window)
    assert training_set(spec, window, snapshots=snapshots).equals(before)
    assert len(training_set(spec, window)) < len(before)


def test_a_null_or_a_fraction_changes_no_category_beside_it(lake_settings: Settings) -> None:
    """pandas has no whole numbers beside one: 5 became 5.0, which a champion trained on 5 has never seen."""
    spec = load_model(MODEL)
    examples = spec.features.examples.model_copy(update={"label": "late"})
    features = Features(examples=examples, numeric=("hops",), categorical=("shop", "open", "size"))
    spec = spec.model_copy(update={"features": features})
    long = 1234567890123456789
    full = {"late": [0, 1, 1], "shop": [5, 7, long], "hops": [1, 2, 3], "open": [True, False, True]}
    nulls: dict[str, list[int | bool | None]] = {"late": [None], "shop": [None], "hops": [None], "open": [None]}
    sizes = [38.0, 39.0, 40.0, 40.5]
    times = [datetime(2013, 1, 1, hour, tzinfo=UTC) for hour in range(4)]
    for text, rows in (("2013-01-01", full), ("2013-01-02", {name: [*full[name], *nulls[name]] for name in full})):
        count = len(rows["late"])
        more = {"ds": [text] * count, "event_timestamp": times[:count], "size": sizes[:count]}
        table = pa.table({**more, **rows})
        get_lake().write(MODEL, "examples", table, day(text))
    without, beside = (training_set(spec, day(text), labelled=False) for text in ("2013-01-01", "2013-01-02"))
    assert without["shop"].tolist() == ["5", "7", str(long)]
    assert beside["shop"].tolist() == ["5", "7", str(long), None]
    assert beside["size"].tolist() == [*without["size"], "40.5"] == ["38", "39", "40", "40.5"]
    assert beside["open"].tolist() == [*without["open"], None]
    assert beside["hops"].dtype == without["hops"].dtype == "float64"


def test_a_day_nothing_exists_for_is_skipped_with_the_reason(lake_settings: Settings) -> None:
    manifest = run("ingest", day("2014-01-02"))
    assert manifest.status is Status.SKIPPED
    nothing = "0 rows of flights, 0 rows of arrivals, 0 rows of weather"
    assert manifest.reason == f"The sources have nothing for 2014-01-02 ({nothing})."
    assert not get_lake().has(MODEL, "raw_flights")


def test_a_window_with_missing_days_succeeds_and_names_them(lake_settings: Settings) -> None:
    manifest = run("ingest", Window(start=date(2013, 12, 30), end=date(2014, 1, 2)))
    assert manifest.status is Status.OK
    assert manifest.facts["missing"] == {
        "flights": ["2014-01-01", "2014-01-02"],
        "arrivals": ["2014-01-02"],  # the last flights of the year land in the night
        "weather": ["2013-12-31", "2014-01-01", "2014-01-02"],
    }
    with_rows = Window(start=date(2013, 12, 30), end=date(2013, 12, 31))
    assert [run(step, with_rows).status for step in ("ingest", "validate", "publish")] == [Status.OK] * 3


def test_nothing_is_published_that_was_not_ingested_and_validated(lake_settings: Settings) -> None:
    window = day("2013-03-01")
    identity = RunIdentity(dag_id="test", run_id="unvalidated", task_id="publish")
    for upstream, missing in (({}, "ingest"), ({"ingest": "ingest"}, "validate")):
        if upstream:
            execute(build_request("ingest", MODEL, window, identity.sibling("ingest"), {}, {}))
        manifest = execute(build_request("publish", MODEL, window, identity, upstream, {}))
        assert manifest.failure is not None
        assert manifest.failure.failure_class == "data"
        assert f"publish of flight_delay needs the manifest of {missing}" in manifest.failure.message
        assert f"--upstream {missing}=" in manifest.failure.hint


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("validate", "no table flight_delay.raw_flights"),
        ("build_features", "no table flight_delay.flights"),
        ("materialize", "no table flight_delay.airport_weather"),
    ],
)
def test_a_step_before_its_turn_says_what_is_missing(lake_settings: Settings, step: str, message: str) -> None:
    manifest = run(step, day("2013-03-01"))
    assert manifest.failure is not None
    assert manifest.failure.failure_class == "data"
    assert message in manifest.failure.message
    assert manifest.failure.hint


def test_the_registry_survives_being_opened_and_applied_to_by_many_at_once(lake_settings: Settings) -> None:
    def work(_: int) -> bool:
        get_feature_store.__wrapped__()  # without the cache: what each of many processes does
        return apply(load_model(MODEL))

    import_feast()
    get_lake()
    with ThreadPoolExecutor(4) as pool:
        changed = list(pool.map(work, range(4)))
    assert changed.count(True) == 1
