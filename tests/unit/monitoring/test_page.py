"""The page and the pictures of a drift report."""

from __future__ import annotations

import io
import re
from datetime import date

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from drift_kit import days, frames, spec_with
from evergreen.monitoring.comparison import Comparison
from evergreen.monitoring.counting import count, frame_batches
from evergreen.monitoring.drift import DriftReport, compare
from evergreen.monitoring.evidently_report import evidently_html, sample_by_day
from evergreen.monitoring.files import report_files
from evergreen.monitoring.learning import learn
from evergreen.monitoring.page import page
from evergreen.monitoring.proposal import ColumnDrift, Index

DAY = date(2024, 5, 30)
FACTS = {"windows": "2 of the last 3 windows", "current": "2024-05-01..2024-05-30", "reference": "training, all of it"}


def compared(prediction: object, number: bool) -> Comparison:
    rng = np.random.default_rng(0)
    before = {"<x>": rng.normal(size=2000), "site": rng.choice(list("ab"), 2000), "prediction": prediction}
    now = {"<x>": rng.normal(2, 1, 2000), "site": rng.choice(list("ab<"), 2000), "prediction": prediction}
    reference, current = frames(before, now)
    columns = list(before)
    baseline = learn(columns, {"<x>", *(["prediction"] if number else [])}, frame_batches(reference, columns))
    counted = count(baseline.columns, frame_batches(current, columns))
    return Comparison(compare(spec_with(), baseline, counted), (), "", baseline, counted, '<p>of "Evidently"</p>')


@pytest.mark.parametrize("number", [True, False], ids=["a number", "a class"])
def test_the_page_has_verdict_columns_pictures_and_evidently_s_report(number: bool) -> None:
    rng = np.random.default_rng(1)
    comparison = compared(rng.random(2000) if number else rng.choice(["late", "in time"], 2000), number)
    files = report_files("toy", FACTS, comparison, [(date(2024, 5, 29), {}), (DAY, comparison.report.columns)])
    assert set(files) == {"drift.html", "heat_map.png", "prediction.png"}
    html = files["drift.html"].decode()
    assert "drift in 2 of the last 3 windows" in html
    assert '<tr class="drift"><td>&lt;x&gt;</td>' in html
    assert "new value &#x27;&lt;&#x27;" in html
    assert html.count('src="data:image/png;base64,') == 2
    assert 'srcdoc="&lt;p&gt;of &quot;Evidently&quot;&lt;/p&gt;"' in html
    assert "http" not in html  # it needs nothing from elsewhere
    for name in ("heat_map.png", "prediction.png"):
        with Image.open(io.BytesIO(files[name])) as picture:
            assert picture.width > picture.height > 200


def cells_of(html: str, column: str) -> list[str]:
    """The cells of a column's row, as text."""
    row = re.search(rf"<tr[^>]*><td>{column}</td>.*?</tr>", html)
    assert row is not None
    return [re.sub("<[^>]+>", "", cell) for cell in re.findall("<td>(.*?)</td>", row[0])]


def test_each_column_has_whether_it_drifted_and_the_index_that_says_so_by_its_name() -> None:
    """New categories alone are drift: the index of the values, which is 0, would say the contrary of it."""
    new = {"values": Index(value=0.0, limit=0.02), "new": Index(value=0.378, limit=0.1, p_value=2.4e-13)}
    quiet = {"missing": Index(value=0.001, limit=0.2), "values": Index(value=0.01, limit=0.02)}
    columns = {
        "quiet": ColumnDrift(indices=quiet),
        "site": ColumnDrift(indices=new, new={"d": 0.3}, new_share=0.3, drifted=True),
        "id": ColumnDrift(note="almost every row has its own value, like an id"),
    }
    html = page("toy", {}, "drift", columns, {}, "")
    assert "<th>column</th><th>drifted</th><th>by</th><th>index</th>" in html
    assert cells_of(html, "site")[:6] == ["site", "yes", "new", "0.378", "0.100", "2.4e-13"]
    assert cells_of(html, "quiet")[:6] == ["quiet", "no", "values", "0.010", "0.020", ""]
    assert cells_of(html, "id")[:6] == ["id", "no", "", "", "", ""]
    assert html.index("<td>site</td>") < html.index("<td>quiet</td>")


def test_the_page_shows_the_champion_s_metric_where_it_was_measured() -> None:
    comparison = compared(np.random.default_rng(1).random(2000), number=True)
    files = report_files("toy", FACTS, comparison, [(DAY, comparison.report.columns)], b"PNG")
    assert files["metric.png"] == b"PNG"
    assert files["drift.html"].decode().count('src="data:image/png;base64,') == 3


def test_the_page_says_what_the_label_has_to_do_with_the_inputs_where_that_is_known() -> None:
    comparison = compared(np.random.default_rng(1).random(2000), number=True)
    history = [(DAY, comparison.report.columns)]
    told, silent = (
        report_files("toy", FACTS, comparison, history, None, labels)["drift.html"].decode()
        for labels in ("1 of 2 relations to late changed: <x>", "")
    )
    assert "<dt>labels</dt><dd>1 of 2 relations to late changed: &lt;x&gt;</dd>" in told
    assert "<dt>labels</dt>" not in silent


def test_without_a_comparison_there_is_nothing_to_show() -> None:
    assert report_files("toy", FACTS, Comparison(DriftReport("insufficient", "no champion")), [(DAY, {})]) == {}


def test_the_sample_for_evidently_has_as_large_a_share_of_each_day() -> None:
    frame = pd.DataFrame({"ds": np.repeat(["2024-01-01", "2024-01-02"], [9000, 1000]), "x": np.arange(10_000)})
    sample = sample_by_day(frame, 2000)
    assert sample.groupby("ds").size().tolist() == [1800, 200]
    assert sample.equals(sample_by_day(frame, 2000))
    assert sample_by_day(frame, 10_000) is frame


def test_evidently_draws_what_has_values_on_both_sides() -> None:
    frame = pd.DataFrame({"ds": days("2024-01-01", 2, 600), "x": np.arange(600.0), "gap": np.nan, "site": "a"})
    assert "<html" in evidently_html(["x", "gap", "site"], {"x", "gap"}, frame, frame.assign(x=np.inf, site=5))
    assert evidently_html(["gap"], {"gap"}, frame, frame) == ""
