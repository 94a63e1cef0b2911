"""What a client may ask of a model: its columns, and the rows of one request once they are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Value = str | int | float | bool | None
Kind = Literal["number", "category", "string", "integer"]
"""``number`` and ``category`` are inputs of the model, and may be null; ``string`` and ``integer`` are entity keys."""


@dataclass(frozen=True)
class Column:
    """A column that every row of a request has.

    Parameters
    ----------
    name
        As model.yaml has it.
    kind
        What its values are. A key that is an input too is a key here.
    """

    name: str
    kind: Kind

    @property
    def is_key(self) -> bool:
        """Whether features are looked up by it: it is never null."""
        return self.kind in {"string", "integer"}


@dataclass(frozen=True)
class Rows:
    """The rows of one request, checked.

    Parameters
    ----------
    columns
        By name, every column of the model's requests; each as long as there are rows.
    at
        When the rows' events are: features are as old as they are then. None is now.
    version
        Which version is to answer; None lets the split of a rollout decide.
    """

    columns: Mapping[str, Sequence[Value]]
    at: datetime | None = None
    version: str | None = None

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(next(iter(self.columns.values()), ()))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request."""

    row: int | None
    """From 0; None where it is not about one row."""
    column: str | None
    value: object
    expected: str
    """What should stand there, in words."""
    kind: Literal["input", "missing_features", "stale_features"] = "input"


class InvalidRequestError(ValueError):
    """A request that cannot be answered as it is: the client gets 422 with every problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{item.column}: {item.value!r}: {item.expected}" for item in problems[:5]))


class RefusedError(Exception):
    """A request that gets an error status.

    Parameters
    ----------
    status
        Of HTTP.
    reason
        One word for the metrics: of these there are few.
    why
        A sentence for the client.
    headers
        What goes with it.
    """

    def __init__(self, status: int, reason: str, why: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.reason, self.headers = status, reason, dict(headers or {})
        super().__init__(why)


class VersionAwayError(RefusedError):
    """The version that a request names does not answer, or no longer."""

    def __init__(self, model: str, version: str, there: Sequence[str]) -> None:
        known = ", ".join(there) or "none"
        super().__init__(404, "version", f"version {version[:20]!r} of {model} does not answer; there is {known}")


class OverloadedError(RefusedError):
    """There is no room for a request now, or nothing to answer it with: the client is told when to come again."""

    def __init__(self, reason: str, why: str, retry_after: int = 1) -> None:
        self.retry_after = retry_after
        super().__init__(503, reason, why, {"retry-after": str(retry_after)})
