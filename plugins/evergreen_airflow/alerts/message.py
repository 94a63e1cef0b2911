"""What people are told: the sentence that says what happened, what to do, and where to look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from evergreen.spec import AlertEvent, ModelSpec

Severity = Literal["critical", "warning", "info"]


class Advice(NamedTuple):
    """How bad an event is, and what a person does then."""

    severity: Severity
    todo: str


ADVICE: Mapping[AlertEvent, Advice] = MappingProxyType(
    {
        AlertEvent.TASK_FAILED: Advice(
            "critical", "Read the end of the task's log, correct what it names, then clear the task."
        ),
        AlertEvent.PARTITION_LATE: Advice(
            "critical", "Look at the runs of that DAG; if the source has the day by now, run its ingestion again."
        ),
        AlertEvent.PERFORMANCE_DROP: Advice(
            "warning",
            "A retraining is proposed, and the guard decides. If the champion harms, run the model's rollback.",
        ),
        AlertEvent.DRIFT: Advice(
            "info", "Nothing: a retraining is proposed, and the guard decides. Look at the columns in the drift report."
        ),
        AlertEvent.SKEW: Advice(
            "warning",
            "Look at `skew` in drift.json, then at `materialize` of these days: no training mends it.",
        ),
        AlertEvent.GATE_REFUSED: Advice(
            "warning",
            "The champion stays. Read why in `evergreen history`, then look at the data of the newest days.",
        ),
        AlertEvent.APPROVAL_WAITS: Advice(
            "warning", "Answer under Required actions in Airflow; no answer in time is a rejection."
        ),
        AlertEvent.PROMOTION: Advice("info", "Nothing. If it proves bad, run the model's rollback."),
        AlertEvent.ROLLOUT: Advice(
            "warning", "Nothing: the champion serves on. If it was ended, read by what in `evergreen history`."
        ),
        AlertEvent.ROLLBACK: Advice(
            "warning", "Find out what was wrong with the version that gave way before the model trains again."
        ),
        AlertEvent.ALIAS_MOVED: Advice(
            "critical", "Ask who moved it in MLflow. The gate did not judge what serves now: roll back if in doubt."
        ),
    }
)


class Finding(NamedTuple):
    """Something that happened to a model."""

    event: AlertEvent
    matter: str
    """What tells it from other events of its kind: a partition, report or run. The same matter is told once."""
    what: str
    """What happened, in words; no full stop."""


@dataclass(frozen=True)
class Alert:
    """A finding, as it is sent."""

    spec: ModelSpec
    finding: Finding
    link: str
    """Where to look in Airflow."""

    @property
    def event(self) -> AlertEvent:
        """What kind of thing happened."""
        return self.finding.event

    @property
    def severity(self) -> Severity:
        """How bad that is."""
        return ADVICE[self.event].severity

    @property
    def title(self) -> str:
        """Model and event; the subject of a mail."""
        return f"{self.spec.name}: {self.event.replace('_', ' ')}"

    @property
    def page(self) -> str:
        """Where the documentation says more."""
        return f"docs/alerts.md#{self.event.replace('_', '-')}"

    @property
    def owner(self) -> str:
        """Who answers for the model, and where they are found."""
        return f"{self.spec.owner} ({self.spec.team}) {self.spec.contact}".strip()

    @property
    def lines(self) -> list[str]:
        """The whole message."""
        return [
            f"{self.title}: {self.finding.what.rstrip('.')}.",
            f"What to do: {ADVICE[self.event].todo} See {self.page}.",
            f"Where: {self.link}",
            f"Owner: {self.owner}",
        ]
