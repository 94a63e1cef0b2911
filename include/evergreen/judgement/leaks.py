"""What is too good to be true: an input that tells the label alone, rows that were learned from, events after labels.

None looks at a model. All look at the rows that models are judged on, with those of the training window.
"""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import TYPE_CHECKING

from evergreen.data.lake import PARTITION
from evergreen.data.transform import EVENT_TIMESTAMP
from evergreen.judgement.evidence import Alone, Leaks
from evergreen.judgement.figures import MISSING
from evergreen.judgement.interval import FEWEST_DAYS
from evergreen.judgement.observations import LateEvents
from evergreen.spec import ModelSpec, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_FEWEST = 10
"""Rows with and without a class that are needed to say how well an input tells it: fewer are told apart by luck."""
_CLASSES = 20
"""Classes of a multiclass model that are looked at: the most frequent ones."""
_VALUES = 50
"""Up to so many different numbers are looked at as categories too: a code of the label need not be in its order."""
_USUAL = 0.9
"""Of the training days: what so many of them reach is usual."""


def leaks_of(spec: ModelSpec, frame: pd.DataFrame, training: pd.DataFrame) -> Leaks:
    """Return how well each input tells the label alone, how many rows are in both windows, and events after labels.

    Parameters
    ----------
    spec
        The model: its inputs, its label and its task.
    frame, training
        The rows of the evaluation and of the training window.
    """
    days = training[PARTITION].nunique()
    shared, chance = shared_rows(spec, frame, training) if days >= FEWEST_DAYS else (None, None)
    inputs = (Alone(column=name, score=alone(spec, name, frame, training)) for name in spec.features.inputs)
    late = late_events(spec, frame, training) if EVENT_TIMESTAMP in frame.columns else None
    return Leaks(inputs=tuple(inputs), shared=shared, chance=chance, late=late)


def late_events(spec: ModelSpec, frame: pd.DataFrame, training: pd.DataFrame) -> LateEvents:
    """Return how many examples of both windows are asked when their label is known already.

    It is known when its partition is ingested, or as many days later as labels are late. A feature row of that very
    moment may count the label, and an event of that moment or later is given such rows.
    """
    import pandas as pd

    rows = pd.concat([part[[PARTITION, EVENT_TIMESTAMP]] for part in (training, frame)], ignore_index=True)
    delay = timedelta(days=spec.features.examples.label_delay_days)
    known = {day: spec.schedule.ingested_at(date.fromisoformat(day) + delay) for day in rows[PARTITION].unique()}
    after = rows[EVENT_TIMESTAMP] - pd.to_datetime(rows[PARTITION].map(known), utc=True)
    count = int((after >= timedelta(0)).sum())
    found = LateEvents(count=count, rows=len(rows))
    if not count:
        return found
    latest = rows.loc[after.idxmax()]
    return found.model_copy(
        update={"event": latest[EVENT_TIMESTAMP].to_pydatetime(), "known": known[latest[PARTITION]]}
    )


def alone(spec: ModelSpec, name: str, frame: pd.DataFrame, training: pd.DataFrame) -> float | None:
    """Return how well one input ranks the label, on the evaluation's rows; None where too few rows can tell.

    Of a binary label it is the area under the ROC curve, of a regression the rank correlation, of several classes the
    mean of each against the rest, by their frequency; whichever way round the input ranks. A number ranks by its
    value, and missing ones below or above all others, as tells more: whether a value is there may be the leak. A
    category ranks by what the training window's labels were where it had it, so that a column of many different values
    does not look like one that knows.
    """
    import numpy as np
    import pandas as pd

    from evergreen.training.encoder import category_names

    values: list[np.ndarray] = []
    if name in spec.features.numeric:
        numbers = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        values = [np.where(np.isnan(numbers), end, numbers) for end in (-np.inf, np.inf)]
    names: list[pd.Series] = []
    if not values or training[name].nunique() <= _VALUES:
        names = [category_names(rows[name]).fillna(MISSING) for rows in (frame, training)]
    total = weight = 0.0
    for target, learned_target in _targets(spec, frame, training):
        ranked = list(values)
        if names:
            means = pd.Series(learned_target).groupby(names[1].to_numpy()).mean()
            ranked.append(names[0].map(means).fillna(learned_target.mean()).to_numpy(dtype=np.float64))
        scores = [score for one in ranked if math.isfinite(score := _strength(spec.task, one, target))]
        share = 1.0 if spec.task is Task.REGRESSION else float(target.mean())
        if scores:
            total, weight = total + share * max(scores), weight + share
    return total / weight if weight else None


def _targets(spec: ModelSpec, frame: pd.DataFrame, training: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the labels of both windows as numbers, or which rows have each of the classes; without those too rare."""
    import numpy as np

    from evergreen.training.encoder import category_names

    judged, learned = (rows[spec.features.examples.label] for rows in (frame, training))
    if spec.task is not Task.MULTICLASS:
        numbers = judged.to_numpy(dtype=np.float64), learned.to_numpy(dtype=np.float64)
        few = len(frame) < 2 * _FEWEST
        if spec.task is Task.BINARY:
            few = not _FEWEST <= numbers[0].sum() <= len(frame) - _FEWEST
        return [] if few else [numbers]
    names, known = category_names(judged), category_names(learned)
    counts = names.value_counts().head(_CLASSES)
    kept = counts[(counts >= _FEWEST) & (counts <= len(frame) - _FEWEST)]
    both = [(names == one, known == one) for one in kept.index]
    return [(now.to_numpy(dtype=np.float64), before.to_numpy(dtype=np.float64)) for now, before in both]


def _strength(task: Task, values: np.ndarray, target: np.ndarray) -> float:
    """Return how well values rank a target, from 0 (or of an AUC one half) to 1; nan where one of them is constant."""
    import numpy as np
    from scipy.stats import rankdata

    ranks = rankdata(values)
    if np.ptp(ranks) == 0 or np.ptp(target) == 0:
        return math.nan
    if task is Task.REGRESSION:
        return float(abs(np.corrcoef(ranks, rankdata(target))[0, 1]))
    ones = target.sum()
    area = float((ranks @ target - ones * (ones + 1) / 2) / (ones * (len(target) - ones)))
    return max(area, 1 - area)


def shared_rows(spec: ModelSpec, frame: pd.DataFrame, training: pd.DataFrame) -> tuple[float, float]:
    """Return the share of the evaluation's rows that the training window has too, and what chance makes of that.

    A row is its inputs and its label. Where these take few values rows are alike by chance, so the training window
    says what is usual: of each of its days the share of rows that another day has as well. The second figure is what
    nine of ten of its days do not exceed.
    """
    import numpy as np

    judged, learned = _rows(spec, frame), _rows(spec, training)
    days = training[PARTITION].groupby(learned).transform("nunique")
    daily = (days > 1).groupby(training[PARTITION]).mean()
    return float(judged.isin(learned).mean()), float(np.quantile(daily, _USUAL))


def _rows(spec: ModelSpec, frame: pd.DataFrame) -> pd.Series:
    """Return a number for each row that stands for its inputs and its label."""
    import numpy as np
    import pandas as pd

    from evergreen.training.encoder import category_names

    numbers = [*spec.features.numeric, *([] if spec.task is Task.MULTICLASS else [spec.features.examples.label])]
    names = [*spec.features.categorical, *([spec.features.examples.label] if spec.task is Task.MULTICLASS else [])]
    plain = {name: frame[name].to_numpy(dtype=np.float64, na_value=np.nan) + 0.0 for name in numbers}  # no -0.0
    plain |= {name: category_names(frame[name]).to_numpy() for name in names}
    return pd.util.hash_pandas_object(pd.DataFrame(plain, index=frame.index), index=False)
