"""The interval holds what it promises, more or less: docs/decisions/bootstrap.md has the measurement."""

from __future__ import annotations

import runpy

from evergreen.settings import PROJECT_ROOT

coverage = runpy.run_path(str(PROJECT_ROOT / "tests/benchmarks/bootstrap.py"))["coverage"]


def test_drawing_days_covers_the_truth() -> None:
    assert coverage("log_loss", "partition", worlds=60, rows=100) > 0.75


def test_drawing_rows_would_not() -> None:
    assert coverage("log_loss", "row", worlds=60, rows=200) < 0.5
