"""Bad rows: each is kept, with its reason; a critical failure publishes nothing. On a model of a few rows."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import yaml

from evergreen.contract import DataError, Status, Window
from evergreen.data.lake import get_lake
from evergreen.settings import PROJECT_ROOT, Settings
from things_kit import DAY, NOON, SUITE, ingest, make_model, reasons, run

pytestmark = pytest.mark.integration


@pytest.fixture
def model(lake_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the model; returns its folder."""
    return make_model(tmp_path, monkeypatch)


def test_every_bad_row_is_kept_with_its_reason_and_the_rest_is_published(model: Path) -> None:
    rows = [
        ("good", 1.0),
        ("text", "huge"),
        ("negative", -1.0),
        ("copied", 2.0),
        ("copied", 2.0),
        ("claimed", 3.0),
        ("claimed", 4.0),
        ("no size", None),
    ]
    ingest(model, rows)
    assert run("validate").status is Status.OK
    published = run("publish")
    assert published.status is Status.OK, published.failure
    assert (published.facts["rows"], published.facts["quarantined"]) == (3, 5)
    assert get_lake().read("small", "things")["name"].to_pylist() == ["good", "copied", "no size"]
    assert reasons() == {
        1: "size: 'huge' is not a double",
        2: "expect_column_values_to_be_between(size)",
        4: "an exact copy of another row (name)",
        5: "different rows claim the same key (name)",
        6: "different rows claim the same key (name)",
    }


def test_a_key_that_is_null_goes_to_quarantine_before_the_suite_sees_it(model: Path) -> None:
    ingest(model, [("good", 1.0), (None, 2.0)])
    assert run("validate").status is Status.OK
    assert run("publish").facts["quarantined"] == 1
    assert reasons() == {1: "a key column is null (name)"}


def test_a_critical_failure_publishes_nothing_and_says_what_was_found(model: Path) -> None:
    (model / "e.yaml").write_text(SUITE.replace("severity: warning", "severity: critical"))
    ingest(model, [("good", 1.0), ("negative", -7.5)])
    refused = run("validate")
    assert refused.failure is not None
    assert refused.failure.failure_class == "data"
    assert (
        "expect_column_values_to_be_between(size) failed on 2013-03-01: 1 of 2 rows; found -7.5"
        in refused.failure.message
    )
    assert "nothing is published" in refused.failure.message
    with pytest.raises(DataError, match=r"validate/result\.json: the upstream task failed: .*nothing is published"):
        run("publish")
    assert not get_lake().has("small", "things")


def test_publishing_follows_the_judged_snapshot_not_a_lateringest(model: Path) -> None:
    ingest(model, [("good", 1.0), ("negative", -1.0)])
    assert run("validate").status is Status.OK
    ingest(model, [("later", 5.0)], run_id="2")
    assert run("publish").status is Status.OK
    assert get_lake().read("small", "things")["name"].to_pylist() == ["good"]
    ingest(model, [("later", 5.0)])
    refused = run("publish")  # the ingestion of its own run is another one than was judged
    assert refused.failure is not None
    assert "was judged: run validate again too" in refused.failure.message


def test_a_day_that_is_all_quarantined_publishes_nothing_of_it_and_loses_nothing(model: Path) -> None:
    ingest(model, [("one", -1.0), ("two", -2.0)])
    assert run("validate").status is Status.OK
    published = run("publish")
    assert published.status is Status.OK, published.failure
    assert (published.facts["rows"], published.facts["quarantined"]) == (0, 2)
    assert reasons() == dict.fromkeys((0, 1), "expect_column_values_to_be_between(size)")
    skipped = run("build_features")
    assert (skipped.status, skipped.reason) == (Status.SKIPPED, "Nothing is published for 2013-03-01..2013-03-01.")


def test_a_source_that_changed_its_format_is_refused_whole(model: Path) -> None:
    ingest(model, [("a", "x"), ("b", "y")])
    refused = run("validate")
    assert refused.failure is not None
    assert "every row of 2013-03-01 is unreadable, e.g. size: 'x' is not a double" in refused.failure.message


def test_a_day_in_another_format_is_refused_among_good_ones_too(model: Path) -> None:
    window = Window(start=DAY.start, end=date(2013, 3, 2))
    rows = (
        f"pd.DataFrame({{'name': ['a', 'b'], 'size': [1, 'x' if day.day == 2 else 2], 'at': pd.Timestamp('{NOON}')}})"
    )
    (model / "source.py").write_text(f"import pandas as pd\n\n\ndef read(day):\n    return {rows}\n")
    assert run("ingest", window).status is Status.OK
    assert run("validate", window).status is Status.OK
    source = (model / "source.py").read_text().replace("[1,", "['w' if day.day == 2 else 1,")
    (model / "source.py").write_text(source)
    assert run("ingest", window).status is Status.OK
    refused = run("validate", window)
    assert refused.failure is not None
    assert "every row of 2013-03-02 is unreadable, e.g. size: 'w' is not a double" in refused.failure.message


def test_a_reader_that_returns_something_else_is_named(model: Path) -> None:
    (model / "source.py").write_text("def read(day):\n    return [1]\n")
    failed = run("ingest")
    assert failed.failure is not None
    assert failed.failure.failure_class == "configuration"
    assert "source.py:read returned list for 2013-03-01" in failed.failure.message


COUNTED = "- {type: expect_table_row_count_to_be_between, severity: %s, kwargs: {min_value: 1}}\n"


def _sources(folder: Path, severity: str, **days: list[int]) -> None:
    """Give the model these sources, each with rows on its days of March 2013, and expect a row a day of each."""
    path = folder / "model.yaml"
    spec = yaml.safe_load(path.read_text())
    (source,) = spec["sources"]
    spec["sources"] = [{**source, "name": name, "reader": f"source.py:read_{name}"} for name in days]
    path.write_text(yaml.safe_dump(spec))
    (folder / "e.yaml").write_text(COUNTED % severity + SUITE)
    row = f"pd.DataFrame({{'name': ['one'], 'size': [1.0], 'at': [pd.Timestamp('{NOON}')]}})"
    readers = [f"def read_{name}(day):\n    return {row} if day.day in {on} else None\n" for name, on in days.items()]
    (folder / "source.py").write_text("import pandas as pd\n\n\n" + "\n\n".join(readers))


@pytest.mark.parametrize("window", [DAY, Window(start=DAY.start, end=date(2013, 3, 3))])
def test_a_source_that_is_silent_where_another_is_not_is_judged_all_the_same(model: Path, window: Window) -> None:
    """Nothing is there on the second day: it is not judged."""
    _sources(model, "critical", things=[1, 3], others=[3])
    assert run("ingest", window).status is Status.OK
    refused = run("validate", window)
    assert refused.failure is not None
    assert "others: expect_table_row_count_to_be_between() failed on 2013-03-01: found 0." in refused.failure.message
    assert "things" not in refused.failure.message
    with pytest.raises(DataError, match="the upstream task failed"):
        run("publish", window)


def test_a_source_that_may_be_silent_is_published_empty_and_the_manifest_says_so(model: Path) -> None:
    _sources(model, "info", things=[1], others=[])
    assert run("ingest").status is Status.OK
    validated = run("validate")
    assert validated.status is Status.OK, validated.failure
    assert validated.facts["failed"] == ["others: expect_table_row_count_to_be_between() failed on 2013-03-01: found 0"]
    assert run("publish").facts["rows"] == 1
    assert get_lake().read("small", "others").num_rows == 0


def test_a_day_that_no_source_has_anything_for_is_skipped(model: Path) -> None:
    _sources(model, "critical", things=[], others=[])
    assert run("ingest").status is Status.SKIPPED


HOSTILE = """
import pandas as pd


class Odd:
    def __repr__(self):
        raise RuntimeError("no words")


def read(day):
    at = pd.Timestamp("2013-03-01 12:00Z").to_pydatetime()
    frame = pd.DataFrame({"name": list("abcdefghij"), "size": [1.0] * 10, "at": [at] * 10}).astype(object)
    frame.at[1, "name"] = "half \\ud800"
    frame.at[2, "size"] = Odd()
    frame.at[3, "size"] = float("inf")
    frame.at[4, "size"] = "-inf"
    frame.at[5, "name"] = " f"
    frame.at[6, "at"] = at.replace(year=1)
    frame.at[7, "at"] = at.replace(year=9999)
    frame.at[8, "at"] = at.replace(day=4)
    frame.at[9, "size"] = "x" * 10_000
    return frame
"""


def test_hostile_values_go_to_quarantine_one_by_one(model: Path) -> None:
    path = model / "model.yaml"
    spec = yaml.safe_load(path.read_text())
    spec["sources"][0]["event_time"] = "at"
    path.write_text(yaml.safe_dump(spec))
    (model / "source.py").write_text(HOSTILE)
    for step in ("ingest", "validate", "publish"):
        manifest = run(step)
        assert manifest.status is Status.OK, manifest.failure
    assert (manifest.facts["rows"], manifest.facts["quarantined"]) == (1, 9)
    assert get_lake().read("small", "things")["name"].to_pylist() == ["a"]
    found = reasons()
    assert len(found.pop(9)) < 200
    assert found == {
        1: r"name: 'half \ud800' is not a string",
        2: "size: a Odd that cannot be shown (RuntimeError) is not a double",
        3: "size: inf is not a finite number",
        4: "size: -inf is not a finite number",
        5: "blanks around a key (name: ' f')",
        6: "the event lies in another day (at: 0001-03-01 12:00:00+00:00)",
        7: "the event lies in another day (at: 9999-03-01 12:00:00+00:00)",
        8: "the event lies in another day (at: 2013-03-04 12:00:00+00:00)",
    }


def test_infinite_values_are_published_where_the_contract_allows_them(model: Path) -> None:
    path = model / "model.yaml"
    spec = yaml.safe_load(path.read_text())
    spec["sources"][0]["allow_infinite"] = ["size"]
    path.write_text(yaml.safe_dump(spec))
    ingest(model, [("a", 1.0), ("b", float("inf"))])
    assert run("validate").facts["quarantined"] == 0


def test_a_column_without_any_value_is_refused_unless_it_may_be(model: Path) -> None:
    """Of Great Expectations' own, in_set, regex and unique pass on it."""
    (model / "e.yaml").write_text(
        "- {type: expect_column_values_to_be_in_set, severity: critical, kwargs: {column: size, value_set: [1]}}"
    )
    ingest(model, [("a", None), ("b", None)])
    refused = run("validate")
    assert refused.failure is not None
    assert "things: completeness(size) failed on 2013-03-01: 2 of 2 rows; null" in refused.failure.message
    assert "sources[].allow_null" in refused.failure.hint
    path = model / "model.yaml"
    spec = yaml.safe_load(path.read_text())
    spec["sources"][0]["allow_null"] = ["size"]
    path.write_text(yaml.safe_dump(spec))
    assert run("validate").status is Status.OK


def test_only_the_declared_word_for_nothing_is_nothing(model: Path) -> None:
    """``NA`` is Namibia; read as a new model's source.py proposes."""
    proposed = (PROJECT_ROOT / "include/evergreen/authoring/templates/model/source.py.tmpl").read_text()
    (options,) = re.findall(r"read_csv\(f\"[^\"]*\", (.*)\)", proposed)
    (model / "source.py").write_text(
        "def read(day):\n    import io, pandas as pd\n"
        f"    return pd.read_csv(io.StringIO('name,size\\nNA,1\\nnull,\\nNaN,3\\nNone,4\\n'), {options})"
        f".assign(at=pd.Timestamp('{NOON}'))\n"
    )
    for step in ("ingest", "validate", "publish"):
        assert run(step).failure is None
    rows = get_lake().read("small", "things").to_pylist()
    assert [(row["name"], row["size"]) for row in rows] == [("NA", 1.0), ("null", None), ("NaN", 3.0), ("None", 4.0)]


def test_a_row_at_the_end_of_a_day_is_published_with_one_of_two_days_only(model: Path) -> None:
    """A reader that asks for both ends of a day has midnight's row on two days; the contract leaves it one."""
    path = model / "model.yaml"
    spec = yaml.safe_load(path.read_text())
    spec["sources"][0] |= {"event_time": "at", "event_time_days": 0}
    path.write_text(yaml.safe_dump(spec))
    (model / "source.py").write_text(
        "import pandas as pd\n\n\ndef read(day):\n    begin = pd.Timestamp(day, tz='UTC')\n"
        "    times = [begin, begin + pd.Timedelta('1D') - pd.Timedelta('1us'), begin + pd.Timedelta('1D')]\n"
        "    return pd.DataFrame({'name': list('abc'), 'size': 1.0, 'at': times})\n"
    )
    window = Window(start=DAY.start, end=date(2013, 3, 2))
    for step in ("ingest", "validate", "publish"):
        manifest = run(step, window)
        assert manifest.failure is None, manifest.failure
    assert (manifest.facts["rows"], manifest.facts["quarantined"]) == (4, 2)
    times = get_lake().read("small", "things")["at"].to_pylist()
    assert len(set(times)) == len(times) == 4
    assert datetime(2013, 3, 2, tzinfo=UTC) in times
    quarantined = get_lake().read("small", "things_quarantine").to_pylist()
    assert {row["reason"].partition(" (")[0] for row in quarantined} == {"the event lies in another day"}


def test_a_header_without_rows_is_not_validated(model: Path) -> None:
    (model / "source.py").write_text(
        "def read(day):\n    import io, pandas as pd\n    return pd.read_csv(io.StringIO('name,size,at\\n'))\n"
    )
    skipped = run("ingest")
    assert skipped.status is Status.SKIPPED
    assert skipped.reason == "The sources have nothing for 2013-03-01 (0 rows of things)."
    assert run("validate").failure is not None


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        ("raise SystemExit(0)", "configuration", "source.py: line 2: reading things of 2013-03-01: SystemExit: 0"),
        ("raise type('Own', (BaseException,), {})('mine')", "configuration", "Own: mine"),
        ("raise ValueError('x' * 100_000)", "data", "characters)"),
        (r"raise ValueError('\ud800')", "data", r"ValueError: \ud800"),
        (
            "import pandas as pd; return pd.DataFrame([['a', 1.0, 2.0, None]], columns=['name', 'size', 'size', 'at'])",
            "data",
            "the columns of things on 2013-03-01 are not the declared ones: there twice size",
        ),
    ],
)
def test_what_a_reader_does_wrong_is_no_bug(model: Path, body: str, kind: str, expected: str) -> None:
    (model / "source.py").write_text(f"def read(day):\n    {body}\n")
    failed = run("ingest")
    assert failed.failure is not None
    assert failed.failure.failure_class == kind, failed.failure
    assert expected in failed.failure.message
    assert len(failed.failure.message) < 1000
