"""The lease: one process at a time for a task of a run, freed by its end, by time, and never shared."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from evergreen.contract import ConfigurationError, RunIdentity, StepError, TemporaryError
from evergreen.lease import LEASE, Lease, free
from evergreen.store import LocalStore
from lease_kit import assert_one_process_at_a_time, wait_for

RUN = RunIdentity(dag_id="d", run_id="r", task_id="t")
KEY = f"{RUN.key}/{LEASE}"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path)


def lease(store: LocalStore, attempt: str = "1-a", seconds: float = 60) -> Lease:
    return Lease(store, RUN, attempt, seconds)


def grow_old(store: LocalStore, seconds: float) -> None:
    path = store.root / KEY
    os.utime(path, times=(time.time() - seconds,) * 2)


def test_a_lease_is_taken_once_and_given_back(store: LocalStore) -> None:
    with lease(store):
        with pytest.raises(TemporaryError, match=r"running already: attempt 1-a on .* \(process \d+\)") as caught:
            lease(store, "2-b").__enter__()
        assert "ends 60 s after" in caught.value.hint
    with lease(store, "2-b"):
        pass


def test_a_lease_that_is_not_renewed_ends_and_not_before(store: LocalStore) -> None:
    lease(store)._take()  # and its process died
    grow_old(store, 50)
    with pytest.raises(TemporaryError, match=r"last heard of 5\d s ago"):
        lease(store, "2-b").__enter__()
    grow_old(store, 61)
    with lease(store, "2-b"):
        pass


def test_of_many_that_find_an_ended_lease_one_takes_it(store: LocalStore) -> None:
    lease(store)._take()
    grow_old(store, 61)

    def take(number: int) -> bool:
        try:
            lease(store, str(number))._take()
        except TemporaryError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(take, range(8))).count(True) == 1


def test_it_is_renewed_while_it_is_held(store: LocalStore) -> None:
    with lease(store, seconds=3) as held:
        grow_old(store, 60)  # it would have ended long ago
        first = store.read(KEY)
        wait_for(lambda: store.read(KEY) != first)
        with pytest.raises(TemporaryError, match="running already"):
            lease(store, "2-b", seconds=3).__enter__()
        held.confirm()


def test_who_lost_it_is_told_before_writing_and_leaves_it_to_the_other(store: LocalStore) -> None:
    with lease(store, seconds=0.2) as held:
        held._done.set()  # suspended: it renews nothing
        time.sleep(0.3)
        with lease(store, "2-b", seconds=60):
            with pytest.raises(TemporaryError, match="another process took this step over"):
                held.confirm()
            taken = store.read(KEY)
            held.__exit__(None, None, None)
            assert store.read(KEY) == taken


def test_who_lost_it_is_stopped(store: LocalStore) -> None:
    stopped = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        with lease(store, seconds=0.3):
            store.write(KEY, b'{"holder": "somebody else"}')
            wait_for(stopped.is_set)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_repeated_request_whose_answer_was_lost_takes_the_lease(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = store.create
    monkeypatch.setattr(store, "create", lambda key, content: create(key, content) and False)
    with lease(store):
        assert json.loads(store.read(KEY) or b"")["attempt"] == "1-a"


def test_a_killed_attempt_s_lease_is_freed_by_who_saw_it_end(store: LocalStore) -> None:
    lease(store)._take()
    free(store, RUN, "another")
    with pytest.raises(TemporaryError):
        lease(store, "2-b").__enter__()
    free(store, RUN, "1-a")
    with lease(store, "2-b"):
        pass
    free(store, RunIdentity(dag_id="d", run_id="r", task_id="never ran"), "1-a")


def test_a_lease_of_a_newer_version_is_kept_whole_and_one_that_cannot_be_understood_is_left_alone(
    store: LocalStore,
) -> None:
    lease(store)._take()
    store.write(KEY, json.dumps({**json.loads(store.read(KEY) or b""), "node": "n1"}).encode())
    free(store, RUN, "1-a")
    assert json.loads(store.read(KEY) or b"").items() >= {"node": "n1", "released": True}.items()
    newer = json.dumps({**json.loads(store.read(KEY) or b""), "schema_version": 3}).encode()
    store.write(KEY, newer)
    with pytest.raises(ConfigurationError, match=r"lease.json: written by a newer version.*Update Evergreen"):
        lease(store, "2-b").__enter__()
    assert store.read(KEY) == newer


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'"held"', b'{"seconds": "long"}', b'{"seconds": -1}', b'{"pid": {}}', b"\xff"]
)
def test_a_file_that_is_no_lease_is_named(store: LocalStore, content: bytes) -> None:
    store.write(KEY, content)
    with pytest.raises(ConfigurationError, match=re.escape(f"{store.uri(KEY)}: not a lease: ")) as caught:
        lease(store).__enter__()
    assert "\n" not in str(caught.value)
    free(store, RUN, "1-a")  # who only clears up behind a step has something else to report
    assert store.read(KEY) == content


def test_a_store_that_does_not_answer_hides_no_failure_of_the_step_that_ended(store: LocalStore) -> None:
    lease(store)._take()
    taken = store.read(KEY) or b""
    (store.root / ".partial" / "lock").mkdir()
    with pytest.raises(StepError):
        store.replace(KEY, taken, b"")
    free(store, RUN, "1-a")
    assert store.read(KEY) == taken


def test_a_lease_of_another_version_counts(store: LocalStore) -> None:
    store.write(KEY, b'{"holder": "x", "attempt": "1-a", "colour": "green"}')
    with pytest.raises(TemporaryError, match="running already: attempt 1-a on"):
        lease(store, "2-b").__enter__()
    grow_old(store, 61)
    with lease(store, "2-b"):
        pass


def test_two_processes_of_one_task_do_not_run_at_once(tmp_path: Path) -> None:
    assert_one_process_at_a_time(tmp_path, {"EVERGREEN_STATE_DIR": str(tmp_path / "state")})
