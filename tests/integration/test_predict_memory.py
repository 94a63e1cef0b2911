"""A day of ten million rows is predicted in little memory; the machine's speed is no part of it."""

from __future__ import annotations

import pytest

from benchmarks.predict_bench import ROWS, measure

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.mark.timeout(3600)
def test_ten_million_rows_fit_into_four_gib() -> None:
    figures = measure()
    assert figures["rows"] == ROWS == 10_000_000
    assert figures["peak_memory_mb"] < 4096
