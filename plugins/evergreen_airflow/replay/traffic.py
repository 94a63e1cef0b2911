"""The last period's examples as requests to the server: what clients would have asked, and told of afterwards.

The online store has the newest features alone, so all are asked about noon of the day after the period, and the label
of each example goes back as the outcome. While a challenger is rolled out, its checks are run between the requests.
"""

from __future__ import annotations

import asyncio
import getpass
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from datetime import time as clock
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import httpx
from pydantic import Field

from evergreen.contract import TemporaryError, Window, utc_now
from evergreen.data.lake import get_lake
from evergreen.judgement.audit import read_events
from evergreen.judgement.events import Event, EventKind
from evergreen.judgement.rollouts import Rollout, rollout_of
from evergreen.spec import ModelSpec
from evergreen.store import get_store
from evergreen.stored import Part

if TYPE_CHECKING:
    from evergreen_airflow.replay.drivers import Driver, Report

REQUESTS = 2000
"""At most, of one round; the examples are taken evenly over the period."""
AT_ONCE = 4
READY_SECONDS = 60.0
"""How long the server may take until it answers for the model: it looks for a new champion every few seconds."""
LOG_SECONDS = 12.0
"""After so long the answers are in the prediction log, where a check finds them."""
ROUNDS = 5
"""Checks after which a rollout that is still under way is left to its schedule."""


class Traffic(Part):
    """What came of the requests."""

    requests: int = 0
    statuses: dict[str, int] = Field(default_factory=dict)
    """How many were answered with which status."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    """Of the answers, as the client has seen it."""
    variants: dict[str, int] = Field(default_factory=dict)
    """Rows that each variant has answered."""
    decision: str = ""
    """What became of the rollout, if there was one; or why nothing was asked."""


def send(spec: ModelSpec, window: Window, server: str, driver: Driver, prefix: str, report: Report) -> Traffic:
    """Ask the server what clients would have asked in a period.

    Parameters
    ----------
    spec, window
        The model and the days of the examples.
    server
        Its address.
    driver
        Runs the checks of a rollout.
    prefix
        Of the ids of these checks.
    report
        Told what is going on.

    Returns
    -------
    Traffic
        Of a server that does not answer for the model, why not.
    """
    if not spec.serving.enabled:
        return Traffic(decision="not served: serving.enabled is false in its model.yaml")
    report(f"waiting for {server} to serve {spec.name}")
    if why := _not_ready(spec.name, server):
        return Traffic(decision=f"not served: {why}")
    rows, outcomes = requests_of(spec, window)
    if not rows:
        return Traffic(decision=f"nothing to ask: no example is of {window}")
    try:
        return _sent(spec, window, server, driver, prefix, report, rows, outcomes)
    except (httpx.TransportError, TemporaryError) as error:  # a loop that went well must not end in this
        return Traffic(decision=f"not served: {server}: {type(error).__name__}: {error}")


def _sent(
    spec: ModelSpec,
    window: Window,
    server: str,
    driver: Driver,
    prefix: str,
    report: Report,
    rows: Sequence[Mapping[str, Any]],
    outcomes: Sequence[Any],
) -> Traffic:
    with _token(spec.name) as headers:
        asker = _Asker(spec.name, server, headers)
        report(f"asking {server} about {len(rows)} examples")
        asyncio.run(asker.ask(rows, outcomes))
        if not asker.milliseconds:
            return asker.seen(f"nothing was answered: {asker.problem}")
        begun = _under_way(spec)
        if begun is None:
            return asker.seen("no rollout is under way")
        for number in range(ROUNDS):
            time.sleep(LOG_SECONDS)
            # by the time too: a check that was made is not made again by a loop that is repeated
            driver.check_rollout(f"{prefix}__check_{number}_{utc_now():%H%M%S}", window)
            if (under_way := _under_way(spec)) is None or under_way.experiment != begun.experiment:
                break
            report(f"{spec.name}: version {under_way.challenger} answers {under_way.share:.0%}")
            asyncio.run(asker.ask(rows, outcomes))
    return asker.seen(_decision(spec, begun))


def _under_way(spec: ModelSpec) -> Rollout | None:
    return rollout_of(read_events(get_store(), spec.name))


def _decision(spec: ModelSpec, begun: Rollout) -> str:
    """Return what became of a rollout, in words."""
    events = [event for event in read_events(get_store(), spec.name) if _is_of(event, begun)]
    newest = events[-1]
    match newest.kind:
        case EventKind.PROMOTED:
            return f"{begun.strategy}: version {begun.challenger} is champion"
        case EventKind.ROLLOUT_ENDED:
            return f"{begun.strategy}: the champion stays: {newest.why}"
        case _:
            return f"{begun.strategy}: under way at {newest.rollout.share:.0%}" if newest.rollout else begun.strategy


def _is_of(event: Event, rollout: Rollout) -> bool:
    return event.rollout is not None and event.rollout.experiment == rollout.experiment


def _not_ready(model: str, server: str) -> str:
    """Wait until a server answers for a model; returns why it does not, or nothing."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            # without a token: a server that is there asks for one
            if httpx.get(f"{server}/v2/health/ready", timeout=5).status_code == httpx.codes.OK:
                return ""
            why = f"{server} has no champion"
        except httpx.TransportError as error:
            why = f"{server} does not answer ({type(error).__name__}); see `evergreen status`"
        if time.monotonic() > deadline:
            return why
        time.sleep(0.5)


def requests_of(spec: ModelSpec, window: Window) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return rows as a client asks about them, and what became of each: None where that is not known."""
    label = spec.features.examples.label
    names = list(dict.fromkeys([*spec.features.keys, *spec.features.request_inputs]))
    table = get_lake().read(spec.name, "examples", window, columns=[*names, label])
    every = max(1, -(-table.num_rows // REQUESTS))
    taken = table.take(list(range(0, table.num_rows, every)))
    noon = datetime.combine(window.end + timedelta(days=1), clock(12), ZoneInfo(spec.schedule.timezone))
    moment = min(noon, utc_now())  # of live data, the day after is yet to come
    rows = taken.select(names).to_pylist()
    return [{**row, "event_timestamp": moment.isoformat()} for row in rows], taken[label].to_pylist()


@contextmanager
def _token(model: str) -> Iterator[Mapping[str, str]]:
    """Yield the headers of a client that is known for as long as it asks."""
    from evergreen.serving.tokens import create_token, revoke_token

    token = create_token("replay", getpass.getuser(), [model], utc_now() + timedelta(hours=1))
    try:
        yield {"Authorization": f"Bearer {token}"}
    finally:
        revoke_token(token.split("_")[1])


class _Asker:
    """A client, and what it has seen."""

    def __init__(self, model: str, server: str, headers: Mapping[str, str]) -> None:
        self.model, self.server, self.headers = model, server, dict(headers)
        self.statuses: Counter[str] = Counter()
        self.variants: Counter[str] = Counter()
        self.milliseconds: list[float] = []
        self.problem = ""

    async def ask(self, rows: Sequence[Mapping[str, Any]], outcomes: Sequence[Any]) -> None:
        """Ask about every row, and tell what became of each that was answered."""
        waiting = iter(list(zip(rows, outcomes, strict=True)))
        async with httpx.AsyncClient(base_url=self.server, headers=self.headers, timeout=30) as client:
            await self._until_known(client, rows[0])
            await asyncio.gather(*(self._in_turns(client, waiting) for _ in range(AT_ONCE)))

    async def _until_known(self, client: httpx.AsyncClient, row: Mapping[str, Any]) -> None:
        """Wait until the server has read the new token, and has a champion of this very model."""
        deadline = time.monotonic() + READY_SECONDS
        waits = {httpx.codes.UNAUTHORIZED, httpx.codes.SERVICE_UNAVAILABLE}
        while (answer := await client.post(f"/models/{self.model}/predict", json=row)).status_code in waits:
            if time.monotonic() > deadline:
                raise TemporaryError(f"{self.server}: {answer.text}", "Its log: `evergreen status` names the file.")
            await asyncio.sleep(0.5)

    async def _in_turns(self, client: httpx.AsyncClient, waiting: Iterator[tuple[Mapping[str, Any], Any]]) -> None:
        for row, outcome in waiting:
            began = time.perf_counter()
            answer = await client.post(f"/models/{self.model}/predict", json=row)
            self.statuses[str(answer.status_code)] += 1
            if answer.status_code != httpx.codes.OK:
                self.problem = answer.text[:300]
                continue
            self.milliseconds.append(1000 * (time.perf_counter() - began))
            (prediction,) = answer.json()["predictions"]
            self.variants[prediction["variant"]] += 1
            if outcome is not None:
                told = {"model": self.model, "prediction_id": prediction["prediction_id"], "outcome": outcome}
                await client.post("/feedback", json=told)

    def seen(self, decision: str) -> Traffic:
        """Return what was seen."""
        ordered = sorted(self.milliseconds)

        def quantile(share: float) -> float | None:
            return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

        return Traffic(
            requests=self.statuses.total(),
            statuses=dict(self.statuses),
            p50_ms=quantile(0.5),
            p99_ms=quantile(0.99),
            variants=dict(self.variants),
            decision=decision,
        )
