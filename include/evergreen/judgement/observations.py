"""What an evaluation observes, of a challenger that it asks and of the rows: documents that evidence is made of."""

from __future__ import annotations

from datetime import datetime

from evergreen.stored import Part


class BehaviourResult(Part):
    """What a challenger did in a test of ``behaviours.yaml``. What is allowed stands there, and in the gate's check."""

    name: str
    kind: str
    """``invariance``, ``direction``, ``request``."""
    definition: str
    """Digest of what was asked."""
    rows: int
    """That the change has touched; of a request 1."""
    share: float | None = None
    """Of these rows: where the answer was another than allowed; None where it is not known."""
    before: float | None = None
    """The answer to the row where it was most so, as the row is."""
    after: float | None = None
    """The answer once the row was changed; of a request, the answer."""
    detail: str = ""
    """What was changed in that row, what was answered, or why nothing is known."""


class LateEvents(Part):
    """Examples of both windows whose event is not before the moment at which their label was known."""

    count: int
    rows: int
    """Of so many examples."""
    event: datetime | None = None
    """The event that is latest by this measure, where there is any."""
    known: datetime | None = None
    """When its label was known."""
