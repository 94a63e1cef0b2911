"""Of two promotions at once exactly one passes, and the other is on record as refused."""

from __future__ import annotations

import pytest

from decision_log_kit import promotions_of_two_processes
from evergreen.judgement.audit import log_of, read_events
from evergreen.judgement.events import EventKind
from evergreen.settings import Settings
from evergreen.store import get_store

pytestmark = pytest.mark.integration


def test_of_two_promotions_at_once_one_passes_fifty_times_of_fifty(audit_settings: Settings) -> None:
    """Two processes, the step's own judgement, and the primary key of a real PostgreSQL."""
    rounds = promotions_of_two_processes(50)
    assert [sorted(answers) for answers in rounds] == [["promoted", "refused"]] * 50
    events = read_events(get_store(), "flight_delay")
    moves = [one for one in events if one.kind is EventKind.PROMOTED]
    assert [one.previous for one in moves] == [None, *(one.version for one in moves[:-1])]
    refusals = [one for one in events if one.kind is EventKind.REFUSED]
    assert len(refusals) == 50
    assert all("but the challenger was compared with" in one.why for one in refusals)
    assert log_of(get_store(), "flight_delay").audit()[1] == []
