"""Asks a server as many clients do, from a process of its own: ``python load.py PLAN`` prints what it measured as JSON.

Requests are sent when they are due, whether or not earlier ones are answered, and a latency counts from that moment: a
server that stalls is not let off the requests that nobody could send meanwhile (coordinated omission).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvloop


@dataclass
class Load:
    """What is asked, how often, and what came of it.

    Parameters
    ----------
    host, port, path
        Where.
    headers
        Of every request.
    bodies
        Taken in turns.
    rate
        Requests a second; 0: each connection asks again as soon as it is answered.
    seconds
        How long.
    connections
        Kept open; a request that finds none free waits, which its latency counts.
    cores
        On which this process runs.
    """

    host: str
    port: int
    path: str
    headers: dict[str, str]
    bodies: list[str]
    rate: float
    seconds: float
    connections: int = 32
    cores: tuple[int, ...] = ()
    statuses: Counter[str] = field(default_factory=Counter)
    latencies: dict[str, list[float]] = field(default_factory=dict)

    def run(self) -> dict[str, Any]:
        """Ask, and return counts by status and latencies in milliseconds."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)
        began = time.perf_counter()
        uvloop.run(self._ask())
        passed = time.perf_counter() - began
        return {
            "seconds": passed,
            "statuses": dict(self.statuses),
            "asked_per_second": sum(self.statuses.values()) / passed,
            "requests_per_second": self.statuses["200"] / passed,
            "latency_ms": {status: _quantiles(values) for status, values in self.latencies.items()},
        }

    async def _ask(self) -> None:
        self._requests = [self._request(body) for body in self.bodies]
        self._turn, self._open = 0, 0
        self._free: deque[_Connection] = deque()
        self._late: deque[float] = deque()
        self._begin = time.perf_counter()
        self._end = self._begin + self.seconds
        loop = asyncio.get_running_loop()
        for _ in range(self.connections):
            await loop.create_connection(lambda: _Connection(self), self.host, self.port)
        number = 0
        while (now := time.perf_counter()) < self._end:
            while self.rate and number < (now - self._begin) * self.rate:
                self._send(self._begin + number / self.rate)
                number += 1
            await asyncio.sleep(0.0005)
        while len(self._free) < self._open or self._late:
            await asyncio.sleep(0.01)

    def _send(self, due: float) -> None:
        if self._free:
            self._free.pop().ask(self._next(), due)
        else:
            self._late.append(due)

    def _next(self) -> bytes:
        self._turn += 1
        return self._requests[self._turn % len(self._requests)]

    def opened(self, connection: _Connection) -> None:
        """Use a connection."""
        self._open += 1
        self.free(connection)

    def free(self, connection: _Connection) -> None:
        """Ask over a connection what is due, or keep it until something is."""
        now = time.perf_counter()
        if self._late:
            connection.ask(self._next(), self._late.popleft())
        elif not self.rate and now < self._end:
            connection.ask(self._next(), now)
        else:
            self._free.append(connection)

    def told(self, status: str, due: float) -> None:
        """Count an answer."""
        self.statuses[status] += 1
        self.latencies.setdefault(status, []).append(1000 * (time.perf_counter() - due))

    def lost(self, connection: _Connection, due: float | None) -> None:
        """Count what a closed connection leaves without an answer, and open another."""
        self._open -= 1
        if due is not None:
            self.told("lost", due)
        elif connection in self._free:
            self._free.remove(connection)
        if time.perf_counter() < self._end:
            loop = asyncio.get_running_loop()
            self._opening = loop.create_task(loop.create_connection(lambda: _Connection(self), self.host, self.port))

    def _request(self, body: str) -> bytes:
        content = body.encode()
        fields = {"Host": self.host, "Content-Type": "application/json", "Content-Length": str(len(content))}
        lines = [
            f"POST {self.path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in {**fields, **self.headers}.items()),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + content


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, load: Load) -> None:
        self._load, self._due, self._read = load, None, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._load.opened(self)

    def ask(self, request: bytes, due: float) -> None:
        """Send a request."""
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._read += data
        head, end, rest = self._read.partition(b"\r\n\r\n")
        if not end:
            return
        place = head.lower().find(b"content-length: ")
        length = int(head[place + 16 :].partition(b"\r\n")[0]) if place >= 0 else 0
        if len(rest) < length:
            return
        due, self._due, self._read = self._due, None, b""
        self._load.told(head[9:12].decode(), due)
        if not self._transport.is_closing():
            self._load.free(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._load.lost(self, self._due)


def _quantiles(values: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"count": len(values), "p50": p50, "p95": p95, "p99": p99, "max": max(values)}


if __name__ == "__main__":
    print(json.dumps(Load(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))).run()))
