"""What comes before a look at a rollout: nothing is started for nothing, and a person waits for nobody."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from evergreen.judgement.notices import tell_rollout
from evergreen.settings import Settings
from evergreen.store import get_store
from evergreen_airflow.delivery import RolloutUnderWay


def execute(running: int = 1, **params: str) -> None:
    """Run the task; so many runs of its DAG are at work, its own among them."""

    def count(*, dag_id: str, states: list[str]) -> int:
        assert (dag_id, states) == ("m.deliver", ["running"])
        return running

    ti: Any = SimpleNamespace(dag_id="m.deliver", get_dr_count=count)
    asked: Any = {"params": {"action": "check", "reason": "odd", "confirm": "m", **params}, "ti": ti}
    RolloutUnderWay(task_id="is_under_way", model="m").execute(asked)


def test_without_a_rollout_nothing_is_checked(settings: Settings) -> None:
    with pytest.raises(AirflowSkipException, match="No rollout of m"):
        execute()
    tell_rollout(get_store(), "m", under_way=True)
    execute()


def test_a_check_leaves_room_for_the_run_that_is_at_work(settings: Settings) -> None:
    tell_rollout(get_store(), "m", under_way=True)
    with pytest.raises(AirflowSkipException, match=r"Another run of m\.deliver is at work"):
        execute(running=2)


@pytest.mark.parametrize("action", ["pause", "resume", "finish", "roll_back"])
def test_a_person_waits_for_no_check(action: str, settings: Settings) -> None:
    execute(running=3, action=action)
    with pytest.raises(AirflowFailException, match="needs one"):
        execute(running=3, action=action, reason=" ")


@pytest.mark.parametrize("action", ["finish", "roll_back"])
def test_what_cannot_be_undone_is_confirmed(action: str, settings: Settings) -> None:
    with pytest.raises(AirflowFailException, match="confirm: 'n' is not m"):
        execute(action=action, confirm="n")
