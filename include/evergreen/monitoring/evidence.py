"""Where the rows are from that a check has judged, as its report says."""

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
