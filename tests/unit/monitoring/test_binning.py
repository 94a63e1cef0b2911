"""Bins, the index over them, and counting batch by batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from evidently.legacy.calculations.stattests.psi import _psi
from evidently.legacy.core import ColumnType

from evergreen.monitoring.binning import edges_of, psi
from evergreen.monitoring.counting import MOST_LEVELS, UNNAMED, Batches, count, frame_batches, parquet_batches
from evergreen.monitoring.learning import learn


@pytest.mark.parametrize("seed", range(8))
def test_the_index_is_evidently_s_on_equal_bins(seed: int) -> None:
    """Empty bins, on one side and on both, and a smallest share under its fill value are among them."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(30, 0.3), 2)
    before, now = rng.multinomial(50_000, shares[0]), rng.multinomial(20_000, shares[1])
    assert (before == 0).any() or (now == 0).any()
    values = [pd.Series(np.repeat([f"v{at}" for at in range(30)], counts)) for counts in (before, now)]
    theirs, _ = _psi(values[0], values[1], ColumnType.Categorical, 0.1)
    assert float(psi(before, now)) == pytest.approx(theirs, abs=1e-9)


def test_the_index_of_numbers_is_evidently_s_on_its_own_bins() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.normal(size=5000), rng.normal(0.3, 1.2, 4000)
    theirs, _ = _psi(pd.Series(before), pd.Series(now), ColumnType.Numerical, 0.1)
    edges = np.histogram_bin_edges(np.concatenate([before, now]), bins="sturges")
    ours = psi(*(np.histogram(values, edges)[0] for values in (before, now)))
    assert float(ours) == pytest.approx(theirs, abs=1e-9)


def test_many_windows_are_compared_at_once() -> None:
    rng = np.random.default_rng(0)
    before, now = rng.integers(0, 9, (3, 6)), rng.integers(0, 9, (3, 6))
    assert psi(before, now) == pytest.approx([float(psi(before[at], now[at])) for at in range(3)])


def test_edges_are_the_reference_s_quantiles_and_no_value_lies_on_one() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    edges = edges_of(values)
    assert len(edges) == 9
    assert np.histogram(values, [-np.inf, *edges, np.inf])[0] == pytest.approx(10_000, abs=1)
    assert edges_of(np.append(values, 1e9))[:8] == pytest.approx(edges[:8], abs=1e-3)
    assert not set(edges) & set(values)


def test_each_of_few_values_has_a_bin_and_what_lies_between_has_another() -> None:
    edges = edges_of(np.array([0.0, 1.0, 1.0000001, 3.0]))
    assert np.searchsorted(edges, [-9, 0, 0.5, 1, 1.0000002, 2, 3, 9]).tolist() == [0, 1, 2, 3, 3, 4, 5, 6]
    assert edges_of(np.zeros(0)) == []


def in_batches(frame: pd.DataFrame, rows: int) -> Batches:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    return lambda: iter(table.to_batches(max_chunksize=rows))


def mixed(seed: int, rows: int = 3000) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    day = rng.choice(pd.date_range("2024-01-01", periods=12).strftime("%Y-%m-%d"), rows)  # in no order
    number = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows))
    text = pd.Series(rng.choice(list("abcdef"), rows), dtype=object).where(rng.random(rows) < 0.9, None)
    return pd.DataFrame({"ds": day, "number": number, "text": text})


def test_batches_count_like_the_whole_and_days_are_in_order(tmp_path: Path) -> None:
    columns, frame = ["number", "text"], mixed(0)
    whole = learn(columns, {"number"}, frame_batches(frame, columns))
    assert whole.days == tuple(sorted(set(frame["ds"])))
    assert learn(columns, {"number"}, in_batches(frame, 7)) == whole
    pq.write_table(pa.Table.from_pandas(frame.assign(other=1)), tmp_path / "rows.parquet")
    assert learn(columns, {"number"}, parquet_batches(tmp_path / "rows.parquet", columns)) == whole
    counts = np.array(whole.columns["text"].counts)
    assert counts.sum(axis=1).tolist() == frame.groupby("ds").size().tolist()
    assert counts[:, -1].sum() == frame["text"].isna().sum()
    seen = frame[frame["text"] == "c"]["ds"]
    level = whole.columns["text"].known["c"]
    assert (level.rows, whole.days[level.first], whole.days[level.last]) == (len(seen), seen.min(), seen.max())


def test_a_window_with_other_days_and_new_levels_is_counted_in_the_same_bins() -> None:
    columns = ["number", "text"]
    baseline = learn(columns, {"number"}, frame_batches(mixed(0), columns))
    current = mixed(1).assign(text=lambda frame: frame["text"].replace({"a": "new", "b": "newer"}))
    found = count(baseline.columns, in_batches(current, 100))
    assert found.new["text"] == {name: (current["text"] == name).sum() for name in ("new", "newer")}
    known = current["text"].isin([*"cdef"]).sum() + current["text"].isna().sum()
    assert found.bins["text"].sum() == known
    assert found.ends["number"] == (current["number"].min(), current["number"].max())


@pytest.mark.parametrize("values", [[5, 6, None], [5.0, 6.0, None], ["5", "6", None]], ids=["int", "float", "text"])
def test_a_category_is_its_name_whatever_its_type(values: list[object]) -> None:
    def frame(column: list[object]) -> pd.DataFrame:
        return pd.DataFrame({"ds": "2024-01-01", "x": column})

    baseline = learn(["x"], set(), frame_batches(frame(["5", "6", None]), ["x"]))
    found = count(baseline.columns, frame_batches(frame(values), ["x"]))
    assert found.bins["x"].tolist() == [[1, 1, 0, 1]]
    assert not found.new["x"]


def test_new_levels_without_end_are_counted_and_not_all_named() -> None:
    baseline = learn(["x"], set(), frame_batches(pd.DataFrame({"ds": "2024-01-01", "x": ["a"] * 9}), ["x"]))
    ids = pd.DataFrame({"ds": "2024-01-01", "x": [f"id {row}" for row in range(MOST_LEVELS + 50)]})
    new = count(baseline.columns, in_batches(ids, 1000)).new["x"]
    assert (len(new), new[UNNAMED], new.total()) == (MOST_LEVELS + 1, 50, len(ids))


def test_a_sample_of_many_rows_finds_nearly_the_same_edges() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"ds": "2024-01-01", "x": rng.normal(size=900_000)})
    edges = learn(["x"], {"x"}, frame_batches(frame, ["x"])).columns["x"].edges
    assert edges == pytest.approx(edges_of(frame["x"].to_numpy()), abs=0.02)
