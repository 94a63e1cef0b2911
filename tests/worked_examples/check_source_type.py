"""The source type of the worked example, read from real files."""

from __future__ import annotations

from datetime import date
from importlib import import_module
from pathlib import Path

import pytest

from evergreen.data.source_types import source_types

DAY = date(2024, 1, 1)


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_file_a_day_is_read(tmp_path: Path, separator: str) -> None:
    assert "csv" in source_types()
    csv = import_module("evergreen.data.source_types.csv")
    (tmp_path / f"{DAY}.csv").write_text("customer,country\nc17,NA\nc03,\n".replace(",", separator))
    options = csv.Options(path=f"{tmp_path}/{{partition}}.csv", separator=separator)
    rows = csv.read(DAY, options)
    assert rows.to_dict("list") == {
        "customer": ["c17", "c03"],
        "country": ["NA", pytest.approx(float("nan"), nan_ok=True)],
    }
    assert csv.read(date(2024, 1, 2), options) is None
