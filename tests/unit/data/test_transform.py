"""SQL over the window: what it sees, and what it may return. Then the real SQL against plain pandas."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pandas as pd
import pyarrow as pa
import pytest

from evergreen.catalog import load_function, load_model
from evergreen.contract import ConfigurationError, DataError, Window
from evergreen.data import memory
from evergreen.data.repeatable import volatile_functions
from evergreen.data.sql import close, engine
from evergreen.data.tables import published_schema, raw_rows
from evergreen.data.transform import KnownTooEarly, build_examples, build_view
from evergreen.settings import get_settings
from evergreen.spec import FeatureView, ModelSpec, Schedule
from flights_kit import flights_of_the_year, labels_of

WINDOW = Window(start=date(2013, 3, 3), end=date(2013, 3, 4))
GOOD = """
SELECT ds, k, ingested_at(ds) AS event_timestamp, count(*) AS n
FROM things WHERE ds >= '2013-03-03' GROUP BY ALL
"""


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    spec = load_model("flight_delay").model_copy()
    spec._folder = tmp_path
    return spec


@pytest.fixture
def things() -> dict[str, pa.Table]:
    days = [f"2013-03-0{day}" for day in (1, 2, 3, 4) for _ in range(2)]
    return {"things": pa.table({"ds": days, "k": ["a", "b"] * 4, "v": list(range(8))})}


def _build(spec: ModelSpec, things: dict[str, pa.Table], sql: str, lookback: int = 0) -> pa.Table:
    (spec.folder / "v.sql").write_text(sql)
    view = FeatureView(name="v", sql="v.sql", entities=("k",), features=("n",), lookback_days=lookback)
    return build_view(spec, view, things, WINDOW)


def test_rows_come_out_in_a_fixed_order_with_wide_types(spec: ModelSpec, things: dict[str, pa.Table]) -> None:
    table = _build(spec, things, GOOD.replace("count(*)", "count(*)::TINYINT") + "ORDER BY k DESC")
    assert table.schema == pa.schema(
        [("ds", pa.string()), ("k", pa.string()), ("event_timestamp", pa.timestamp("us", tz="UTC")), ("n", pa.int64())]
    )
    assert table.select(["ds", "k"]).to_pylist() == [
        {"ds": day, "k": key} for day in ("2013-03-03", "2013-03-04") for key in "ab"
    ]


@pytest.mark.parametrize(("lookback", "seen"), [(0, 4), (1, 6), (2, 8), (9, 8)])
def test_sql_sees_the_window_and_its_lookback(
    spec: ModelSpec, things: dict[str, pa.Table], lookback: int, seen: int
) -> None:
    sql = (
        "SELECT getvariable('window_end')::VARCHAR AS ds, 'a' AS k, ingested_at(getvariable('window_end')) AS"
        " event_timestamp, (SELECT count(*) FROM things) AS n"
    )
    assert _build(spec, things, sql, lookback)["n"].to_pylist() == [seen]


@pytest.mark.parametrize("early", ["(ds::DATE)::TIMESTAMPTZ", "ingested_at(ds) - INTERVAL 1 MICROSECOND"])
def test_a_row_cannot_be_known_before_its_day_is_ingested(
    spec: ModelSpec, things: dict[str, pa.Table], early: str
) -> None:
    said = (
        r"v\.sql: a row of v for 2013-03-03 claims to be known at 2013-03-0\dT\d\d:\d\dZ, but 2013-03-03 is "
        r"ingested at 2013-03-04T06:00Z \(schedule: 0 6 \* \* \*, UTC\): .* Write ingested_at\(ds\) AS event_timestamp"
    )
    with pytest.raises(KnownTooEarly, match=said):
        _build(spec, things, GOOD.replace("ingested_at(ds)", early))
    later = _build(spec, things, GOOD.replace("ingested_at(ds)", "ingested_at(ds) + INTERVAL 1 DAY"))
    assert later["event_timestamp"][0].as_py() == datetime(2013, 3, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize("day", ["2013-03-03", "2013-03-09", "2013-03-10", "2013-11-02", "2013-11-03"])
def test_ingested_at_is_when_the_schedule_ingests_the_day(spec: ModelSpec, day: str) -> None:
    """The clocks of New York change on 10 March and 3 November."""
    schedule = Schedule(cron="30 1 * * *", timezone="America/New_York", start=date(2013, 1, 1))
    there = spec.model_copy(update={"schedule": schedule})
    there._folder = spec.folder
    sql = f"SELECT '{day}' AS ds, 'a' AS k, ingested_at('{day}') AS event_timestamp, 1 AS n"
    (spec.folder / "v.sql").write_text(sql)
    view = FeatureView(name="v", sql="v.sql", entities=("k",), features=("n",))
    when = date.fromisoformat(day)
    found = build_view(there, view, {}, Window(start=when, end=when))["event_timestamp"][0].as_py()
    assert schedule.ingested_at(when) <= found  # an hour that happens twice may mean the second
    assert found.astimezone(ZoneInfo("America/New_York")).replace(tzinfo=None) == datetime(
        when.year, when.month, when.day, 1, 30
    ) + timedelta(days=1)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (GOOD.replace("count(*) AS n", "count(*) AS m"), "missing n; not declared m"),
        (GOOD.replace(" k,", " nullif(k, 'b') AS k,"), "2 of 4 rows have no k"),
        (GOOD.replace(">= '2013-03-03'", ">= '2013-03-02'"), r"outside the window .* ds = 2013-03-02"),
        (GOOD + " UNION ALL " + GOOD, "4 keys are there more than once"),
        (
            GOOD.replace("ingested_at(ds)", "ds::TIMESTAMP"),
            "event_timestamp is a timestamp without a time zone",
        ),
        (GOOD.replace("count(*)", "INTERVAL 1 DAY"), "n has the type"),
        (GOOD.replace("count(*)", "max(k)::BIGINT"), "Could not convert string 'a'"),
    ],
)
def test_wrong_rows_are_refused(spec: ModelSpec, things: dict[str, pa.Table], sql: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"v\.sql: .*{message}"):
        _build(spec, things, sql, lookback=1)


@pytest.mark.parametrize("name", ["K", "Late", "k.v", "k-v", "ké", "2k", "count_star()"])
def test_a_column_that_another_engine_would_read_otherwise_is_refused(spec: ModelSpec, name: str) -> None:
    """Next to ``k``, what differs from it in case only; examples may have columns that nobody declares."""
    examples = spec.features.examples.model_copy(update={"sql": "e.sql"})
    features = spec.features.model_copy(
        update={"examples": examples, "views": (), "numeric": ("k",), "categorical": ()}
    )
    of_one = spec.model_copy(update={"features": features})
    of_one._folder = spec.folder
    sql = "SELECT '2013-03-03' AS ds, now_ AS event_timestamp, 1 AS k, 1 AS late, 2 AS {} FROM (SELECT {} AS now_)"
    moment = "TIMESTAMPTZ '2013-03-03 12:00Z'"
    (spec.folder / "e.sql").write_text(sql.format(f'"{name}"', moment))
    with pytest.raises(DataError, match=rf"e\.sql: a column is called '{re.escape(name)}.*Name it with AS"):
        build_examples(of_one, {}, WINDOW)
    (spec.folder / "e.sql").write_text(sql.format("more_2", moment))
    assert build_examples(of_one, {}, WINDOW).column_names[-1] == "more_2"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT * FROM elsewhere", "elsewhere"),
        ("SELECT nope FROM things", "nope"),
        ("SELECT * FROM things JOIN elsewhere USING (ds)", "elsewhere: SQL reads the published sources"),
        ("SELECT * FROM read_csv('/etc/passwd')", r"read_csv\(\): SQL reads the published sources, and nothing else"),
        ("SELECT * FROM read_text('/etc/passwd')", r"read_text\(\)"),
        ("SELECT * FROM '/etc/passwd'", "/etc/passwd: SQL reads"),
        ("SELECT * FROM glob('*')", r"glob\(\)"),
        ("SELECT * FROM query('SELECT random()')", r"query\(\)"),
        ("SELECT * FROM Json_Execute_Serialized_Sql('{}')", r"json_execute_serialized_sql\(\)"),
        ("SELECT * FROM duckdb_settings()", r"duckdb_settings\(\)"),
        ("SELECT * FROM information_schema.tables", "information_schema.tables"),
        ("FROM duckdb_tables", "duckdb_tables"),
        ("SHOW TABLES", "SHOW or DESCRIBE"),
        ("SELECT * FROM (DESCRIBE things)", "SHOW or DESCRIBE"),
        ("WITH x AS (DELETE FROM things RETURNING *) FROM x", "things|delete"),
        ("SELECT getenv('HOME')", "getenv"),
        ("SELECT nextval('s')", r"nextval\(\)"),
        ("PRAGMA version", "not one SELECT, but PRAGMA"),
        ("CALL pragma_version()", "not one SELECT, but CALL"),
        ("INSTALL httpfs", "not one SELECT, but LOAD"),
        ("LOAD httpfs", "not one SELECT, but LOAD"),
        ("CREATE MACRO f() AS random()", "not one SELECT, but CREATE"),
        ("SELECT " + "(SELECT " * 300 + "1" + ")" * 300, "nested too deeply"),
        ("SELECT " + "(" * 3000 + "1" + ")" * 3000, "Max expression depth"),
        ("SELECT " + "+".join("1" * 5000), "Max expression depth"),
        (GOOD.replace("count(*)", 'sum("RaNdOm"())'), r"random\(\): the same day"),
        (GOOD.replace("count(*)", "sum(system.main.random())"), r"random\(\): the same day"),
        (GOOD.replace("count(*)", "sum(list_transform([1], lambda x: random())[1])"), r"random\(\)"),
        (GOOD.replace("count(*)", "epoch(ago(INTERVAL 1 DAY))"), r"ago\(\): the same day"),
        (GOOD.replace("count(*)", "epoch(today())"), r"today\(\)"),
        (GOOD.replace("count(*)", "hash(current_localtimestamp())"), r"current_localtimestamp\(\): the same day"),
        (GOOD.replace("count(*)", "epoch(transaction_timestamp())"), r"transaction_timestamp\(\)"),
        (GOOD.replace("count(*)", "reservoir_quantile(v, 0.5)"), r"reservoir_quantile\(\)"),
        (GOOD.replace("count(*)", "hash(gen_random_uuid())"), r"gen_random_uuid\(\)"),
        (GOOD.replace("count(*)", "first(v)"), r"first\(\) without ORDER BY in it: the same day"),
        (GOOD.replace("count(*)", "Any_Value(v)"), r"any_value\(\) without ORDER BY"),
        (GOOD.replace("count(*)", "len(list(v))"), r"list\(\) without ORDER BY"),
        (GOOD.replace("count(*)", "len(string_agg(k, '') FILTER (v > 1))"), r"string_agg\(\) without ORDER BY"),
        ("SELECT *, row_number() OVER () AS n FROM things", r"row_number\(\) OVER \(\) without ORDER BY"),
        ("SELECT *, lag(v) OVER (PARTITION BY k) AS n FROM things", r"lag\(\) OVER \(\) without ORDER BY"),
        ("SELECT sum(v) OVER (ROWS 1 PRECEDING) AS n FROM things", r"sum\(\) OVER \(\) without ORDER BY"),
        ("SELECT * FROM things LIMIT 3", "LIMIT without ORDER BY"),
        ("SELECT * FROM (SELECT DISTINCT ON (k) * FROM things)", "DISTINCT ON without ORDER BY"),
        ("SELECT * FROM things POSITIONAL JOIN things AS other", "POSITIONAL JOIN"),
        ("SELECT * FROM things TABLESAMPLE 50%", "a sample without REPEATABLE"),
        ("SET enable_external_access = true", "not one SELECT, but SET"),
        ("SET threads = 4; " + GOOD, "not one SELECT, but SET, SELECT"),
        (GOOD + "; SELECT 1", "not one SELECT, but SELECT, SELECT"),
        ("ATTACH 'x.db'", "not one SELECT, but ATTACH"),
        ("COPY things TO '/tmp/x.csv'", "not one SELECT, but COPY"),
        (GOOD.replace("count(*)", "count(*) + random()::INT"), r"random\(\): the same day must give the same rows"),
        (GOOD.replace("count(*)", "epoch(NOW())"), r"now\(\): the same day"),
        (GOOD.replace("count(*)", "year(current_date)"), "current_date: the same day"),
        (GOOD.replace("count(*)", "epoch(current_timestamp)"), "current_timestamp: the same day"),
        (GOOD.replace("count(*)", "hash(uuid())"), r"uuid\(\): the same day"),
        (GOOD.replace("count(*)", "epoch(age(max(ds::DATE)))"), r"age\(\): the same day"),
        (GOOD.replace("count(*)", "hash(current_setting('threads'))"), r"current_setting\(\): the same day"),
        ("WITH a AS (SELECT random()) " + GOOD, r"random\(\)"),
        ("SELECT * FROM things USING SAMPLE 3", "a sample without REPEATABLE"),
        ("-- nothing", "returns no rows"),
    ],
)
def test_wrong_sql_is_the_files_fault(spec: ModelSpec, things: dict[str, pa.Table], sql: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"(?s)v\.sql: .*{message}"):
        _build(spec, things, sql)


def test_every_function_that_needs_no_value_and_changes_is_known() -> None:
    """Whatever DuckDB says of it: of two clocks it says that they are constant."""
    with duckdb.connect() as connection:
        found = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE len(parameters) = 0 AND function_type IN "
        names = [name for (name,) in connection.execute(f"{found} ('scalar', 'macro')").fetchall() if name]

        def answers() -> dict[str, str]:
            given = {}
            for name in names:
                with suppress(duckdb.Error):
                    given[name] = str(connection.execute(f'SELECT "{name}"()').fetchall())
            return given

        before, after = answers(), answers()
    changing = {name for name in before if before[name] != after[name]}
    assert {"current_localtime", "now", "random", "uuid"} <= changing <= volatile_functions()


@pytest.mark.parametrize(
    "count",
    [
        "first(v ORDER BY v)",
        "len(list(v ORDER BY v DESC))",
        "any_value(v ORDER BY v) FILTER (v > 0)",
        "arg_max(v, v)",
        "(SELECT v FROM things ORDER BY v LIMIT 1)",
        "(SELECT max(n) FROM (SELECT row_number() OVER (PARTITION BY k ORDER BY v) AS n FROM Things))",
        "(SELECT max(n) FROM (SELECT lag(v) OVER w AS n FROM things WINDOW w AS (ORDER BY v)))",
        "(SELECT max(n) FROM (SELECT sum(v) OVER (PARTITION BY k) AS n FROM things))",
        "(SELECT sum(i) FROM range(3) r(i))",
        "(WITH RECURSIVE a(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM a WHERE i < 3) SELECT count(*) FROM A)",
        "(SELECT count(*) FROM things TABLESAMPLE reservoir(2 ROWS) REPEATABLE (1))",
    ],
)
def test_what_has_an_order_is_allowed(spec: ModelSpec, things: dict[str, pa.Table], count: str) -> None:
    assert _build(spec, things, GOOD.replace("count(*)", f"({count})::BIGINT")).num_rows == 4


@pytest.mark.parametrize(
    ("count", "message"),
    [
        ("len(list(repeat('x', 1000) ORDER BY i))", "it needs more than the 32 MiB that a query may take"),
        (None, "it returns more than 32 MiB of rows. A join without its condition"),
    ],
)
def test_a_query_that_needs_too_much_memory_ends_in_words(
    spec: ModelSpec, things: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch, count: str | None, message: str
) -> None:
    monkeypatch.setenv("EVERGREEN_MEMORY", str(64 << 20))
    rows = "things, range(100_000_000) r(i)"
    sql = GOOD.replace("things", rows).replace("count(*)", count) if count else f"SELECT things.*, i FROM {rows}"
    monkeypatch.setattr(tempfile, "tempdir", str(spec.folder))
    with pytest.raises(MemoryError, match=rf"v\.sql: {message}"):
        _build(spec, things, sql)
    assert not list(spec.folder.glob("sql-*"))


def test_a_query_has_bounds_that_it_cannot_lift(
    spec: ModelSpec, things: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERGREEN_MEMORY", str(1 << 30))
    with engine() as connection:
        close(connection)
        names = "'memory_limit', 'threads', 'temp_directory', 'lock_configuration', 'enable_external_access'"
        answer = connection.execute(f"SELECT name, value FROM duckdb_settings() WHERE name IN ({names})").fetchall()
        found = dict(answer)
        assert (found["memory_limit"], found["threads"]) == ("512.0 MiB", "1")
        assert Path(found["temp_directory"]).is_absolute()
        for change in ("SET memory_limit = '99GB'", "RESET threads", "PRAGMA temp_directory = '/'", "LOAD httpfs"):
            with pytest.raises(duckdb.Error, match=r"locked|disabled"):
                connection.execute(change)


def test_the_memory_of_a_query_is_half_of_the_least_limit_that_anybody_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "cgroup"
    for line, file, above in (
        ("0::/pod/step", "memory.max", ""),
        ("4:memory:/pod/step", "memory.limit_in_bytes", "memory"),
    ):
        own.write_text(f"9:name=systemd:/\n{line}\n")
        inner = tmp_path / above / "pod" / "step"
        inner.mkdir(parents=True)
        (inner / file).write_text("max" if not above else str(2**63 - 4096))
        (inner.parent / file).write_text(str(2 << 30))
        assert 2 << 30 in memory._of_cgroups(tmp_path, own)
    monkeypatch.setenv("EVERGREEN_MEMORY", str(64 << 20))
    assert memory.query_memory() == 32 << 20
    monkeypatch.delenv("EVERGREEN_MEMORY")
    monkeypatch.setattr(memory, "_of_cgroups", lambda: [2**63 - 4096])
    assert memory.query_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("('a' || i)::BIGINT", DataError),
        ("10_000_000_000 * i * i", DataError),
        ("error(i::VARCHAR)", ConfigurationError),
    ],
)
def test_what_goes_wrong_after_many_rows_is_told_as_if_it_were_the_first(
    spec: ModelSpec, things: dict[str, pa.Table], value: str, error: type[Exception]
) -> None:
    """By then rows are streamed, and what DuckDB raises comes through Arrow."""
    for first in (0, 300_000):
        rows = f"things.*, CASE WHEN i >= {first} THEN {value.replace('i', '(i + 100_000)')} END AS v"
        with pytest.raises(error, match=r"v\.sql: \w[\w ]+ Error: "):
            _build(spec, things, f"SELECT {rows} FROM range(400_000) r(i), things")


@pytest.mark.parametrize("returned", ["count(*) AS n", "i"])
def test_a_query_that_never_ends_is_interrupted(
    spec: ModelSpec, things: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch, returned: str
) -> None:
    monkeypatch.setenv("EVERGREEN_SQL_SECONDS", "0.5")
    get_settings.cache_clear()
    endless = f"WITH RECURSIVE a(i) AS (SELECT 1 UNION ALL SELECT 1 FROM a) SELECT {returned} FROM a"
    with pytest.raises(ConfigurationError, match=r"v\.sql: still running after 0\.5 s\. Does a recursive query end\?"):
        _build(spec, things, endless)
    get_settings.cache_clear()


def test_the_same_rows_in_every_time_zone(spec: ModelSpec) -> None:
    """A time zone of the machine must not move a day, and a time without one is refused."""
    sql = "SELECT ds, 'a' AS k, moment AS event_timestamp, extract(hour FROM moment) AS n FROM things"
    code = (
        "import sys, datetime, pyarrow as pa\nfrom pathlib import Path\nfrom evergreen.data.transform import _query\n"
        "from evergreen.contract import Window\nfrom evergreen.spec import Schedule\n"
        "day = datetime.date(2013, 3, 3)\nschedule = Schedule(start=day)\n"
        "at = pa.array([datetime.datetime(2013, 3, 3, 20, tzinfo=datetime.UTC)], pa.timestamp('us', 'UTC'))\n"
        "table = pa.table({'ds': ['2013-03-03'], 'moment': at})\n"
        "print(_query(Path(sys.argv[1]), {'things': table}, Window(start=day, end=day), 0, schedule).to_pylist())\n"
    )
    (spec.folder / "v.sql").write_text(sql)
    found = [
        subprocess.run(
            [sys.executable, "-c", code, str(spec.folder / "v.sql")],
            env={**os.environ, "TZ": zone},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for zone in ("UTC", "Asia/Kolkata")
    ]
    assert found[0] == found[1]
    assert "'n': 20" in found[0]


# the real SQL


def _published(days: list[date]) -> dict[str, pa.Table]:
    spec = load_model("flight_delay")
    tables = {}
    for source in spec.sources:
        reader = load_function(spec, source.reader)
        frames = {day: reader(day) for day in days}
        raw = [raw_rows(source, day, frame) for day, frame in frames.items() if frame is not None]
        tables[source.name] = pa.concat_tables(raw).select(published_schema(source).names)
    return tables


def _days(start: date, count: int) -> list[date]:
    return [start + timedelta(days=offset) for offset in range(count)]


@pytest.mark.parametrize(("month", "rate"), [(9, 0.13), (12, 0.33)])
def test_the_late_rate_is_that_of_the_year(month: int, rate: float) -> None:
    days = _days(date(2013, month, 1), 30 if month == 9 else 31)
    found = build_examples(
        load_model("flight_delay"), _published(days), Window(start=days[0], end=days[-1])
    ).to_pandas()
    year = flights_of_the_year()
    asked = year[year["month"] == month]
    labels = asked[asked["known"] <= str(days[-1])]
    late_labels = labels[labels["known"] > labels["ds"]]
    assert len(found) == len(asked) + len(late_labels)
    assert found["late"].count() == len(labels)
    assert found["late"].mean() == pytest.approx((labels["arr_delay"] > 15).mean(), abs=1e-12)
    assert round(float(found["late"].mean()), 2) == rate


def test_a_label_that_comes_late_is_an_example_of_the_day_on_which_it_came() -> None:
    spec, days = load_model("flight_delay"), _days(date(2013, 7, 1), 3)
    sources = _published(days)
    key = ["carrier", "flight", "origin", "dest", "event_timestamp"]

    def labelled(first: date, last: date, tables: dict[str, pa.Table]) -> pd.DataFrame:
        found = build_examples(spec, tables, Window(start=first, end=last)).to_pandas()
        return found[found["late"].notna()].set_index(key).sort_index()

    window = labelled(days[0], days[-1], sources)
    expected = labels_of("2013-07-01", "2013-07-03")
    expected = expected[expected["month"] == 7].rename(columns={"at": "event_timestamp"}).set_index(key).sort_index()
    assert window.index.is_unique
    assert window["ds"].to_dict() == expected["known"].to_dict()
    assert window["late"].to_dict() == (expected["arr_delay"] > 15).to_dict()
    came_late = window[window["ds"].to_numpy() > expected["ds"].to_numpy()]
    assert came_late["late"].mean() > 0.5 > window["late"].mean()

    # the day on its own has none of them, and one whose arrivals never came keeps its flights without a label
    assert not set(labelled(days[0], days[0], sources).index) & set(came_late.index)
    never = {**sources, "arrivals": sources["arrivals"].filter(pa.compute.field("ds") == str(days[0]))}
    assert not set(labelled(days[0], days[-1], never).index) & set(came_late.index)


def test_examples_are_what_is_known_at_the_scheduled_departure() -> None:
    day = date(2013, 7, 1)
    found = build_examples(load_model("flight_delay"), _published([day]), Window(start=day, end=day)).to_pandas()
    expected = flights_of_the_year().query("ds == '2013-07-01'")
    assert sorted(found["departure_minute"]) == sorted(expected.hour * 60 + expected.minute)
    assert sorted(found["departure_hour"]) == sorted(f"{hour:02}" for hour in expected.hour)
    assert set(found["weekday"]) == {"Monday"}
    assert sorted(found["route"]) == sorted(expected.origin + "-" + expected.dest)
    assert not set(found.columns) & {"dep_time", "dep_delay", "arr_time", "air_time", "arr_delay", "arrived_at"}


@pytest.mark.parametrize(("view", "key", "days"), [("route_history", "route", 14), ("carrier_history", "carrier", 7)])
def test_history_counts_the_arrivals_of_the_days_up_to_its_own(view: str, key: str, days: int) -> None:
    spec = load_model("flight_delay")
    last = date(2013, 2, 20)
    declared = {item.name: item for item in spec.features.views}[view]
    sources = _published(_days(last - timedelta(days=declared.lookback_days), declared.lookback_days + 1))
    found = build_view(spec, declared, sources, Window(start=last, end=last)).to_pandas()

    counted = labels_of(str(last - timedelta(days=days - 1)), str(last))
    expected = counted.assign(late=counted["arr_delay"] > 15).groupby(key)["late"].agg(["mean", "size"])
    rated = found.set_index(key)
    assert set(rated.index) == set(expected.index)
    assert (rated[f"{key}_late_rate"] - expected["mean"]).abs().max() < 1e-12
    assert (rated[f"{key}_flights"] == expected["size"]).all()
    # known once the day is over and ingested: 06:00 UTC of the next day
    assert set(found["event_timestamp"]) == {pd.Timestamp("2013-02-21T06:00Z")}


def test_the_weather_of_a_day_is_the_last_reading_of_each_instrument() -> None:
    spec = load_model("flight_delay")
    declared = {item.name: item for item in spec.features.views}["airport_weather"]
    day = date(2013, 1, 12)
    sources = _published([day])
    found = build_view(spec, declared, sources, Window(start=day, end=day)).to_pandas().set_index("origin")
    observed = sources["weather"].to_pandas().sort_values("time_hour")
    assert observed.groupby("origin")["pressure"].agg(lambda values: values.isna().iloc[-1]).any()
    expected = observed.groupby("origin")[list(declared.features)].last()  # pandas, too, passes over nulls
    pd.testing.assert_frame_equal(found[list(declared.features)], expected)
    assert set(found["event_timestamp"]) == {pd.Timestamp("2013-01-13T06:00Z")}


def test_a_day_alone_gives_what_it_gives_in_a_longer_window() -> None:
    spec = load_model("flight_delay")
    days = _days(date(2013, 2, 1), 20)
    sources = _published(days)
    for view in spec.features.views:
        long = build_view(spec, view, sources, Window(start=date(2013, 2, 15), end=days[-1]))
        alone = build_view(spec, view, sources, Window(start=days[-1], end=days[-1]))
        assert long.filter(pa.compute.field("ds") == str(days[-1])).equals(alone)
