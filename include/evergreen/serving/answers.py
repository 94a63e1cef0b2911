"""What a model's server answers: for each row the outputs, and which version gave them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from evergreen.serving.requests import Column, Rows

VariantName = Literal["champion", "challenger"]


@dataclass(frozen=True)
class Answer:
    """The answer to one row."""

    prediction_id: str
    """By which feedback and the log know it."""
    version: str
    variant: VariantName
    outputs: Mapping[str, float]
    """``probability``, ``prediction``, or a probability for each class."""


class Served(Protocol):
    """One model in a server, as the protocols see it."""

    name: str
    columns: Sequence[Column]
    """What its requests are made of."""

    @property
    def outputs(self) -> Sequence[str]:
        """The names of what it answers; empty until a version is loaded."""
        ...

    @property
    def ready(self) -> bool:
        """Whether a verified version is loaded."""
        ...

    @property
    def versions(self) -> Sequence[str]:
        """The versions that answer now, the champion first."""
        ...

    async def predict(self, rows: Rows, client: str) -> list[Answer]:
        """Answer every row, or none.

        Raises
        ------
        InvalidRequestError
            If features are missing or stale, and the model refuses such.
        VersionAwayError
            If the rows are for a version that does not answer.
        OverloadedError
            If there is no room, no version is loaded, or the online store does not answer.
        """
        ...

    async def feedback(self, prediction_id: str, outcome: object, client: str) -> None:
        """Keep what became of a prediction.

        Raises
        ------
        InvalidRequestError
            If the outcome is none of the model's task.
        OverloadedError
            If it cannot be kept now.
        """
        ...
