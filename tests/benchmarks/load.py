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
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


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
        asyncio.run(self._ask())
        passed = time.perf_counter() - began
        return {
            "seconds": passed,
            "statuses": dict(self.statuses),
            "requests_per_second": self.statuses["200"] / passed,
            "latency_ms": {status: _quantiles(values) for status, values in self.latencies.items()},
        }

    async def _ask(self) -> None:
        self._requests = [self._request(body) for body in self.bodies]
        self._due: asyncio.Queue[float | None] = asyncio.Queue()
        askers = [asyncio.create_task(self._asker(number)) for number in range(self.connections)]
        begin = time.perf_counter()
        if self.rate:
            for number in range(int(self.rate * self.seconds)):
                due = begin + number / self.rate
                if (wait := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                self._due.put_nowait(due)
            for _ in askers:
                self._due.put_nowait(None)
        self._end = begin + self.seconds
        await asyncio.gather(*askers)

    async def _asker(self, number: int) -> None:
        reader = writer = None
        turn = number
        while True:
            due = await self._due.get() if self.rate else time.perf_counter()
            if due is None or (not self.rate and due > getattr(self, "_end", float("inf"))):
                break
            turn += self.connections
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(self.host, self.port)
                status, closes = await self._exchange(reader, writer, self._requests[turn % len(self._requests)])
            except (OSError, asyncio.IncompleteReadError):
                status, closes = "lost", True
            self.statuses[status] += 1
            self.latencies.setdefault(status, []).append(1000 * (time.perf_counter() - due))
            if closes and writer is not None:
                writer.close()
                reader = writer = None
        if writer is not None:
            writer.close()

    async def _exchange(self, reader: Any, writer: Any, request: bytes) -> tuple[str, bool]:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        await reader.readexactly(int(headers.get("content-length", 0)))
        return lines[0].split(" ")[1], headers.get("connection") == "close"

    def _request(self, body: str) -> bytes:
        content = body.encode()
        fields = {"Host": self.host, "Content-Type": "application/json", "Content-Length": str(len(content))}
        lines = [
            f"POST {self.path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in {**fields, **self.headers}.items()),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + content


def _quantiles(values: list[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"count": len(values), "p50": p50, "p95": p95, "p99": p99, "max": max(values)}


if __name__ == "__main__":
    print(json.dumps(Load(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))).run()))
