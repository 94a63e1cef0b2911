"""The data steps on real flights, through a real lake, Feast and online store, against plain pandas."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

import pandas as pd
import pyarrow.parquet as pq
import pytest

from data_steps import DATA, MODEL, day, run, run_all
from evergreen.catalog import load_model
from evergreen.contract import Manifest, Status, TemporaryError, Window
from evergreen.data.chunks import chunks_of, read_chunk
from evergreen.data.lake import get_lake
from evergreen.features.feast_repo import apply, get_feature_store
from evergreen.features.feature_store import example_columns, feature_tables, inputs_of, training_set
from evergreen.steps.assemble import immature
from flights_kit import data_folder, examples_of, flights_of_the_year, labels_of
from isolation import own_settings

pytestmark = pytest.mark.integration
SEASON = Window(start=date(2013, 1, 25), end=date(2013, 2, 14))


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[dict[str, Manifest]]:
    """Three weeks, published and materialized in one go."""
    with own_settings(tmp_path_factory.mktemp("season"), postgres_url):
        yield run_all(SEASON)


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    return flights_of_the_year()


@pytest.fixture(scope="module")
def weather() -> pd.DataFrame:
    year = pd.read_csv(data_folder() / "weather.csv")
    return year.assign(at=pd.to_datetime(year["time_hour"]))


def _in_season(flights: pd.DataFrame) -> pd.DataFrame:
    return flights[flights["ds"].between(str(SEASON.start), str(SEASON.end))]


def test_every_row_of_every_day_is_published_or_quarantined(
    season: dict[str, Manifest], flights: pd.DataFrame, weather: pd.DataFrame
) -> None:
    lake = get_lake()
    assert dict(lake.partitions(MODEL, "flights")) == _in_season(flights).groupby("ds").size().to_dict()
    observed = weather.assign(ds=pd.to_datetime(weather[["year", "month", "day"]]).dt.strftime("%Y-%m-%d"))
    published = dict(lake.partitions(MODEL, "weather"))
    quarantined = dict(lake.partitions(MODEL, "weather_quarantine"))
    for name, rows in _in_season(observed).groupby("ds").size().items():
        assert published[name] + quarantined.get(name, 0) == rows
    facts = season["publish"].facts
    arrivals = labels_of(str(SEASON.start), str(SEASON.end))
    assert dict(lake.partitions(MODEL, "arrivals")) == arrivals.groupby("known").size().to_dict()
    assert facts["rows"] == sum(published.values()) + len(_in_season(flights)) + len(arrivals)
    assert facts["quarantined"] == sum(quarantined.values()) == 1
    assert facts["snapshot"] == lake.snapshot(MODEL, "flights")


def test_the_broken_anemometer_is_in_quarantine_with_the_reason(season: dict[str, Manifest]) -> None:
    (row,) = get_lake().read(MODEL, "weather_quarantine").to_pylist()
    assert row["wind_speed"] == pytest.approx(1048.36058)
    assert row["ds"] == "2013-02-12"
    assert row["reason"] == "expect_column_values_to_be_between(wind_speed)"


def test_the_same_request_again_writes_nothing_and_gives_the_same_outputs(season: dict[str, Manifest]) -> None:
    lake = get_lake()
    before = {table: len(lake.load(MODEL, table).snapshots()) for table in ("raw_flights", "flights", "examples")}
    again = run_all(SEASON)
    for step in DATA:
        assert again[step].outputs == season[step].outputs
    assert {table: len(lake.load(MODEL, table).snapshots()) for table in before} == before


def test_every_manifest_names_what_it_read(season: dict[str, Manifest]) -> None:
    for earlier, later in (("ingest", "validate"), ("publish", "build_features"), ("build_features", "materialize")):
        written = {output.name: output.version for output in season[earlier].outputs}
        read = {given.name: given.version for given in season[later].inputs}
        assert read
        assert read.items() <= written.items()


def test_the_online_store_has_the_newest_row_of_every_key(season: dict[str, Manifest]) -> None:
    views = season["materialize"].facts["views"]
    assert season["materialize"].facts["online_rows"] == sum(views.values())
    assert views == {"airport_weather": 3, "carrier_history": 16, "route_history": 181}
    newest = get_lake().read(MODEL, "carrier_history", day(str(SEASON.end))).to_pandas().set_index("carrier")
    found = (
        get_feature_store()
        .get_online_features(
            features=["flight_delay_carrier_history:carrier_late_rate"],
            entity_rows=[{"carrier": name} for name in newest.index],
        )
        .to_df()
        .set_index("carrier")
    )
    assert found["carrier_late_rate"].to_dict() == newest["carrier_late_rate"].to_dict()


def test_filling_in_an_old_day_does_not_take_the_online_store_back(season: dict[str, Manifest]) -> None:
    old = day("2013-02-01")
    assert run("materialize", old).status is Status.OK
    found = get_feature_store().get_online_features(
        features=["flight_delay_carrier_history:carrier_late_rate"], entity_rows=[{"carrier": "UA"}]
    )
    rates = get_lake().read(MODEL, "carrier_history").to_pandas().query("carrier == 'UA'").set_index("ds")
    assert rates.loc[str(old.end), "carrier_late_rate"] != rates.loc[str(SEASON.end), "carrier_late_rate"]
    assert found.to_dict()["carrier_late_rate"] == [rates.loc[str(SEASON.end), "carrier_late_rate"]]


def test_definitions_are_registered_once(season: dict[str, Manifest]) -> None:
    assert apply(load_model(MODEL)) is False


def test_the_registry_holds_no_password_and_no_address(season: dict[str, Manifest], postgres_url: str) -> None:
    view = get_feature_store().get_feature_view("flight_delay_airport_weather")
    assert "postgres" not in str(view.to_proto()).lower()


def test_the_inputs_of_any_part_are_those_of_the_whole(season: dict[str, Manifest]) -> None:
    spec, lake, window = load_model(MODEL), get_lake(), day("2013-02-11")
    whole = training_set(spec, window, labelled=False)
    examples, parts = lake.load(MODEL, "examples"), []
    snapshots = {table: lake.snapshot(MODEL, table) for table in feature_tables(spec)}
    for chunk in chunks_of(examples, window, snapshots["examples"]):
        for rows in read_chunk(examples, chunk, example_columns(spec), 100):
            parts.append(inputs_of(spec, rows, snapshots))
    assert len(parts) > 3
    assert all("late" not in part.columns for part in parts)
    order = [name for name in whole.columns if name != "late"]
    found = pd.concat(parts)[order].sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(found, whole[order].sort_values(order, ignore_index=True))


def test_a_training_set_is_the_examples_joined_as_of_their_time(
    season: dict[str, Manifest], weather: pd.DataFrame
) -> None:
    window = Window(start=date(2013, 2, 8), end=date(2013, 2, 12))
    found = training_set(load_model(MODEL), window)
    expected = labels_of("2013-02-08", "2013-02-12")
    assert len(found) == len(expected)
    assert found["late"].mean() == pytest.approx((expected["arr_delay"] > 15).mean(), abs=1e-12)

    # the weather: the last good observation of the day before, which is ingested at 06:00
    good = weather[weather["wind_speed"].isna() | (weather["wind_speed"] < 200)].sort_values("at")
    daily = good.groupby([pd.to_datetime(good[["year", "month", "day"]]), "origin"])[["temp", "visib"]].last()
    known = daily.reset_index(names=["at", "origin"])
    known["at"] = known["at"].dt.tz_localize("UTC") + pd.Timedelta(hours=30)
    joined = pd.merge_asof(
        found[["origin", "event_timestamp", "temp", "visib"]].astype({"event_timestamp": "datetime64[us, UTC]"}),
        known.astype({"at": "datetime64[us, UTC]"}).sort_values("at"),
        left_on="event_timestamp",
        right_on="at",
        by="origin",
        suffixes=("", "_expected"),
    )
    assert joined["temp"].equals(joined["temp_expected"])
    assert joined["visib"].equals(joined["visib_expected"])
    assert joined["temp"].notna().all()


def test_no_flight_sees_its_own_day_in_its_history(season: dict[str, Manifest], flights: pd.DataFrame) -> None:
    found = training_set(load_model(MODEL), day("2013-02-10"))
    # a flight that leaves before 06:00 UTC leaves before the day before is ingested: there was none that day, but one
    # of the day before that arrived on this one
    for asked, last in (("2013-02-10", date(2013, 2, 9)), ("2013-02-09", date(2013, 2, 8))):
        rates = _carrier_rates(last)
        rows = found[(found["event_timestamp"] - pd.Timedelta(hours=6)).dt.strftime("%Y-%m-%d") == asked]
        assert len(rows)
        for carrier, known in rows.groupby("carrier")["carrier_late_rate"]:
            assert known.nunique() == 1
            assert known.iloc[0] == pytest.approx(rates[carrier], abs=1e-12)


def _carrier_rates(last: date) -> pd.Series:
    week = labels_of(str(last - timedelta(days=6)), str(last))
    return (week["arr_delay"] > 15).groupby(week["carrier"]).mean()


def test_unlabelled_examples_can_be_asked_for(season: dict[str, Manifest], flights: pd.DataFrame) -> None:
    everything = training_set(load_model(MODEL), day("2013-02-08"), labelled=False)
    expected = examples_of("2013-02-08", "2013-02-08")
    assert len(everything) == len(expected)
    assert everything["late"].isna().sum() == expected["late"].isna().sum() > 475


def test_a_label_that_came_late_reaches_the_training_set(season: dict[str, Manifest], flights: pd.DataFrame) -> None:
    """It is there with the day on which it came, asked as of the scheduled departure, and not before that day."""
    came_late = flights[(flights["ds"] == "2013-02-07") & (flights["known"] == "2013-02-08")]
    assert len(came_late)

    def trained_on(text: str) -> pd.DataFrame:
        found = training_set(load_model(MODEL), day(text))
        asked = found.merge(
            came_late, left_on=["event_timestamp", "carrier", "route"], right_on=["at", "carrier", "route"]
        )
        return asked

    reached = trained_on("2013-02-08")
    assert len(reached) == len(came_late)
    assert (reached["late"] == (reached["arr_delay"] > 15)).all()
    assert trained_on("2013-02-07").empty


def test_a_window_without_examples_is_empty_and_has_all_columns(season: dict[str, Manifest]) -> None:
    empty, some = (training_set(load_model(MODEL), day(text)) for text in ("2013-06-01", "2013-02-01"))
    assert len(empty) == 0 < len(some)
    assert empty.columns.tolist() == some.columns.tolist()


def _small(monkeypatch: pytest.MonkeyPatch, label_delay_days: int = 0, **windows: int) -> None:
    """Judge on ten days and train on eleven: the season is only three weeks long."""
    import evergreen.runner

    spec = load_model(MODEL)
    short = {"training_days": 11, "evaluation_days": 10, "minimum_training_rows": 1000}
    small = spec.windows.model_copy(update={**short, **windows})
    start = spec.schedule.model_copy(update={"start": SEASON.start})
    examples = spec.features.examples.model_copy(update={"label_delay_days": label_delay_days})
    features = spec.features.model_copy(update={"examples": examples})
    changed = spec.model_copy(update={"windows": small, "schedule": start, "features": features})
    changed._folder = spec.folder
    monkeypatch.setattr(evergreen.runner, "load_model", lambda name: changed)


def test_assemble_writes_two_windows_that_do_not_touch(
    season: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    _small(monkeypatch)
    manifest = run("assemble", day(str(SEASON.end)))
    assert manifest.status is Status.OK, manifest
    assert manifest.facts["windows"] == {
        "training": "2013-01-25..2013-02-04",
        "evaluation": "2013-02-05..2013-02-14",
    }
    spec = load_model(MODEL)
    for name, first, last in (("training", "2013-01-25", "2013-02-04"), ("evaluation", "2013-02-05", "2013-02-14")):
        output = manifest.output(name)
        frame = pq.read_table(output.uri).to_pandas()
        labels = labels_of(first, last)
        labelled = labels[labels["ds"] >= str(SEASON.start)]  # those of the day before have no flight in the lake
        assert output.rows == len(frame) == len(labelled)
        asked = get_lake().read(
            MODEL, "examples", Window(start=date.fromisoformat(first), end=date.fromisoformat(last))
        )
        assert manifest.facts["label_share"][name] == pytest.approx(len(labelled) / asked.num_rows, abs=1e-6)
        assert set(frame.columns) == {
            *("ds", "origin", "route", "carrier", "event_timestamp", "late"),
            *spec.features.numeric,
            *spec.features.categorical,
        }
        assert all(frame[column].dtype == "float64" for column in spec.features.numeric)
        assert f"{SEASON.end}-{output.version}/{name}.parquet" in output.uri
    again = run("assemble", day(str(SEASON.end)))
    assert again.outputs == manifest.outputs


def test_too_few_labels_is_an_answer_and_no_failure(
    season: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    _small(monkeypatch, minimum_training_rows=10**6)
    manifest = run("assemble", day(str(SEASON.end)))
    assert manifest.status is Status.SKIPPED
    assert (
        "labelled rows in 2013-01-25..2013-02-04, windows.minimum_training_rows asks for 1,000,000" in manifest.reason
    )
    assert manifest.outputs == ()


def test_no_days_to_train_on_names_the_first_partition_that_has_some(
    season: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    _small(monkeypatch)
    early = run("assemble", day("2013-01-31"))
    assert early.status is Status.SKIPPED
    assert "The first partition with any is 2013-02-04." in early.reason
    assert run("assemble", day("2013-02-04")).facts["windows"]["training"] == "2013-01-25..2013-01-25"


def test_too_few_days_with_labels_are_an_answer_too(
    season: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    _small(monkeypatch, evaluation_days=12, minimum_evaluation_partitions=12)
    assert run("assemble", day(str(SEASON.end))).status is Status.OK
    _small(monkeypatch, evaluation_days=12, minimum_evaluation_partitions=13)
    manifest = run("assemble", day(str(SEASON.end)))
    assert manifest.status is Status.SKIPPED
    assert (
        "labelled rows on 12 days of 2013-02-03..2013-02-14, windows.minimum_evaluation_partitions asks for 13."
        in manifest.reason
    )
    assert manifest.outputs == ()


def test_while_most_labels_are_still_to_come_nothing_is_judged(
    season: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    _small(monkeypatch, minimum_label_share=2)  # more than any two windows have
    manifest = run("assemble", day(str(SEASON.end)))
    assert manifest.status is Status.SKIPPED
    assert "labels are immature: 86% of the examples" in manifest.reason
    assert "features.examples.label_delay_days" in manifest.reason
    assert manifest.outputs == ()


@pytest.mark.parametrize(
    ("training", "evaluation", "judged"),
    [(0.97, 0.2, False), (0.97, 0.48, False), (0.97, 0.49, True), (0.05, 0.04, True), (0.05, 0.02, False)],
)
def test_labels_are_immature_by_the_share_that_the_training_window_has(
    training: float, evaluation: float, judged: bool
) -> None:
    """A model that gets labels for few of its examples is not one whose labels are late."""
    windows = {"training": SEASON, "evaluation": SEASON}
    spec = load_model(MODEL)
    assert (not immature(spec, windows, {"training": training, "evaluation": evaluation})) is judged
    assert immature(spec, windows, {"training": training, "evaluation": None}) == []
    anything = spec.model_copy(update={"windows": spec.windows.model_copy(update={"minimum_label_share": 0})})
    assert immature(anything, windows, {"training": training, "evaluation": 0.0}) == []


def test_training_ends_before_labels_that_the_evaluation_s_first_day_did_not_know(
    season: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    _small(monkeypatch, label_delay_days=3)
    assert run("assemble", day(str(SEASON.end))).facts["windows"] == {
        "training": "2013-01-25..2013-01-29",
        "evaluation": "2013-02-02..2013-02-11",
    }


def test_a_join_reads_only_the_days_it_needs(season: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    import evergreen.data.lake
    import evergreen.features.feast_offline

    read = {}

    def spy(table, rows, *others):
        read[table.name()[-1]] = evergreen.data.lake.scan(table, rows, *others)
        return read[table.name()[-1]]

    monkeypatch.setattr(evergreen.features.feast_offline, "scan", spy)
    training_set(load_model(MODEL), day("2013-02-10"))
    assert set(read) == {"airport_weather", "route_history", "carrier_history"}
    # the first departure is of the evening before, and its label came on the day: two days before it; seven of history
    assert set(read["airport_weather"]["ds"].to_pylist()) <= {"2013-02-07", "2013-02-08", "2013-02-09"}
    assert min(read["route_history"]["ds"].to_pylist()) == "2013-02-02"
    assert max(read["route_history"]["ds"].to_pylist()) == "2013-02-09"


def test_an_online_store_that_lost_rows_is_found_out(season: dict[str, Manifest]) -> None:
    from sqlalchemy import create_engine, text

    from evergreen.features.feature_store import _check_online, _latest
    from evergreen.settings import get_settings

    spec = load_model(MODEL)
    view = {item.name: item for item in spec.features.views}["carrier_history"]
    latest = _latest(spec, view, day(str(SEASON.end)))
    _check_online(get_feature_store(), spec, view, latest)
    engine = create_engine(get_settings().database("online"))
    with engine.begin() as connection:
        connection.execute(text('DELETE FROM "evergreen_flight_delay_carrier_history"'))
    with pytest.raises(TemporaryError, match=r"flight_delay_carrier_history:carrier_late_rate of .*, the lake has"):
        _check_online(get_feature_store(), spec, view, latest)
    assert run("materialize", day(str(SEASON.end))).status is Status.OK
    _check_online(get_feature_store(), spec, view, latest)
