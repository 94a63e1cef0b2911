"""The rollout under way, folded from the audit log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from decision_log_kit import decided, event
from evergreen.judgement.events import DECIDE, OF_A_ROLLOUT, Event
from evergreen.judgement.rollouts import rollout_of

T0 = datetime(2026, 1, 5, 9, tzinfo=UTC)


def at(
    kind: str, minutes: int = 0, share: float = 0.05, step: int = 0, experiment: str = "2-a", **fields: object
) -> Event:
    """Return an event of a rollout of version 2 against version 1."""
    rollout = {"experiment": experiment, "strategy": "canary", "share": share, "step": step}
    rollout |= {"salt": "s", "split_by": ["carrier"]}
    versions = {"version": "2", "previous": "1"}
    return event(kind, "a", at=T0 + timedelta(minutes=minutes), **{"rollout": rollout, **versions, **fields})


def test_a_rollout_is_under_way_from_its_start() -> None:
    assert rollout_of([decided("a")]) is None
    rollout = rollout_of([decided("a"), at("rollout_started")])
    assert rollout is not None
    assert (rollout.champion, rollout.challenger, rollout.share, rollout.step) == ("1", "2", 0.05, 0)
    assert (rollout.experiment, rollout.salt, rollout.split_by) == ("2-a", "s", ("carrier",))
    assert (rollout.started, rollout.since, rollout.paused) == (T0, T0, False)


def test_a_step_begins_when_it_is_reached_and_a_pause_keeps_share_and_step() -> None:
    moved = [at("rollout_started"), at("rollout_moved", 30, 0.25, 1)]
    paused = rollout_of([*moved, at("rollout_paused", 40, 0.25, 1)])
    assert paused is not None
    assert (paused.share, paused.step, paused.paused) == (0.25, 1, True)
    assert (paused.started, paused.since) == (T0, T0 + timedelta(minutes=30))
    resumed = rollout_of([*moved, at("rollout_paused", 40, 0.25, 1), at("rollout_resumed", 50, 0.25, 1)])
    assert resumed is not None
    assert (resumed.paused, resumed.since) == (False, T0 + timedelta(minutes=30))


@pytest.mark.parametrize(
    "end",
    [
        at("rollout_ended", 30),
        event("promoted", "a", version="2", previous="1"),
        event("rolled_back", "", version="1", previous="1"),
        event("rolled_back", "", version=None, previous="1"),
    ],
    ids=["ended", "promoted", "rolled back to the champion", "rolled back to none"],
)
def test_it_ends_by_its_end_and_by_every_move_of_the_champion(end: Event) -> None:
    assert rollout_of([at("rollout_started"), end]) is None
    late = at("rollout_moved", 60, 0.5, 2)  # of a check that was slow: what has ended stays so
    assert rollout_of([at("rollout_started"), end, late]) is None


def test_what_only_tells_of_the_alias_ends_nothing() -> None:
    assert rollout_of([at("rollout_started"), event("alias_moved", "", version="3", previous="1")]) is not None


def test_another_start_ends_the_one_before_and_its_late_events_count_for_nothing() -> None:
    second = at("rollout_started", 5, experiment="3-b", version="3")
    late = at("rollout_moved", 6, 0.5, 2)
    rollout = rollout_of([at("rollout_started"), second, late])
    assert rollout is not None
    assert (rollout.challenger, rollout.experiment, rollout.share) == ("3", "3-b", 0.05)


def test_only_a_step_with_the_key_may_write_what_a_rollout_follows() -> None:
    assert OF_A_ROLLOUT <= DECIDE
    assert {kind.value for kind in OF_A_ROLLOUT} == {
        *("rollout_started", "rollout_moved", "rollout_paused", "rollout_resumed", "rollout_ended")
    }
