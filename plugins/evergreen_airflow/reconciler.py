"""Starts what follows from a published partition where Airflow has not."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowRuntimeError, AirflowSkipException
from airflow.sdk.execution_time.context import InletEventsAccessor

from evergreen.catalog import survey
from evergreen.pipelines import CASCADE, dag_id
from evergreen_airflow.assets import features, monitored, published

if TYPE_CHECKING:
    from airflow.sdk import Context

FOLLOWERS = tuple(zip((published, features, monitored), CASCADE[1:], strict=True))
"""Which pipeline runs once for each event of an asset."""
_REPEAT_AFTER = timedelta(days=1)
"""An event that is already a repetition is not repeated before."""


class PartitionReconciler(BaseOperator):
    """Publishes again the partitions whose newest event has led to no run of the pipeline that follows.

    Airflow gives an event to the DAGs that are unpaused at that moment (apache/airflow #49857): what is published
    while a pipeline is paused, or before its DAG file was read, never reaches it. The event is repeated rather than a
    run started, because the scheduler merges events of one partition that wait for a run: one that was only late gets
    one run, not two. A pipeline that is paused, or has runs in its queue, is left alone until the next time: the
    first would lose the repetition as well, and of the events of the second Airflow cannot tell (its answer has no
    room for a run that has not started).

    The run's parameters: ``days``, how far back to look; ``minutes``, how long Airflow may take; ``dry_run``.

    Returns
    -------
    dict
        XCom: the partitions that were published again, by asset.
    """

    def execute(self, context: Context) -> dict[str, list[str]]:
        """Ask for the events of every asset; one that cannot be asked does not keep the others."""
        lost: dict[str, list[str]] = {}
        troubles: list[str] = []
        for spec, (asset_of, pipeline) in product(survey().models, FOLLOWERS):
            asset, follower = asset_of(spec), dag_id(spec.name, pipeline)
            try:
                events = self._lost(asset, follower, context)
            except AirflowRuntimeError as error:
                troubles.append(f"{asset.name}: {error}")
                self.log.warning("The events of %s cannot be asked for: %s", asset.name, error)
                continue
            if events:
                lost[asset.name] = sorted(events)
                self.log.info("%s: no run of %s for %s.", asset.name, follower, ", ".join(lost[asset.name]))
                self._repeat(asset, events, context)
        if not lost and troubles:
            raise AirflowException("; ".join(troubles))
        if not lost or context["params"]["dry_run"]:
            raise AirflowSkipException(f"Would publish again: {lost}." if lost else "Every partition was followed.")
        return lost

    def _lost(self, asset: Asset, follower: str, context: Context) -> dict[str, Any]:
        ti: Any = context["ti"]
        if ti.get_dag(follower).is_paused or ti.get_dr_count(dag_id=follower, states=["queued"]):
            return {}
        now, params = datetime.now(UTC), context["params"]
        since = (now - timedelta(days=params["days"])).isoformat()
        events = InletEventsAccessor(asset_name=asset.name, asset_uri=asset.uri).after(since)
        return unfollowed(events, follower, ti.dag_id, now - timedelta(minutes=params["minutes"]))

    def _repeat(self, asset: Asset, events: dict[str, Any], context: Context) -> None:
        self.outlets = [*self.outlets, asset]  # not before: an outlet of a success gets an event in any case
        accessor = context["outlet_events"][asset]
        accessor.add_partitions(sorted(events))
        accessor.extra = {"repeats": {partition: event.extra or {} for partition, event in events.items()}}


def unfollowed(events: Iterable[Any], follower: str, repeater: str, settled: datetime) -> dict[str, Any]:
    """Return the newest event of each partition that has led to no run.

    Parameters
    ----------
    events
        Those of one asset, in the order of their time.
    follower
        The DAG that runs once for each.
    repeater
        The DAG whose events are repetitions.
    settled
        Only what was published before it counts: Airflow may still be about to start a run for the others.
    """
    newest = {event.partition_key: event for event in events if event.partition_key}
    return {
        partition: event
        for partition, event in newest.items()
        if all(run.dag_id != follower for run in event.created_dagruns)
        and event.timestamp < (settled - _REPEAT_AFTER if event.source_dag_id == repeater else settled)
    }
