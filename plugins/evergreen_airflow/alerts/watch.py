"""Tells of what no task tells: a partition that is late, a champion that was moved past the pipelines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, conf
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException
from airflow.sdk.execution_time.context import InletEventsAccessor

from evergreen.catalog import survey
from evergreen.contract import StepError, utc_now
from evergreen.judgement.events import Event, EventKind
from evergreen.judgement.notices import moves
from evergreen.pipelines import dag_id
from evergreen.spec import AlertEvent, ModelSpec
from evergreen.store import get_store
from evergreen_airflow.alerts.message import Alert, Finding
from evergreen_airflow.assets import features, published

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context

_STAGES = ((published, "ingest"), (features, "features"))
"""What a partition goes through until predictions can use it, with the pipeline that publishes it."""
_RECENT = timedelta(days=2)
"""How far back it is told: a model that gets its first channel is not told its history."""


class ModelWatch(BaseOperator):
    """Looks for late partitions and moved champions, and tells each model's channels, each matter once.

    A DeadlineAlert of Airflow cannot do the first: it is about a run that there is, and a late partition is mostly one
    that has none, or whose run was skipped because the source had nothing.

    Returns
    -------
    list
        XCom: what was found, told before or not.
    """

    def execute(self, context: Context) -> list[str]:
        """Look at every model that has channels; one that cannot be asked about does not keep the others."""
        from evergreen_airflow.alerts.delivery import deliver  # no parse pays for it

        found = []
        for spec in survey().models:
            if not spec.alerts:
                continue
            for finding, pipeline in (*self._late(spec, context), *self._log(spec)):
                self.log.info("%s: %s", spec.name, finding.what)
                deliver(Alert(spec, finding, f"{_base_url()}/dags/{dag_id(spec.name, pipeline)}"))
                found.append(f"{spec.name}: {finding.what}")
        if not found:
            raise AirflowSkipException("Nothing is late, and no champion was moved past the pipelines.")
        return found

    def _late(self, spec: ModelSpec, context: Context) -> Iterator[tuple[Finding, str]]:
        ti: Any = context["ti"]
        now = utc_now()
        day = spec.schedule.newest_due(now)
        try:
            if day is None or ti.get_dag(dag_id(spec.name, "ingest")).is_paused:
                return
            late = next((name for asset, name in _STAGES if str(day) not in _partitions(asset(spec), day)), None)
        except AirflowRuntimeError as error:
            self.log.warning("%s: Airflow does not say which partitions there are: %s", spec.name, error)
            return
        if late is not None:
            yield lateness(spec, day, late, now), late

    def _log(self, spec: ModelSpec) -> Sequence[tuple[Finding, str]]:
        try:
            events = moves(get_store(), spec.name)
        except StepError as error:
            self.log.warning("%s: what the audit log tells cannot be read: %s", spec.name, error)
            return ()
        return [(finding, "rollback") for finding in recent(events, utc_now())]


def lateness(spec: ModelSpec, day: date, pipeline: str, now: datetime) -> Finding:
    """Return what there is to tell of a partition that a pipeline has not published."""
    hours = (now - spec.schedule.ingested_at(day)) // timedelta(hours=1)
    what = f"partition {day} is {hours} hours late: {dag_id(spec.name, pipeline)} has not published it"
    return Finding(AlertEvent.PARTITION_LATE, str(day), what)


def recent(events: Sequence[Event], now: datetime) -> list[Finding]:
    """Return what is told of champions that no task of Airflow has moved, not long ago.

    Steps log an alias that they find out of place; a rollback from a shell has no task.
    """
    findings = []
    for event in events:
        if now - event.at > _RECENT:
            continue
        if event.kind is EventKind.ALIAS_MOVED:
            findings.append(Finding(AlertEvent.ALIAS_MOVED, f"{event.number} {event.at.isoformat()}", event.why))
        elif event.kind is EventKind.ROLLED_BACK:
            what = f"version {event.version} serves again in the place of {event.previous or 'none'}: {event.why}"
            findings.append(Finding(AlertEvent.ROLLBACK, event.run.run_id, f"{what} (by {event.by})"))
    return findings


def _partitions(asset: Asset, since: date) -> Collection[str]:
    events: Any = InletEventsAccessor(asset_name=asset.name, asset_uri=asset.uri)
    begin = datetime.combine(since, time(), UTC)
    return {event.partition_key for event in events.after(begin.isoformat()) if event.partition_key}


def _base_url() -> str:
    return conf.get("api", "base_url", fallback="http://localhost:8080").rstrip("/")
