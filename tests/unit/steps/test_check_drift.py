"""What drift is measured against: the very rows that the champion learned from, and nothing else in their place."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.contract import DataError, Window
from evergreen.handover import file_digest
from evergreen.monitoring.learning import learn_reference
from evergreen.monitoring.reference import Reference, champion_reference
from evergreen.settings import Settings
from evergreen.store import get_store
from evergreen.training.registry import Version

SPEC = load_model("flight_delay")
LEARNED = {"training_start": "2013-01-01", "training_end": "2013-02-28"}


def parquet(value: float) -> bytes:
    content = io.BytesIO()
    frame(value).to_parquet(content)
    return content.getvalue()


def frame(value: float) -> pd.DataFrame:
    return pd.DataFrame({"ds": ["2013-01-01", "2013-01-02"], **{name: [value] * 2 for name in SPEC.drift.columns}})


def read_again(window: Window) -> pd.DataFrame:
    return frame(5.0)


def reference(version: Version) -> Reference:
    return champion_reference(SPEC, version, read_again)


def champion(**tags: str) -> Version:
    uri = get_store().write("datasets/flight_delay/2013-03-01-abc/training.parquet", parquet(1.0))
    return Version("flight_delay", "7", "run", {**LEARNED, "dataset_uri": uri, "dataset_version": "abc", **tags})


@pytest.mark.parametrize(
    "tags", [{"dataset_digest": file_digest(parquet(1.0))}, {}], ids=["digest", "registered before"]
)
def test_the_champion_s_own_rows_are_the_reference(settings: Settings, tags: dict[str, str]) -> None:
    found = reference(champion(**tags))
    assert found.rows is not None
    assert found.rows["temp"].tolist() == [1.0, 1.0]
    assert (found.name, [file.version for file in found.files]) == ("training, 2013-01-01..2013-02-28", ["abc"])


def with_baseline(columns: dict[str, float], **tags: str) -> Version:
    """A version with the counts of what it learned from, taken of rows that have these columns too."""
    rows = frame(1.0).assign(**columns)
    content = learn_reference(SPEC, rows).model_dump_json().encode()
    uri = get_store().write("runs/flight_delay.train/r/train/baseline.json", content)
    return champion(**{"baseline_uri": uri, "baseline_digest": file_digest(content), **tags})


def test_the_counts_that_were_stored_with_the_version_are_the_reference(settings: Settings) -> None:
    version = with_baseline({"prediction": 0.2})
    found = reference(version)
    assert found.baseline is not None
    assert (found.baseline.rows, set(found.baseline.columns)) == (2, {*SPEC.drift.columns, "prediction"})
    assert [file.name for file in found.files] == ["baseline", "reference"]
    Path(version.tags["dataset_uri"]).unlink()
    assert reference(version).rows is None  # nothing is read again: the counts are enough
    Path(version.tags["baseline_uri"]).unlink()
    again = reference(version)
    assert again.rows is not None
    assert again.rows["temp"].tolist() == [5.0, 5.0]


def test_counts_without_a_column_that_is_compared_today_are_left_aside(settings: Settings) -> None:
    found = reference(with_baseline({}))  # without the prediction
    assert found.baseline is None
    assert found.rows is not None


def test_counts_that_were_changed_since_are_refused(settings: Settings) -> None:
    version = with_baseline({"prediction": 0.2})
    path = Path(version.tags["baseline_uri"])
    path.write_text(path.read_text().replace('"rows":2', '"rows":3'))
    with pytest.raises(DataError, match=r"baseline\.json: it is not the file that version 7"):
        reference(version)


@pytest.mark.parametrize("content", [parquet(9.0), parquet(1.0)[:-20]], ids=["other rows", "torn"])
def test_a_file_that_is_not_what_the_champion_learned_from_is_refused(settings: Settings, content: bytes) -> None:
    version = champion(dataset_digest=file_digest(parquet(1.0)))
    path = Path(version.tags["dataset_uri"])
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"training\.parquet: it is not the file that version 7") as raised:
        reference(version)
    assert f"its digest is {file_digest(content)}, and not {file_digest(parquet(1.0))}" in raised.value.message
    assert "or delete it: then the days are read again" in raised.value.hint
