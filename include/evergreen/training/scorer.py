"""A loaded model that names wrong inputs, and takes missing values of any type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evergreen.contract import DataError
from evergreen.trust.statement import Bound

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scorer:
    """A model that was verified and loaded.

    Parameters
    ----------
    name
        What to call it in errors: its address.
    encoder
        What it knows of its inputs: an ``Encoder`` of the version that it was trained with.
    answer
        Predicts from the columns it knows.
    bound
        What it is bound to by its signature.
    size
        Bytes of the folder that is signed; 0 where it is not known.
    """

    name: str
    encoder: Any
    answer: Callable[[pd.DataFrame], pd.DataFrame]
    bound: Bound
    size: int = 0

    @property
    def inputs(self) -> dict[str, bool]:
        """The columns it asks for, in their order, and whether each is a number."""
        return dict.fromkeys(self.encoder.mean, True) | dict.fromkeys(self.encoder.vocabulary, False)

    def nothing_known(self) -> pd.DataFrame:
        """Return a row in which every input is missing."""
        import pandas as pd

        return pd.DataFrame({name: [None] for name in self.inputs}, dtype=object)

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the predictions of raw rows; what is missing (None, NaN, NA of any type) counts as not known.

        Raises
        ------
        DataError
            If a column is missing, unknown or there twice, or a number's column holds something else.
        """
        inputs, columns = self.inputs, list(frame.columns)
        problems = {
            "missing": [name for name in inputs if name not in columns],
            "unknown": [str(name) for name in columns if name not in inputs],
            "there twice": [name for name in inputs if columns.count(name) > 1],
        }
        if wrong := "; ".join(f"{problem} {', '.join(names)}" for problem, names in problems.items() if names):
            raise DataError(f"{self.name}: the inputs are not the model's: {wrong}.", f"Give {', '.join(inputs)}.")
        plain = {name: self._plain(frame[name], number) for name, number in inputs.items()}
        return self.answer(frame.assign(**plain)[list(inputs)])

    def _plain(self, column: pd.Series, number: bool) -> Any:
        """Return a column in plain types: a number's as float64, any other's missing values as None."""
        import numpy as np
        import pandas as pd

        if not number:
            return column.astype(object).where(column.notna(), None)
        if column.dtype.kind in "mM":  # pandas would make nanoseconds of times
            column = column.astype(object)
        try:
            return pd.to_numeric(column).astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.name}: the input {column.name!r} is not a number: {error}.") from error
