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

    shown = [name for name in columns if all(frame[name].notna().any() for frame in (reference, current))]
    if not shown:
        return ""
    numbers = [name for name in shown if name in numeric]
    categories = [name for name in shown if name not in numeric]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    datasets = [
        Dataset.from_pandas(_plain(sample_by_day(frame, _SAMPLE), numbers, categories), definition)
        for frame in (current, reference)
    ]
    snapshot = Report([ValueDrift(column=name, method="psi") for name in shown]).run(*datasets)
    html: str = snapshot.get_html_str(as_iframe=False)
    return html


def sample_by_day(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Return as large a share of each day as gives so many rows in all; always alike."""
    if len(frame) <= rows:
        return frame
    return frame.groupby(PARTITION, sort=False).sample(frac=rows / len(frame), random_state=0)


def _plain(frame: pd.DataFrame, numbers: Sequence[str], categories: Sequence[str]) -> pd.DataFrame:
    import numpy as np

    finite = frame[[*numbers, *categories]].replace([np.inf, -np.inf], np.nan)
    return finite.assign(
        **{name: finite[name].astype(float) for name in numbers},
        **{name: category_names(finite[name]) for name in categories},
    )
