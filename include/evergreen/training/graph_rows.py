"""The rows on which a graph is compared with its network, and how far apart their answers are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evergreen.training.encoder import Encoder, category_names
from evergreen.training.graph_parts import missing_marker

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

_TRAINING_ROWS = 1000
_MOST_CATEGORIES = 10_000
"""So many categories of each input are asked for, one a row."""
_FAR = 1e12
"""Standard deviations: far beyond what is clipped."""
_NUMBERS = (float("nan"), 0.0, 0.3, _FAR, -_FAR, float("inf"), float("-inf"))
"""What every number is asked for, in standard deviations from its mean."""


def edge_rows(encoder: Encoder, frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows of the training window, and those that test the edges: missing, unknown, every category, far away."""
    import numpy as np
    import pandas as pd

    known = plain(encoder, frame.iloc[evenly(len(frame), _TRAINING_ROWS)])
    categories = {name: [None, missing_marker(encoder), *names] for name, names in encoder.vocabulary.items()}
    count = min(max([*map(len, categories.values()), 2 * len(_NUMBERS)]), _MOST_CATEGORIES)
    steps = np.resize(_NUMBERS, count)
    numbers = {name: mean + encoder.scale[name] * steps for name, mean in encoder.mean.items()}
    texts = {name: [names[row % len(names)] for row in range(count)] for name, names in categories.items()}
    return pd.concat([known, plain(encoder, pd.DataFrame({**numbers, **texts}))], ignore_index=True)


def evenly(count: int, most: int) -> np.ndarray:
    """Return the positions of at most so many rows among ``count``, the first and the last among them."""
    import numpy as np

    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))


def plain(encoder: Encoder, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a model's inputs as floats, and as text or None: what both the network and the graph take."""
    import numpy as np
    import pandas as pd

    numbers = {name: frame[name].astype("Float64").to_numpy(np.float64, na_value=np.nan) for name in encoder.mean}
    texts = {name: category_names(frame[name]).to_numpy() for name in encoder.vocabulary}
    return pd.DataFrame({**numbers, **texts}, index=frame.index)


def differences(encoder: Encoder, expected: pd.DataFrame, got: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return how far apart two answers to each row are, as the golden requests measure it; both not finite: not."""
    import numpy as np

    said = expected.to_numpy(np.float64)
    other = np.stack([got[name] for name in expected], axis=1)
    far = np.abs(said - encoder.target_mean)
    with np.errstate(invalid="ignore"):
        apart = np.abs(other - said) / np.maximum(encoder.target_scale, far)
    finite = np.isfinite(said), np.isfinite(other)
    apart = np.where(finite[0] & finite[1], apart, np.where(finite[0] == finite[1], 0.0, np.inf))
    worst: np.ndarray = apart.max(axis=1)
    return worst
