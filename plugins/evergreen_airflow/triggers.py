"""Triggers: what deferred tasks wait for. Importable by the triggerer, which knows no DAG file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from evergreen.contract import TemporaryError
from evergreen.monitoring.proposal import read_proposal
from evergreen.store import get_store


class DriftReportTrigger(BaseTrigger):
    """Fires when the drift report of a partition is in the artifact store.

    Parameters
    ----------
    model, partition
        Whose report; the partition is an ISO day.
    poll_seconds
        Time between two looks.
    """

    def __init__(self, model: str, partition: str, poll_seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model = model
        self.partition = partition
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the import path and arguments that rebuild this trigger in the triggerer."""
        arguments = {"model": self.model, "partition": self.partition, "poll_seconds": self.poll_seconds}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until the report is there; a store that does not answer is asked again."""
        while True:
            if await asyncio.to_thread(self._has_report):
                yield TriggerEvent({"partition": self.partition})  # type: ignore[no-untyped-call]
                return
            await asyncio.sleep(self.poll_seconds)

    def _has_report(self) -> bool:
        try:
            return read_proposal(get_store(), self.model, date.fromisoformat(self.partition)) is not None
        except TemporaryError as error:
            self.log.warning("%s Looking again in %s s.", error, self.poll_seconds)
            return False
