"""A model that answers without a network, for what lies between a client and the engine."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import httpx

from evergreen.contract import utc_now
from evergreen.serving.answers import Answer
from evergreen.serving.app import make_app
from evergreen.serving.clients import Issuer, TokenBook
from evergreen.serving.guard import Guard
from evergreen.serving.host import Host
from evergreen.serving.requests import Column, InvalidRequestError, OverloadedError, Problem, Rows
from evergreen.serving.shedding import SheddingProtocol, rooms_of
from evergreen.serving.tokens import Token, digest_of
from evergreen.spec.serving import Serving

COLUMNS = (
    Column("shop", "string"),
    Column("visits", "integer"),
    Column("amount", "number"),
    Column("kind", "category"),
)
ROW = {"shop": "a", "visits": 3, "amount": 2.5, "kind": "x"}
SECRET = "s" * 43
LIMITS = Serving(maximum_rows=50, maximum_bytes=20_000)


@dataclass
class Halver:
    """Answers half the amount; 0 where it is not known."""

    name: str = "sums"
    columns: Sequence[Column] = COLUMNS
    outputs: Sequence[str] = ("prediction",)
    versions: Sequence[str] = ("7",)
    ready: bool = True
    seconds: float = 0.0
    asked_for: int = 0
    """Requests that have come to it, answered or not."""
    asked: list[Rows] = field(default_factory=list)
    outcomes: list[tuple[str, object, str]] = field(default_factory=list)

    async def predict(self, rows: Rows, client: str) -> list[Answer]:
        self.asked_for += 1
        if not self.ready:
            raise OverloadedError("no_version", f"{self.name} has no champion yet", retry_after=3)
        if "unknown" in rows.columns["shop"]:
            raise InvalidRequestError([Problem(0, "shop", "unknown", "a key with features", "missing_features")])
        if self.seconds:
            await asyncio.sleep(self.seconds)
        self.asked.append(rows)
        halves = [float(amount or 0) / 2 for amount in rows.columns["amount"]]
        return [Answer(f"p-{number}", "7", "champion", {"prediction": value}) for number, value in enumerate(halves)]

    async def feedback(self, prediction_id: str, outcome: object, client: str) -> None:
        self.outcomes.append((prediction_id, outcome, client))


def token(identity: str = "0a", client: str = "shop", **fields) -> Token:
    """Return a token's row; the token is ``evg_<identity>_<SECRET>``."""
    made = {"models": None, "requests_per_second": None, "created": utc_now(), "created_by": "test", **fields}
    return Token(identity, client, digest_of(SECRET), **made)


def bearer(identity: str = "0a") -> dict[str, str]:
    """Return the header with a token of that id."""
    return {"Authorization": f"Bearer evg_{identity}_{SECRET}"}


TOKENS = [
    token(),
    token("0b", "other", models=frozenset({"others"})),
    token("0c", "late", expires=utc_now() - timedelta(seconds=1)),
    token("0d", "gone", revoked=utc_now()),
    token("0e", "slow", requests_per_second=1.0),
]


def guarded(*models: Halver, tokens: Sequence[Token] = tuple(TOKENS), issuer: Issuer | None = None, **options) -> Guard:
    """Return the application of some models, as the server runs it."""
    book = TokenBook(lambda: list(tokens))
    book.refresh()
    host = Host({model.name: model for model in models or (Halver(),)})
    return Guard(make_app(host, dict.fromkeys(host.models, LIMITS)), host, book, issuer, **options)


def client(guard: Guard) -> httpx.AsyncClient:
    """Return a client of an application in this process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://server", headers=bearer())


def ask(guard: Guard, method: str, path: str, **options) -> httpx.Response:
    """Ask once."""

    async def once() -> httpx.Response:
        async with client(guard) as asking:
            return await asking.request(method, path, **options)

    return asyncio.run(once())


@contextmanager
def listening(guard: Guard, limits: Serving = LIMITS) -> Iterator[int]:
    """Run an application on a port of this machine, with the server that people run it with."""
    import uvicorn

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        protocol = partial(SheddingProtocol, rooms_of(dict.fromkeys(guard.host.models, limits)), guard.host)
        server = uvicorn.Server(uvicorn.Config(guard, loop="uvloop", http=protocol, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(30)


def body_of(answer: httpx.Response) -> dict:
    """Return the JSON of an answer."""
    return json.loads(answer.content)
