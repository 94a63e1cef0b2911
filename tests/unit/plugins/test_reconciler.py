"""Which partitions the reconciler publishes again, and which it leaves alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from evergreen_airflow.reconciler import unfollowed

NOW = datetime(2013, 3, 1, 12, tzinfo=UTC)


def event(
    hours: float, partition: str | None = "2013-02-28", *, by: str = "m.ingest", runs: tuple[str, ...] = ()
) -> Any:
    created = [SimpleNamespace(dag_id=dag) for dag in runs]
    return SimpleNamespace(
        timestamp=NOW - timedelta(hours=hours), partition_key=partition, source_dag_id=by, created_dagruns=created
    )


def lost(*events: Any) -> list[str]:
    return sorted(unfollowed(events, "m.features", "maintenance.reconcile", NOW))


def test_what_has_led_to_no_run_is_lost() -> None:
    assert lost(event(1), event(1, "2013-02-27"), event(2, "2013-02-26", runs=("m.features",))) == [
        "2013-02-27",
        "2013-02-28",
    ]


def test_a_later_event_of_the_partition_decides() -> None:
    assert lost(event(3), event(2, runs=("m.features",))) == []
    assert lost(event(3, runs=("m.features",)), event(2)) == ["2013-02-28"]


def test_a_run_of_another_pipeline_follows_nothing() -> None:
    assert lost(event(1, runs=("somebody.else",))) == ["2013-02-28"]
    assert lost(event(1, runs=("somebody.else", "m.features"))) == []


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        (event(-0.1), []),  # Airflow may be about to start its run
        (event(0.1), ["2013-02-28"]),
        (event(23, by="maintenance.reconcile"), []),  # a repetition that waits is not repeated every ten minutes
        (event(25, by="maintenance.reconcile"), ["2013-02-28"]),
        (event(1, None), []),  # of no partition: nothing follows from it
    ],
)
def test_what_is_left_alone(newest: Any, expected: list[str]) -> None:
    assert lost(newest) == expected
