"""Guards that race for claims, in threads and in processes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

from evergreen.contract import Result, RunIdentity, Status, utc_now
from evergreen.judgement.claims import Claim, claim_training
from evergreen.store import LocalStore, get_store

COOL_DOWN = 7
START = date(2013, 3, 1)


def claim(day: int, model: str = "m") -> Claim:
    """Return the claim of a day's report."""
    run = RunIdentity(dag_id=f"{model}.retrain", run_id=str(day), task_id="guard")
    partition = START + timedelta(days=day)
    return Claim(model=model, partition=partition, report_id=f"report-{day}", run=run, facts={}, claimed_at=utc_now())


def judge(day: int, model: str = "m") -> Callable[[Sequence[Claim]], Claim | Result]:
    """Return a judge that asks for the cool-down and nothing else."""

    def answer(claims: Sequence[Claim]) -> Claim | Result:
        wanted = claim(day, model)
        near = [other for other in claims if abs((other.partition - wanted.partition).days) < COOL_DOWN]
        return Result(status=Status.REFUSED, reason="cool-down") if near else wanted

    return answer


def assert_one_a_cool_down(passed: Sequence[int], days: int) -> None:
    """Claims keep their distance, and no day was refused without one near it."""
    assert all(after - before >= COOL_DOWN for before, after in pairwise(sorted(passed)))
    assert all(any(abs(day - other) < COOL_DOWN for other in passed) for day in range(days))


class RacingStore(LocalStore):
    """A store in which no claim is written before every guard has read the log."""

    def __init__(self, root: Path, guards: int) -> None:
        super().__init__(root)
        self.guards, self.seen, self.waited = guards, threading.Barrier(guards), threading.local()
        self.written: list[int] = []
        """The days whose claims were ever written: each may have been read by its guard."""

    def _wait_once(self, where: str) -> None:
        """Wait for all guards to have come here; the first time only."""
        if not getattr(self.waited, where, False):
            setattr(self.waited, where, True)
            self.seen.wait(120)

    def keys(self, prefix: str) -> Iterator[str]:
        """List; the first time, wait for the others to have listed too."""
        found = list(super().keys(prefix))
        self._wait_once("listed")
        return iter(found)

    def create(self, key: str, content: bytes) -> bool:
        """Create, and remember."""
        made = super().create(key, content)
        if made:
            self._remember(content)
        return made

    def look_then_write(self, key: str, content: bytes) -> bool:
        """Do what a store without a conditional create could: the defect the claims must not have."""
        if self.read(key) is not None:
            return False
        self._wait_once("looked")
        self.write(key, content)
        self._remember(content)
        return True

    def _remember(self, content: bytes) -> None:
        self.written.append((Claim.model_validate_json(content).partition - START).days)

    def run(self) -> list[int]:
        """Let a guard for each of so many days race; returns the days whose claims were written."""
        with ThreadPoolExecutor(self.guards) as pool:
            answers = list(
                pool.map(lambda day: claim_training(self, "m", f"report-{day}", judge(day)), range(self.guards))
            )
        assert {day for day, answer in enumerate(answers) if isinstance(answer, Claim)} <= set(self.written)
        return self.written


def race(environment: dict[str, str], days: int, processes: int = 4) -> list[int]:
    """Let processes of several threads each ask for all days, in different orders; returns the days that passed.

    ``environment`` is what a process is told: ``root``, or the variables that lead to an S3 store.
    """
    started = [
        subprocess.Popen(
            [sys.executable, __file__, json.dumps({**environment, "days": days, "seed": seed})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(processes)
    ]
    for process in started:
        assert process.stdout.readline() == "ready\n"
    for process in started:  # none before all are ready
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate(timeout=120)[0]) for process in started]
    assert all(answer == answers[0] for answer in answers), "the same report was answered differently"
    return answers[0]


def _main(options: dict[str, object]) -> None:
    import random

    store = LocalStore(Path(str(options["root"]))) if "root" in options else get_store()
    days = list(range(int(str(options["days"]))))
    random.Random(int(str(options["seed"]))).shuffle(days)
    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(4) as pool:
        answers = dict(
            zip(days, pool.map(lambda day: claim_training(store, "m", f"report-{day}", judge(day)), days), strict=True)
        )
    print(json.dumps(sorted(day for day, answer in answers.items() if isinstance(answer, Claim))))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
