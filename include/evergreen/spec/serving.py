"""How a model is served: what is answered, what is refused, and what is kept of it."""

from __future__ import annotations

import enum

from pydantic import Field

from evergreen.contract import Frozen
from evergreen.field_types import Columns, Count, Days, Number


class Unavailable(enum.StrEnum):
    """What becomes of a row whose features the online store has not, or has too old."""

    REFUSE = "refuse"
    SERVE = "serve"


class Serving(Frozen):
    """Of one model, in a server that may hold several."""

    enabled: bool = True
    """Whether it is served at all; without, no graph of it is exported."""
    missing_features: Unavailable = Unavailable.REFUSE
    """Of keys that the online store does not know; served, they are missing as in training."""
    stale_features: Unavailable = Unavailable.REFUSE
    """Of rows older than their view's ttl; served, they are used as they are."""
    maximum_rows: Count = Field(default=1000, ge=1, le=100_000)
    """Of one request."""
    maximum_bytes: Count = Field(default=2_000_000, ge=1000)
    """Of one request's body."""
    maximum_waiting_rows: Count = Field(default=4000, ge=1)
    """Rows that may wait for an answer at once, in one server process."""
    maximum_waiting_requests: Count = Field(default=64, ge=1)
    """Requests that may wait for an answer at once, in one server process: about this many times the work of one is
    how long the last of them waits."""
    maximum_wait_ms: Number = Field(default=25, gt=0, le=60_000)
    """A request that would wait longer than this before it is computed is refused at once."""
    requests_per_second: Number | None = Field(default=None, gt=0)
    """Of each client, in one server process; none is no limit."""
    int8_maximum_loss: Number | None = Field(default=None, ge=0)
    """How much of ``gate.metric`` the smaller int8 graph may lose; unset: it is not made."""
    log: bool = True
    """Whether what was answered is logged."""
    masked: Columns = ()
    """Columns of requests and features that the log holds a keyed digest of, and never the value."""
    maximum_skew: Number = Field(default=0.05, ge=0, lt=1)
    """Share of the answers in which a feature may differ from what it is offline; a larger one is told to people."""
    log_late_days: Days = Field(default=3, ge=0, le=90)
    """How many days before its own an ingestion of the log looks at again, for files that came late."""
    log_retention_days: Days = Field(default=90, ge=1)
    """How long the log, and the lake's table of it, keep an answer."""
