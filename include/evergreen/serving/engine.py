"""The engine of one model: a bounded queue, micro-batches, and the answers of champion and challenger.

A request waits until a worker is free, and is then computed with whatever else waits: nothing waits for company. All
of the queue lives on the event loop; features and graphs are read and run in two threads beside it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from evergreen.serving.answers import Answer
from evergreen.serving.batches import Asked, Batch, Outcome, Shadow, answered
from evergreen.serving.deployment import Deployment
from evergreen.serving.feedback import checked_feedback
from evergreen.serving.metrics import BATCH_ROWS, BATCH_SECONDS, SHADOW_DROPPED, WAITING
from evergreen.serving.online_features import OnlineFeatures
from evergreen.serving.prediction_log import PredictionLog
from evergreen.serving.requests import Column, OverloadedError, Rows, VersionAwayError
from evergreen.spec import ModelSpec

log = logging.getLogger(__name__)

BATCH_ROW_LIMIT = 256
"""Rows after which no further request joins a batch; one larger request is a batch of its own."""
LANES = 2
"""Batches in flight: one waits for the online store while the other computes."""
SHADOW_LIMIT = 4
"""Batches that may wait for the shadow."""
_T = TypeVar("_T")
_MEMORY = 0.8
"""How much of the measured duration of a batch stays when another is measured."""


@dataclass(eq=False)
class _Waiting:
    """A request in the queue."""

    asked: Asked
    future: asyncio.Future[list[Answer]]
    timer: asyncio.TimerHandle | None = field(default=None)


class Engine:
    """Answers for one model.

    Parameters
    ----------
    spec
        The model.
    features
        Where its features are read.
    written
        Where its answers are kept; None: nowhere.
    """

    def __init__(self, spec: ModelSpec, features: OnlineFeatures, written: PredictionLog | None = None) -> None:
        self.name = spec.name
        self.columns: Sequence[Column] = features.columns
        self._spec = spec
        self._features = features
        self._log = written
        self._deployment: Deployment | None = None
        self._queue: dict[int, _Waiting] = {}  # by a number: in the order of arrival, and any may leave it
        self._arrivals = 0
        self._waiting_rows = 0
        self._waiting_requests = 0
        self._queued_rows = 0
        self._in_flight = 0
        self._batch_seconds = 0.0
        self._threads = ThreadPoolExecutor(LANES, thread_name_prefix=f"engine-{spec.name}")
        self._shadow_thread = ThreadPoolExecutor(1, thread_name_prefix=f"shadow-{spec.name}")
        self._shadowed = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def outputs(self) -> Sequence[str]:
        """The names of what it answers; empty until a version is loaded."""
        deployment = self._deployment
        return deployment.champion.graph.outputs if deployment else ()

    @property
    def supplied(self) -> frozenset[str]:
        """The columns that a version's graph may ask for: those of requests, and the features of the views."""
        views = self._spec.features.views
        return frozenset({*(column.name for column in self.columns), *(one for view in views for one in view.features)})

    @property
    def ready(self) -> bool:
        """Whether a verified version is loaded."""
        return self._deployment is not None

    @property
    def versions(self) -> Sequence[str]:
        """The versions that answer now, the champion first."""
        deployment = self._deployment
        return [variant.version for variant in deployment.answering] if deployment else []

    def use(self, deployment: Deployment | None) -> None:
        """Answer with another deployment from the next batch on; may be called from any thread."""
        self._deployment = deployment

    async def predict(self, rows: Rows, client: str) -> list[Answer]:
        """Answer every row, or none: see `evergreen.serving.answers.Served`."""
        self._admit(len(rows))
        if not len(rows):
            return []
        loop = asyncio.get_running_loop()
        waiting = _Waiting(Asked(rows, client), loop.create_future())
        number = self._arrivals = self._arrivals + 1
        self._queue[number] = waiting
        self._queued_rows += len(rows)
        self._waiting_rows += len(rows)
        self._waiting_requests += 1
        self._idle.clear()
        limit = self._spec.serving.maximum_wait_ms / 1000
        # after what has been computed meanwhile is told: a busy loop makes a timer late, and its lanes look taken
        waiting.timer = loop.call_later(limit, loop.call_soon, self._expire, number)
        loop.call_soon(self._start_batches, loop)  # so that what arrives at once is computed at once
        try:
            return await waiting.future
        finally:  # its client may have gone away
            self._take(number)
            self._waiting_rows -= len(rows)
            self._waiting_requests -= 1
            WAITING.labels(self.name).set(self._waiting_rows)
            if not self._waiting_rows:
                self._idle.set()

    async def feedback(self, prediction_id: str, outcome: object, client: str) -> None:
        """Keep what became of a prediction: see `evergreen.serving.answers.Served`."""
        variants = self._deployment.variants if self._deployment else ()
        outputs = dict.fromkeys(name for variant in variants for name in variant.graph.outputs)
        record = checked_feedback(self._spec, list(outputs), prediction_id, outcome, client)
        if self._log is None:
            raise OverloadedError(
                "no_log", f"{self.name} keeps no log (serving.log is false), and so no feedback", 3600
            )
        if not await asyncio.to_thread(self._log.append, [record]):
            raise OverloadedError("log", "the prediction log has no room", 10)

    async def drain(self) -> None:
        """Return when everything that waits is answered."""
        await self._idle.wait()

    def close(self) -> None:
        """End the threads, when the batches in flight are done."""
        self._threads.shutdown()
        self._shadow_thread.shutdown()

    def _admit(self, rows: int) -> None:
        if self._deployment is None:
            raise OverloadedError("no_version", f"no version of {self.name} is loaded", 5)
        serving = self._spec.serving
        if self._waiting_requests >= serving.maximum_waiting_requests:
            self._refuse("full")
        if self._waiting_rows and self._waiting_rows + rows > serving.maximum_waiting_rows:
            self._refuse("full")
        # a lane must be free first, and then every full batch before this one computed
        batches = self._queued_rows // BATCH_ROW_LIMIT + (self._in_flight >= LANES)
        if batches * self._batch_seconds / LANES * 1000 > serving.maximum_wait_ms:
            self._refuse("slow")

    def _refuse(self, reason: str) -> None:
        waiting = f"{self._waiting_rows} rows of {self._waiting_requests} requests"
        raise OverloadedError(reason, f"{waiting} wait for {self.name} already")

    def _expire(self, number: int) -> None:
        """Refuse a request that has waited too long; one that is being computed is answered."""
        waiting = self._take(number)
        if waiting is not None and not waiting.future.done():
            limit = self._spec.serving.maximum_wait_ms
            waiting.future.set_exception(
                OverloadedError("expired", f"{self.name} had no worker free within {limit:g} ms")
            )

    def _take(self, number: int) -> _Waiting | None:
        """Take a request out of the queue, if it is still there."""
        waiting = self._queue.pop(number, None)
        if waiting is not None:
            self._queued_rows -= len(waiting.asked.rows)
            if waiting.timer is not None:
                waiting.timer.cancel()
        return waiting

    def _start_batches(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._queue and self._in_flight < LANES:
            if batch := self._next_batch():
                self._start(loop, batch)

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        for number in list(self._queue):
            size = len(self._queue[number].asked.rows)
            if batch and rows + size > BATCH_ROW_LIMIT:
                break
            waiting = self._take(number)
            if waiting is not None and not waiting.future.done():
                batch.append(waiting)
                rows += size
        return batch

    def _start(self, loop: asyncio.AbstractEventLoop, batch: list[_Waiting]) -> None:
        deployment = self._deployment
        if deployment is None:  # taken away while they waited
            for waiting in batch:
                waiting.future.set_exception(OverloadedError("no_version", f"no version of {self.name} is loaded", 5))
            return
        batch = [waiting for waiting in batch if self._can_answer(deployment, waiting)]
        if not batch:
            return
        self._in_flight += 1
        computed = Batch(self._spec, self._features, self._log, deployment, [waiting.asked for waiting in batch])
        release = functools.partial(self._release, loop, batch, time.perf_counter())
        self._threads.submit(answered, computed).add_done_callback(functools.partial(_from_thread, loop, release))

    def _can_answer(self, deployment: Deployment, waiting: _Waiting) -> bool:
        """Tell whether a deployment has the version that a request names; if not, the request is told so."""
        version = waiting.asked.rows.version
        if version is None or deployment.name_of(version):
            return True
        there = [one.version for one in deployment.answering]
        waiting.future.set_exception(VersionAwayError(self.name, version, there))
        return False

    def _release(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Waiting],
        started: float,
        done: ThreadFuture[tuple[list[Outcome], Shadow | None]],
    ) -> None:
        """Give every request of a batch its outcome, and go on with what waits."""
        self._in_flight -= 1
        seconds = time.perf_counter() - started
        self._batch_seconds = _MEMORY * self._batch_seconds + (1 - _MEMORY) * seconds
        BATCH_SECONDS.labels(self.name).observe(seconds)
        BATCH_ROWS.labels(self.name).observe(sum(len(waiting.asked.rows) for waiting in batch))
        error = done.exception()
        outcomes: list[Outcome] = [error] * len(batch) if isinstance(error, Exception) else done.result()[0]
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.future.done():
                continue
            if isinstance(outcome, Exception):
                waiting.future.set_exception(outcome)
            else:
                waiting.future.set_result(outcome)
        self._start_batches(loop)
        if error is None and (shadow := done.result()[1]) is not None:
            self._shadow(loop, shadow)

    def _shadow(self, loop: asyncio.AbstractEventLoop, shadow: Shadow) -> None:
        """Let the challenger answer what was answered, unless it has too much to do already."""
        if self._shadowed >= SHADOW_LIMIT:
            SHADOW_DROPPED.labels(self.name).inc(shadow.rows)
            return
        self._shadowed += 1
        self._shadow_thread.submit(shadow.run).add_done_callback(
            functools.partial(_from_thread, loop, self._shadow_done)
        )

    def _shadow_done(self, done: ThreadFuture[None]) -> None:
        self._shadowed -= 1
        if (error := done.exception()) is not None:
            log.warning("%s: the shadow failed: %s", self.name, type(error).__name__)


def _from_thread(
    loop: asyncio.AbstractEventLoop, callback: Callable[[ThreadFuture[_T]], None], done: ThreadFuture[_T]
) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, done)
