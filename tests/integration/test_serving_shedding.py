"""What a server does with more requests than it has room for, on a real port."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from evergreen.serving.answers import Answer
from evergreen.serving.requests import Rows
from serving_kit import LIMITS, ROW, Halver, bearer, guarded, listening

ONE = LIMITS.model_copy(update={"maximum_waiting_requests": 1})
BODY = json.dumps(ROW)
HEAD = f"POST /models/sums/predict HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n"
WHOLE = f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n{BODY}"


class Held(Halver):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.came, self.let = threading.Event(), threading.Event()

    async def predict(self, rows: Rows, client: str) -> list[Answer]:
        self.came.set()
        while not self.let.is_set():
            await asyncio.sleep(0.005)
        return await super().predict(rows, client)


@pytest.fixture
def model() -> Held:
    return Held()


@pytest.fixture
def port(model: Held) -> Iterator[int]:
    with listening(guarded(model, Halver("others")), ONE) as port:
        yield port
        model.let.set()


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        yield connection


@pytest.fixture
def first(port: int, model: Held) -> Iterator[socket.socket]:
    """The connection of a request that has taken the only place."""
    with connected(port) as connection:
        connection.sendall(WHOLE.encode())
        assert model.came.wait(30)
        yield connection


def status(connection: socket.socket) -> int:
    """Return the status of the next answer of a connection."""
    head = b""
    while b"\r\n\r\n" not in head:
        read = connection.recv(1)
        assert read, head
        head += read
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    left = int(length.partition(b":")[2])
    while left:
        left -= len(connection.recv(left))
    return int(head.split(b" ")[1])


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("path", ["/models/sums/predict", "/v2/models/sums/infer"])
def test_one_more_than_there_is_room_for_is_refused_at_once(port: int, model: Held, path: str) -> None:
    refused = httpx.post(f"http://127.0.0.1:{port}{path}", json=ROW)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert "too many requests wait" in refused.json()["error"]
    assert not model.asked


def test_who_was_refused_is_answered_on_the_same_connection_when_there_is_room(
    port: int, model: Held, first: socket.socket
) -> None:
    with connected(port) as second:
        for _ in range(3):
            second.sendall(WHOLE.encode())
            assert status(second) == 503
        model.let.set()
        assert status(first) == 200
        second.sendall(WHOLE.encode())
        assert status(second) == 200
    assert len(model.asked) == 2


@pytest.mark.usefixtures("first")
def test_another_model_and_what_anybody_may_ask_are_answered(port: int) -> None:
    server = f"http://127.0.0.1:{port}"
    assert httpx.post(f"{server}/models/others/predict", json=ROW, headers=bearer()).status_code == 200
    assert httpx.get(f"{server}/v2/health/live").status_code == 200
    assert httpx.post(f"{server}/models/others/predict", json=ROW).status_code == 401


def test_a_client_that_goes_away_gives_its_place_back(port: int, model: Held, first: socket.socket) -> None:
    first.close()
    with connected(port) as second:
        for _ in range(1000):  # until the server has noticed
            second.sendall(WHOLE.encode())
            second.settimeout(0.05)
            try:
                assert status(second) == 503
            except TimeoutError:
                break
        second.settimeout(30)
        model.let.set()
        assert status(second) == 200


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize(
    "request_",
    [
        f"{HEAD}Transfer-Encoding: chunked\r\n\r\n{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n",
        f"{HEAD}Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n{BODY}",
        WHOLE.replace("HTTP/1.1", "HTTP/1.0"),
        WHOLE.replace("/models/sums/predict", "/models/sums/predict?x=1"),
    ],
    ids=["chunked", "closing", "older", "query"],
)
def test_what_is_more_than_its_first_piece_shows_takes_the_ordinary_way(port: int, model: Held, request_: str) -> None:
    model.let.set()
    with connected(port) as second:
        second.sendall(request_.encode())
        assert status(second) == 200


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize(
    "lengths",
    [f"Content-Length: {len(BODY)}\r\nContent-Length: 1\r\n", f"Content-Length: {len(BODY)}, 1\r\n"],
)
def test_a_length_that_is_in_doubt_is_left_to_the_parser(port: int, lengths: str) -> None:
    with connected(port) as second:
        second.sendall(f"{HEAD}{lengths}\r\n{BODY}".encode())
        assert status(second) == 400


def test_two_requests_in_one_piece_are_both_answered(port: int, model: Held, first: socket.socket) -> None:
    model.let.set()
    assert status(first) == 200
    with connected(port) as second:
        second.sendall((WHOLE + WHOLE).encode())
        assert [status(second), status(second)] == [200, 200]


@pytest.mark.usefixtures("first")
def test_the_body_of_a_refused_request_is_no_request(port: int, model: Held) -> None:
    inner = WHOLE.replace("/models/sums", "/models/others")
    with connected(port) as second:
        second.sendall(f"{HEAD}Content-Length: {len(inner)}\r\n\r\n".encode())
        assert status(second) == 503
        model.let.set()
        second.sendall(inner.encode()[:50])
        second.sendall(inner.encode()[50:] + WHOLE.encode())
        assert status(second) == 200
    assert [len(asked.columns["shop"]) for asked in model.asked][-1] == 1


def test_a_piece_of_a_body_that_looks_like_a_request_is_none(port: int, model: Held, first: socket.socket) -> None:
    model.let.set()
    assert status(first) == 200
    with connected(port) as second:
        second.sendall(f"{HEAD}Content-Length: {len(BODY) + len(WHOLE)}\r\n\r\n{BODY}".encode())
        assert httpx.get(f"http://127.0.0.1:{port}/v2/health/live").status_code == 200  # the first piece was read
        second.sendall(WHOLE.encode())
        assert status(second) == 400  # one request, whose JSON is followed by more


def test_a_request_whose_body_comes_slowly_takes_no_place(port: int, model: Held) -> None:
    with connected(port) as slow, connected(port) as quick:
        slow.sendall(f"{HEAD}Content-Length: {len(BODY)}\r\n\r\n".encode())
        assert httpx.get(f"http://127.0.0.1:{port}/v2/health/live").status_code == 200
        model.let.set()
        quick.sendall(WHOLE.encode())
        assert status(quick) == 200
        slow.sendall(BODY.encode())
        assert status(slow) == 200
