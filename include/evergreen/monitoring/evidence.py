"""What a report says of the rows that were judged: where they are from, and how good what was served was."""

from __future__ import annotations

from typing import Literal

from evergreen.stored import Part


class Evidence(Part):
    """Where the rows are from that a check has judged."""

    source: Literal["served", "offline"]
    """``served``: what servers have answered, as their log says; ``offline``: the examples with recomputed features."""
    rows: int
    window: str = ""
    offline: tuple[str, ...] = ()
    """Of what was served: the columns that the log does not tell, which are compared offline."""
    why: str = ""
    """Why it is not, or not all of it, what was served."""

    @property
    def words(self) -> str:
        """The same for people."""
        said = f"{self.rows} {'served answers' if self.source == 'served' else 'offline rows'}"
        said += f" of {self.window}" if self.window else ""
        notes = [f"offline: {', '.join(self.offline)}"] if self.offline else []
        notes += [self.why] if self.why else []
        return f"{said} ({'; '.join(notes)})" if notes else said


class VariantPerformance(Part):
    """How good a version was in what it answered itself."""

    variant: str
    version: str
    answers: int
    """In the shadow of the champion, too."""
    outcomes: int
    """Answers of which it is known what became of them."""
    value: float | None = None
    """The deciding metric; None where it is not defined."""
    low: float | None = None
    """The ends of the interval that holds the truth with 95 %; None where the days tell none."""
    high: float | None = None


class ServedPerformance(Part):
    """How good the answers of a window were, as far as it is known what became of them."""

    answers: int = 0
    outcomes: int = 0
    """Answers of which it is known what became of them."""
    disagreements: int = 0
    """Answers of which the feedback says another outcome than the label."""
    ambiguous: int = 0
    """Answers to which several examples with different labels belong."""
    unreadable: int = 0
    """Answers whose newest feedback is no outcome of the task."""
    variants: tuple[VariantPerformance, ...] = ()
