"""Features as they were served against those that a training sees for the same entities at the same moments.

An unequal value, or an online row that was older than the offline one, is a defect of the pipeline: it is told, and it
never proposes a retraining, which would not mend it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from evergreen.data.served import AGE, FEATURE
from evergreen.data.transform import EVENT_TIMESTAMP
from evergreen.spec import ModelSpec
from evergreen.stored import Part

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FEWEST_ROWS = 100
"""With fewer answers there is no verdict."""
_TOLERANCE = 1e-6
"""Numbers that differ by less than this share of their size are equal: float32 keeps seven digits."""
_SECOND = "1s"
"""Ages are logged in seconds: a row that is older by less is the same row."""
_EXAMPLES = 3


class ColumnSkew(Part):
    """How far what was served of a column is from offline."""

    share: float
    """Of the answers."""
    examples: tuple[str, ...] = ()
    """Some of the unequal ones: keys, moment and both values."""


class Skew(Part):
    """What was found of the features that were served."""

    verdict: str
    """``skewed``, ``equal`` or ``insufficient``."""
    why: str = ""
    rows: int = 0
    """The answers that were compared."""
    columns: dict[str, ColumnSkew] = Field(default_factory=dict)
    """Each feature; and for each view ``age_<view>``: online rows that were older than offline. The worst first."""
    masked: tuple[str, ...] = ()
    """Features that the log does not tell, which are not compared."""


def no_skew(why: str) -> Skew:
    """Return that nothing can be said, and why."""
    return Skew(verdict="insufficient", why=why)


def compare_features(
    spec: ModelSpec, served: pd.DataFrame, offline: pd.DataFrame, times: Mapping[str, pd.Series]
) -> Skew:
    """Compare features as they were served with the offline ones of the same rows.

    Parameters
    ----------
    spec
        ``serving.maximum_skew`` is the share of unequal answers above which a column is skewed.
    served
        Answers, with the columns of the log.
    offline
        The same entities at the same moments in the same order, with every input.
    times
        By view, the time of each row's offline row; none is NaT.
    """
    if len(served) < FEWEST_ROWS:
        return no_skew(f"{len(served)} answers to compare, {FEWEST_ROWS} are needed")
    served, offline = served.reset_index(drop=True), offline.reset_index(drop=True)
    made = [name for view in spec.features.views for name in view.features if name in spec.features.inputs]
    told = [name for name in made if name not in spec.serving.masked and f"{FEATURE}{name}" in served]
    found = {name: _values(spec, name, served, offline) for name in told}
    found |= {f"{AGE}{view}": _ages(spec, view, served, offline, known) for view, known in times.items()}
    worst = dict(sorted(found.items(), key=lambda item: -item[1].share))
    limit = spec.serving.maximum_skew
    skewed = [f"{name} in {column.share:.1%}" for name, column in worst.items() if column.share > limit]
    masked = tuple(name for name in made if name not in told)
    why = f"{len(skewed)} of {len(worst)} columns differ from offline in more than {limit:.1%} of {len(served)} answers"
    notes = [", ".join(skewed)] if skewed else []
    notes += [f"not compared, as the log does not tell them: {', '.join(masked)}"] if masked else []
    return Skew(
        verdict="skewed" if skewed else "equal",
        why="; ".join([why, *notes]),
        rows=len(served),
        columns=worst,
        masked=masked,
    )


def _values(spec: ModelSpec, name: str, served: pd.DataFrame, offline: pd.DataFrame) -> ColumnSkew:
    import numpy as np

    from evergreen.training.encoder import category_names

    online, known = served[f"{FEATURE}{name}"], offline[name]
    if name in spec.features.numeric:
        same = np.isclose(online.astype(float), known.astype(float), rtol=_TOLERANCE, atol=1e-12, equal_nan=True)
    else:
        online, known = category_names(online), category_names(known)
        same = ((online == known) | (online.isna() & known.isna())).fillna(False).to_numpy(dtype=bool)
    return _column(spec.features.keys, ~same, offline, online, known)


def _ages(spec: ModelSpec, view: str, served: pd.DataFrame, offline: pd.DataFrame, known: pd.Series) -> ColumnSkew:
    """Return the answers whose online row was older than the offline one, or missing where there was one."""
    import pandas as pd

    known = known.reset_index(drop=True)
    online = served[EVENT_TIMESTAMP] - pd.to_timedelta(served[f"{AGE}{view}"].astype(float), unit="s")
    older = (online < known - pd.Timedelta(_SECOND)) | (online.isna() & known.notna())
    return _column(spec.features.keys, older.to_numpy(dtype=bool), offline, online, known)


def _column(
    keys: Sequence[str],
    unequal: np.ndarray,
    offline: pd.DataFrame,
    online: pd.Series,
    known: pd.Series,
) -> ColumnSkew:
    import numpy as np

    examples = []
    for row in np.flatnonzero(unequal)[:_EXAMPLES]:
        who = ", ".join(f"{name}={offline[name].iloc[row]}" for name in keys)
        at = offline[EVENT_TIMESTAMP].iloc[row].isoformat()
        examples.append(f"{who} at {at}: served {online.iloc[row]}, offline {known.iloc[row]}")
    return ColumnSkew(share=float(unequal.mean()), examples=tuple(examples))
