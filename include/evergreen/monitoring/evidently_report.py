"""Evidently's own report, as a picture: a sample of the rows, and no say in the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evergreen.data.arrow import PARTITION
from evergreen.environment import add_constants
from evergreen.training.encoder import category_names

if TYPE_CHECKING:
    import pandas as pd

_SAMPLE = 20_000


def evidently_html(columns: Sequence[str], numeric: set[str], reference: pd.DataFrame, current: pd.DataFrame) -> str:
    """Return the report on two frames, of columns that have a value on both sides.

    The method is named: Evidently's default changes with the number of rows. Its bins are not ours, see
    docs/decisions/drift.md, so no column is called drifted in it.
    """
    add_constants()  # it phones home otherwise
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    samples = [_plain(sample_by_day(frame, _SAMPLE), columns, numeric) for frame in (current, reference)]
    shown = [name for name in columns if all(sample[name].notna().any() for sample in samples)]
    if not shown:
        return ""
    numbers = [name for name in shown if name in numeric]
    definition = DataDefinition(
        numerical_columns=numbers, categorical_columns=[name for name in shown if name not in numbers]
    )
    datasets = [Dataset.from_pandas(sample[shown], definition) for sample in samples]
    snapshot = Report([ValueDrift(column=name, method="psi") for name in shown]).run(*datasets)
    html: str = snapshot.get_html_str(as_iframe=False)
    return html


def sample_by_day(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Return as large a share of each day as gives so many rows in all; always alike."""
    if len(frame) <= rows:
        return frame
    return frame.groupby(PARTITION, sort=False).sample(frac=rows / len(frame), random_state=0)


def _plain(frame: pd.DataFrame, columns: Sequence[str], numeric: set[str]) -> pd.DataFrame:
    """Return the columns as they are compared: numbers that are finite, and categories by name."""
    import numpy as np

    plain = {
        name: frame[name].astype(float).replace([np.inf, -np.inf], np.nan)
        if name in numeric
        else category_names(frame[name])
        for name in columns
    }
    return frame[list(columns)].assign(**plain)
