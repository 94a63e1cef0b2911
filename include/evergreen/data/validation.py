"""The validation report: what ``validate`` found and ``publish`` acts on."""

from __future__ import annotations

from evergreen.contract import Window
from evergreen.data.expectations import ExpectationResult
from evergreen.data.tables import BETWEEN_REASONS
from evergreen.stored import Part, Stored


class SourceReport(Part):
    """What was found in one source's raw rows."""

    snapshot: str
    """The snapshot of the raw table that was judged."""
    rows: int
    verdicts: tuple[ExpectationResult, ...]
    quarantine: tuple[tuple[str, int, str], ...] = ()
    """(ds, row, reason) of every row that must not be published."""

    @property
    def held_by_warnings(self) -> dict[tuple[str, int], frozenset[str]]:
        """The rows that nothing but expectations keeps back: (ds, row) and the digests of what these ask."""
        asked = {verdict.name: verdict.asked for verdict in self.verdicts if verdict.severity == "warning"}
        held = {(day, row): reason.split(BETWEEN_REASONS) for day, row, reason in self.quarantine}
        return {
            place: frozenset(asked[name] for name in names)
            for place, names in held.items()
            if asked.keys() >= set(names)
        }


class ValidationReport(Stored):
    """What was found in a window of a model's sources."""

    model: str
    window: Window
    config_digest: str
    sources: dict[str, SourceReport]

    @property
    def critical(self) -> list[str]:
        """The critical failures, one sentence each; empty when the window may be published."""
        return [
            f"{name}: {verdict}"
            for name, source in self.sources.items()
            for verdict in source.verdicts
            if verdict.severity == "critical" and verdict.failed_days
        ]


def validation_key(model: str, window: Window) -> str:
    """Return the artifact key of a window's report; judging the window again replaces it."""
    return f"validations/{model}/{window}.json"
