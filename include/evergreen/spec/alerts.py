"""Who is told what about a model: the section ``alerts`` of model.yaml."""

from __future__ import annotations

import enum
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from evergreen.contract import Frozen
from evergreen.field_types import matching


class AlertEvent(enum.StrEnum):
    """What people can be told of."""

    TASK_FAILED = "task_failed"
    PARTITION_LATE = "partition_late"
    PERFORMANCE_DROP = "performance_drop"
    DRIFT = "drift"
    SKEW = "skew"
    GATE_REFUSED = "gate_refused"
    APPROVAL_WAITS = "approval_waits"
    PROMOTION = "promotion"
    ROLLOUT = "rollout"
    ROLLBACK = "rollback"
    ALIAS_MOVED = "alias_moved"


def _no_repeats(events: tuple[AlertEvent, ...] | None) -> tuple[AlertEvent, ...] | None:
    if events is not None and len(set(events)) < len(events):
        raise ValueError("names an event twice")
    return events


ChannelType = Literal["log", "email", "slack", "alertmanager"]
DEFAULT_CONNECTIONS: dict[ChannelType, str] = {
    "email": "smtp_default",
    "slack": "slack_default",
    "alertmanager": "alertmanager_default",
}
Address = Annotated[str, matching(r"[^@\s,;]+@[^@\s,;]+", "an e-mail address, written as team@example.com")]
ConnectionId = Annotated[
    str, matching(r"[\w.-]{1,200}", "the id of an Airflow connection: letters, digits, underscores, dots and hyphens")
]


class Channel(Frozen):
    """One way to tell people. Where it leads, and its password, are an Airflow connection's."""

    type: ChannelType
    connection: ConnectionId | None = None
    to: tuple[Address, ...] = ()
    """Who gets the mail."""
    events: Annotated[tuple[AlertEvent, ...] | None, AfterValidator(_no_repeats)] = Field(default=None, min_length=1)
    """Not called ``on``, which YAML reads as true."""

    @model_validator(mode="after")
    def _complete(self) -> Channel:
        if (self.type == "email") != bool(self.to):
            raise ValueError("to: an email channel needs recipients" if not self.to else "to: only an email has any")
        if self.type == "log" and self.connection is not None:
            raise ValueError("connection: the log needs none")
        return self

    @property
    def connection_id(self) -> str:
        """The Airflow connection that it uses; empty for the log."""
        return self.connection or DEFAULT_CONNECTIONS.get(self.type, "")

    @property
    def title(self) -> str:
        """What tells it from others: type, connection and recipients."""
        return ":".join(part for part in (self.type, self.connection_id, ",".join(self.to)) if part)

    def takes(self, event: AlertEvent) -> bool:
        """Tell whether an event is sent here."""
        return self.events is None or event in self.events
