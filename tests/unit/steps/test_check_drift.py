"""What drift is measured against: the very rows that the champion learned from, and nothing else in their place."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest

from evergreen.catalog import load_model
from evergreen.contract import DataError
from evergreen.handover import file_digest
from evergreen.settings import Settings
from evergreen.steps.check_drift import _training_rows
from evergreen.store import get_store
from evergreen.training.registry import Version

SPEC = load_model("flight_delay")
LEARNED = {"training_start": "2013-01-01", "training_end": "2013-02-28"}


def parquet(value: float) -> bytes:
    content = io.BytesIO()
    pd.DataFrame({name: [value, value] for name in SPEC.drift.columns}).to_parquet(content)
    return content.getvalue()


def champion(**tags: str) -> Version:
    uri = get_store().write("datasets/flight_delay/2013-03-01-abc/training.parquet", parquet(1.0))
    return Version("flight_delay", "7", "run", {**LEARNED, "dataset_uri": uri, "dataset_version": "abc", **tags})


@pytest.mark.parametrize(
    "tags", [{"dataset_digest": file_digest(parquet(1.0))}, {}], ids=["digest", "registered before"]
)
def test_the_champion_s_own_rows_are_the_reference(settings: Settings, tags: dict[str, str]) -> None:
    frame, name, (file,) = _training_rows(SPEC, champion(**tags), {})
    assert (len(frame), name, file.version) == (2, "training, 2013-01-01..2013-02-28", "abc")


@pytest.mark.parametrize("content", [parquet(9.0), parquet(1.0)[:-20]], ids=["other rows", "torn"])
def test_a_file_that_is_not_what_the_champion_learned_from_is_refused(settings: Settings, content: bytes) -> None:
    version = champion(dataset_digest=file_digest(parquet(1.0)))
    path = Path(version.tags["dataset_uri"])
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"training\.parquet: it is not the file that version 7") as raised:
        _training_rows(SPEC, version, {})
    assert f"its digest is {file_digest(content)}, and not {file_digest(parquet(1.0))}" in raised.value.message
    assert "or delete it: then the days are read again" in raised.value.hint
