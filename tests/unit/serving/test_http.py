"""What a client sends and gets: named columns, errors, limits, and who it is."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import Counter, Gauge, Histogram

from evergreen.contract import ConfigurationError, TemporaryError, utc_now
from evergreen.serving import metrics
from evergreen.serving.clients import Issuer, Limiter, TokenBook
from evergreen.serving.requests import InvalidRequestError, Problem
from evergreen.serving.tokens import create_token
from evergreen.serving.tracing import configured_tracer
from evergreen.settings import PROJECT_ROOT
from serving_kit import ROW, SECRET, TOKENS, Halver, ask, bearer, body_of, client, guarded, token

PATH = "/models/sums/predict"


def test_one_row_or_many_are_answered_in_their_order() -> None:
    guard = guarded()
    one = ask(guard, "POST", PATH, json=ROW)
    many = ask(guard, "POST", PATH, json={"rows": [{**ROW, "amount": 1}, {**ROW, "amount": None}]})
    assert (one.status_code, many.status_code) == (200, 200)
    assert body_of(one) == {
        "model": "sums",
        "predictions": [{"prediction_id": "p-0", "prediction": 1.25, "version": "7", "variant": "champion"}],
    }
    assert [row["prediction"] for row in body_of(many)["predictions"]] == [0.5, 0.0]


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({"amount": "2.5"}, "amount", "a finite number"),
        ({"amount": True}, "amount", "a finite number"),
        ({"amount": [1]}, "amount", "a finite number"),
        ({"visits": 3.0}, "visits", "a whole number"),
        ({"visits": 2**63}, "visits", "a whole number"),
        ({"visits": None}, "visits", "a whole number"),
        ({"shop": 5}, "shop", "text"),
        ({"shop": None}, "shop", "text"),
        ({"kind": {}}, "kind", "text, a number or a boolean"),
        ({"event_timestamp": "2013-07-01T06:30:00"}, "event_timestamp", "a time with its offset"),
        ({"event_timestamp": "tomorrow"}, "event_timestamp", "a time with its offset"),
        ({"event_timestamp": "9999-12-31T23:59:59-14:00"}, "event_timestamp", "a time with its offset"),
        ({"event_timestamp": str(utc_now() + timedelta(hours=1))}, "event_timestamp", "that has been"),
    ],
)
def test_a_wrong_value_is_named_with_what_should_stand_there(change: dict, field: str, expected: str) -> None:
    model = Halver()
    answer = ask(guarded(model), "POST", PATH, content=json.dumps({**ROW, **change}))
    assert answer.status_code == 422, answer.text
    (problem,) = body_of(answer)["problems"]
    assert problem["field"] == field
    assert expected in problem["expected"]
    assert not model.asked


def test_misspelt_and_missing_columns_are_named() -> None:
    row = {name: value for name, value in ROW.items() if name != "amount"} | {"amuont": 1}
    problems = body_of(ask(guarded(), "POST", PATH, json=row))["problems"]
    assert [problem["field"] for problem in problems] == ["amount", "amuont"]
    assert "did you mean 'amount'" in problems[1]["expected"]


def test_a_row_is_named_by_its_place() -> None:
    problems = body_of(ask(guarded(), "POST", PATH, json={"rows": [ROW, {**ROW, "amount": "x"}]}))["problems"]
    assert [(problem["row"], problem["value"]) for problem in problems] == [(1, "x")]


@pytest.mark.parametrize("rows", [[], {}, None, "x", [[]], [None]])
def test_what_are_no_rows_is_refused(rows: object) -> None:
    assert ask(guarded(), "POST", PATH, json={"rows": rows}).status_code == 422


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"amount": NaN}', 400),
        (b"\xff", 400),
        (b"[" * 100_000, 413),
        (b"[" * 2000 + b"]" * 2000, 413),
        (b'"' + b"x" * 30_000 + b'"', 413),
        (b"5", 422),
        (json.dumps({"rows": [ROW] * 51}).encode(), 413),
    ],
)
def test_a_body_that_is_no_request_is_refused(content: bytes, status: int) -> None:
    answer = ask(guarded(), "POST", PATH, content=content)
    assert answer.status_code == status, answer.text
    assert set(body_of(answer)) >= {"error", "request_id"}


def test_a_body_is_refused_as_soon_as_it_is_too_long() -> None:
    sent = 0

    async def endless():
        nonlocal sent
        for _ in range(10_000):
            sent += 1
            yield b"x" * 1000

    async def send() -> int:
        async with client(guarded()) as asking:
            return (await asking.post(PATH, content=endless())).status_code

    assert asyncio.run(send()) == 413
    assert sent < 30  # of 10,000: the model takes 20,000 bytes


def test_a_body_that_does_not_arrive_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evergreen.serving.bodies.BODY_SECONDS", 0.1)
    never = asyncio.Event()

    async def stuck():
        yield b"{"
        await never.wait()

    async def send() -> list[int]:
        async with client(guarded(most_in_flight=1)) as asking:
            return [
                (await asking.post(PATH, content=stuck())).status_code,
                (await asking.post(PATH, json=ROW)).status_code,
            ]

    assert asyncio.run(send()) == [408, 200]


def test_many_unknown_columns_cost_no_more_than_those_that_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def compare(name: str, *_, **__) -> list[str]:
        compared.append(name)
        return []

    monkeypatch.setattr("evergreen.serving.validation.difflib.get_close_matches", compare)
    answer = ask(guarded(), "POST", PATH, json={**ROW, **{f"amount{number}": 1 for number in range(500)}})
    assert answer.status_code == 422
    assert len(body_of(answer)["problems"]) == len(compared) == 20


@pytest.mark.parametrize("headers", [{"content-type": "text/csv"}, {"content-encoding": "gzip"}])
def test_what_cannot_be_read_is_said(headers: dict[str, str]) -> None:
    assert ask(guarded(), "POST", PATH, json=ROW, headers=headers).status_code == 415


def test_features_that_are_missing_are_a_problem_of_their_own_kind() -> None:
    answer = ask(guarded(), "POST", PATH, json={**ROW, "shop": "unknown"})
    assert answer.status_code == 422
    assert body_of(answer)["problems"][0]["kind"] == "missing_features"


def test_a_model_without_a_champion_says_when_to_come_again() -> None:
    answer = ask(guarded(Halver(ready=False)), "POST", PATH, json=ROW)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "3")


@pytest.mark.parametrize(
    ("path", "status"), [("/models/some/predict", 404), ("/nothing", 404), ("/v2/models/sums/versions/9/infer", 404)]
)
def test_what_is_not_there_is_said(path: str, status: int) -> None:
    answer = ask(guarded(), "POST", path, json=ROW)
    assert answer.status_code == status
    assert body_of(answer)["error"]


def test_the_version_of_a_path_is_the_one_that_is_asked() -> None:
    model = Halver()
    tensors = [
        {"name": name, "shape": [1], "datatype": kind, "data": [ROW[name]]}
        for name, kind in (("shop", "BYTES"), ("visits", "INT64"), ("amount", "FP64"), ("kind", "BYTES"))
    ]
    for path in ("/v2/models/sums/versions/7/infer", "/v2/models/sums/infer"):
        assert ask(guarded(model), "POST", path, json={"inputs": tensors}).status_code == 200
    assert [rows.version for rows in model.asked] == ["7", None]


def _counted(metric: Counter) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in metric.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }


def test_a_request_that_is_refused_is_counted_once_with_why() -> None:
    guard = guarded(Halver(), Halver("others", ready=False))
    before = _counted(metrics.REFUSED)
    refused = [
        ask(guard, "POST", PATH, json={**ROW, "amount": "x"}),
        ask(guard, "POST", PATH, json={**ROW, "shop": "unknown"}),
        ask(guard, "POST", PATH, content=b"{"),
        ask(guard, "POST", PATH, json=ROW, headers=bearer("0b")),
        ask(guard, "POST", PATH, json=ROW, headers={"Authorization": ""}),
        ask(guard, "POST", "/models/others/predict", json=ROW),
        ask(guard, "POST", "/models/" + "x" * 50 + "/predict", json=ROW),
        ask(guard, "POST", "/v2/models/sums/versions/9/infer", json=ROW),
        ask(guard, "GET", "/nothing"),
    ]
    assert all(answer.status_code >= 400 for answer in refused)
    assert ask(guard, "POST", PATH, json=ROW).status_code == 200
    grown = {key: value - before.get(key, 0) for key, value in _counted(metrics.REFUSED).items()}
    assert {key: value for key, value in grown.items() if value} == dict.fromkeys(
        [
            ("sums", "input"),
            ("sums", "missing_features"),
            ("sums", "not_json"),
            ("", "forbidden"),
            ("", "unauthenticated"),
            ("others", "no_version"),
            ("", "no_model"),
            ("sums", "version"),
            ("", "no_route"),
        ],
        1,
    )


def test_every_figure_is_named_for_the_server_and_documented() -> None:
    described = (PROJECT_ROOT / "docs/serving.md").read_text()
    ours = [metric for metric in vars(metrics).values() if isinstance(metric, Counter | Gauge | Histogram)]
    names = {family.name for metric in ours for family in metric.collect()}
    assert names
    assert all(name.startswith("evergreen_serving_") for name in names)
    assert [name for name in sorted(names) if name not in described] == []


def test_health_needs_no_token_and_everything_else_does() -> None:
    guard = guarded(Halver(ready=False))
    everything = {
        ("GET", "/v2/health/live"): 200,
        ("GET", "/v2/health/ready"): 503,
        ("GET", "/v2"): 401,
        ("GET", "/v2/models/sums"): 401,
        ("GET", "/v2/models/sums/ready"): 401,
        ("POST", "/v2/models/sums/infer"): 401,
        ("POST", PATH): 401,
        ("POST", "/feedback"): 401,
        ("GET", "/metrics"): 401,
        ("GET", "/docs"): 401,
        ("GET", "/docs/assets/swagger-ui.css"): 401,
        ("GET", "/openapi.json"): 401,
        ("GET", "/nothing"): 401,
    }
    seen = {
        (method, path): ask(guard, method, path, headers={"Authorization": ""}).status_code
        for method, path in everything
    }
    assert seen == everything


def test_metrics_are_open_where_that_is_set() -> None:
    assert ask(guarded(open_metrics=True), "GET", "/metrics", headers={"Authorization": ""}).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer x",
        "Bearer evg_0a",
        f"Bearer evg_0a_{SECRET}x",
        f"Bearer evg_ff_{SECRET}",
        f"Basic evg_0a_{SECRET}",
        f"Token evg_0a_{SECRET}",
        f"Bearer evg_0c_{SECRET}",
        f"Bearer evg_0d_{SECRET}",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
    ],
)
def test_who_is_not_known_is_told_nothing(authorization: str) -> None:
    answer = ask(guarded(), "POST", PATH, json=ROW, headers={"Authorization": authorization})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"]


def test_a_client_asks_the_models_that_it_may_ask() -> None:
    guard = guarded(Halver(), Halver("others"))
    assert ask(guard, "POST", PATH, json=ROW, headers=bearer("0b")).status_code == 403
    assert ask(guard, "POST", "/models/others/predict", json=ROW, headers=bearer("0b")).status_code == 200
    assert "sums" not in ask(guard, "POST", "/models/x/predict", json=ROW, headers=bearer("0b")).text


def test_a_browser_shows_its_token_as_a_password() -> None:
    answer = ask(
        guarded(), "GET", "/docs", headers={"Authorization": ""}, auth=httpx.BasicAuth("me", f"evg_0a_{SECRET}")
    )
    assert answer.status_code == 200
    assert "https://" not in answer.text
    for asset in ("/docs/start.js", "/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css"):
        assert ask(guarded(), "GET", asset).status_code == 200


def test_a_client_that_asks_too_often_waits() -> None:
    guard = guarded()
    first, second = (ask(guard, "POST", PATH, json=ROW, headers=bearer("0e")) for _ in range(2))
    assert (first.status_code, second.status_code) == (200, 429)
    assert int(second.headers["retry-after"]) >= 1
    assert ask(guard, "POST", PATH, json=ROW).status_code == 200


def test_however_many_clients_there_are_their_limits_take_no_more_room() -> None:
    limiter = Limiter(most=100)
    assert limiter.wait("often", "m", 1.0) == 0
    for number in range(1000):
        assert limiter.wait(f"client-{number}", "m", 1.0) == 0
        assert limiter.wait("often", "m", 1.0) > 0, "who asks all the time is not forgotten"
    assert len(limiter) == 100


def test_more_requests_than_there_is_room_for_are_told_to_come_again() -> None:
    model = Halver(seconds=0.2)

    async def burst() -> list[int]:
        async with client(guarded(model, most_in_flight=5)) as asking:
            return [one.status_code for one in await asyncio.gather(*(asking.post(PATH, json=ROW) for _ in range(20)))]

    statuses = asyncio.run(burst())
    assert sorted(statuses) == [200] * 5 + [503] * 15
    assert len(model.asked) == 5


def test_a_server_that_is_busy_is_alive_and_counts_whom_it_sends_away() -> None:
    model = Halver(seconds=0.3)
    turned_away = metrics.REQUESTS.labels("", "", "503")
    before = turned_away._value.get()

    async def burst() -> list[int]:
        async with client(guarded(model, most_in_flight=1)) as asking:
            under_way = asyncio.create_task(asking.post(PATH, json=ROW))
            while not model.asked_for:
                await asyncio.sleep(0.001)
            paths = ("/v2/health/live", "/v2/health/ready", "/v2")
            return [*[(await asking.get(path)).status_code for path in paths], (await under_way).status_code]

    assert asyncio.run(burst()) == [200, 200, 503, 200]
    assert turned_away._value.get() == before + 1


def test_a_token_that_is_taken_back_opens_nothing_and_without_a_database_the_last_ones_count() -> None:
    table, broken = [token()], False

    def read() -> list:
        if broken:
            raise TemporaryError("PostgreSQL is away.")
        return list(table)

    book = TokenBook(read)
    book.refresh()
    shown = f"evg_0a_{SECRET}"
    assert book.client_of(shown)
    broken = True
    book.refresh()
    assert book.client_of(shown)
    assert book.stale_since
    broken, table[:] = False, [token(revoked=utc_now())]
    book.refresh()
    assert book.client_of(shown) is None
    assert book.stale_since is None


def test_whatever_the_table_of_tokens_does_it_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evergreen.serving.clients.REFRESH_SECONDS", 0.01)
    failed = threading.Event()

    def read() -> list:
        if not book.tokens_read:
            return [token()]
        if not failed.is_set():
            failed.set()
            raise psycopg.errors.UndefinedColumn("somebody has changed the table")
        return [token(revoked=utc_now())]

    book = TokenBook(read)
    book.start()
    try:
        assert failed.wait(10)
        deadline = time.monotonic() + 10
        while book.client_of(f"evg_0a_{SECRET}"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        book.stop()


def test_before_the_tokens_are_known_nobody_is_told_that_theirs_is_wrong() -> None:
    def read() -> list:
        raise TemporaryError("PostgreSQL is away.")

    guard = guarded()
    guard.tokens = TokenBook(read)
    guard.tokens.refresh()
    answer = ask(guard, "POST", PATH, json=ROW)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert ask(guard, "POST", PATH, json=ROW, headers={"Authorization": ""}).status_code == 401


KEY = ec.generate_private_key(ec.SECP256R1())
CLAIMS = {"iss": "https://issuer", "aud": "predictions", "sub": "robot"}


def _issuer(tmp_path) -> Issuer:
    published = {**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key())), "kid": "k1", "alg": "ES256"}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [published]}))
    return Issuer("https://issuer", "predictions", str(tmp_path / "keys.json"))


def _signed(key=KEY, algorithm: str = "ES256", kid: str = "k1", **claims) -> dict[str, str]:
    all_claims = {**CLAIMS, "exp": datetime.now(UTC) + timedelta(minutes=5), **claims}
    kept = {name: value for name, value in all_claims.items() if value is not None}
    return {"Authorization": f"Bearer {jwt.encode(kept, key, algorithm, headers={'kid': kid})}"}


def test_a_client_of_the_issuer_is_let_in(tmp_path) -> None:
    guard = guarded(issuer=_issuer(tmp_path))
    assert ask(guard, "POST", PATH, json=ROW, headers=_signed()).status_code == 200
    assert ask(guard, "POST", PATH, json=ROW, headers=_signed(models=["sums"])).status_code == 200
    assert ask(guard, "POST", PATH, json=ROW, headers=_signed(models=["others"])).status_code == 403


def test_a_client_of_the_issuer_is_never_taken_for_one_with_a_token(tmp_path) -> None:
    model = Halver()
    guard = guarded(model, issuer=_issuer(tmp_path))
    sent = {"model": "sums", "prediction_id": "p-0", "outcome": 1}
    for headers in (bearer(), _signed(sub="shop")):
        assert ask(guard, "POST", "/feedback", json=sent, headers=headers).status_code == 202
    assert [client for _, _, client in model.outcomes] == ["shop", "jwt:shop"]
    with pytest.raises(ConfigurationError, match="'jwt:shop' cannot be a client's name"):
        create_token("jwt:shop", "anna")


def test_two_long_subjects_are_two_clients_and_none_has_no_end(tmp_path) -> None:
    model = Halver()
    guard = guarded(model, issuer=_issuer(tmp_path))
    sent = {"model": "sums", "prediction_id": "p-0", "outcome": 1}
    subjects = ["s" * 254 + "1", "s" * 254 + "2", "s" * 256, ""]
    found = [ask(guard, "POST", "/feedback", json=sent, headers=_signed(sub=one)).status_code for one in subjects]
    assert found == [202, 202, 401, 401]
    assert len({client for _, _, client in model.outcomes}) == 2


@pytest.mark.parametrize("models", ["others", {"others": 1}, 5, True])
def test_models_that_are_no_list_are_not_all_of_them(tmp_path, models: object) -> None:
    answer = ask(guarded(issuer=_issuer(tmp_path)), "POST", PATH, json=ROW, headers=_signed(models=models))
    assert answer.status_code == 401


def test_a_key_that_its_issuer_has_withdrawn_opens_nothing_after_an_hour(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = _issuer(tmp_path)
    moment = time.monotonic()
    monkeypatch.setattr("evergreen.serving.clients.time.monotonic", lambda: moment)
    shown = _signed()["Authorization"].removeprefix("Bearer ")

    async def client_after(seconds: float) -> object:
        nonlocal moment
        moment += seconds
        return await issuer.client_of(shown)

    async def ask_on() -> list[bool]:
        known = [await client_after(0) is not None]
        keys = tmp_path / "keys.json"
        published = keys.read_text()
        keys.unlink()
        known.append(await client_after(4000) is not None)  # the issuer is away: what was known counts on
        keys.write_text(published.replace('"k1"', '"k9"'))
        known.append(await client_after(30) is not None)  # asked a moment ago
        known.append(await client_after(61) is not None)
        return known

    assert asyncio.run(ask_on()) == [True, True, True, False]


@pytest.mark.parametrize("published", ["[]", "5", "{}", '{"keys": [1]}', "no JSON"])
def test_keys_that_are_none_let_nobody_in(tmp_path, published: str) -> None:
    (tmp_path / "keys.json").write_text(published)
    issuer = Issuer("https://issuer", "predictions", str(tmp_path / "keys.json"))
    assert ask(guarded(issuer=issuer), "POST", PATH, json=ROW, headers=_signed()).status_code == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://another"},
        {"aud": "another"},
        {"exp": datetime.now(UTC) - timedelta(minutes=5)},
        {"exp": None},
        {"sub": None},
        {"kid": "k2"},
        {"key": ec.generate_private_key(ec.SECP256R1())},
        {"key": rsa.generate_private_key(65537, 2048), "algorithm": "RS256"},
        {"key": "a secret of 32 characters or more", "algorithm": "HS256"},
        {"key": None, "algorithm": "none"},
    ],
    ids=["iss", "aud", "expired", "no exp", "no sub", "another key", "its own key", "RS256", "HS256", "none"],
)
def test_whom_the_issuer_does_not_vouch_for_is_not(tmp_path, wrong: dict) -> None:
    answer = ask(guarded(issuer=_issuer(tmp_path)), "POST", PATH, json=ROW, headers=_signed(**wrong))
    assert answer.status_code == 401


def test_feedback_is_kept_with_who_sent_it() -> None:
    model = Halver()
    sent = {"model": "sums", "prediction_id": "p-0", "outcome": 1}
    assert ask(guarded(model), "POST", "/feedback", json=sent).status_code == 202
    assert model.outcomes == [("p-0", 1, "shop")]
    for change in ({"more": 1}, {"outcome": {}}, {"outcome": None}, {"prediction_id": 5}, {"model": ["sums"]}):
        assert ask(guarded(model), "POST", "/feedback", json={**sent, **change}).status_code == 422


def test_a_request_keeps_its_id() -> None:
    assert (
        ask(guarded(), "POST", PATH, json=ROW, headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    )
    odd = ask(guarded(), "POST", PATH, json=ROW, headers={"X-Request-Id": "a b\tc"})
    assert odd.headers["x-request-id"] != "a b\tc"


def test_what_fails_inside_tells_no_one_how(caplog) -> None:
    class Broken(Halver):
        async def predict(self, rows, client):
            raise ZeroDivisionError("a secret detail")

    answer = ask(guarded(Broken()), "POST", PATH, json=ROW)
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert "secret detail" in caplog.text


class KeyTeller(Halver):
    """Says which key it knows nothing of, as the online store's reader does."""

    async def predict(self, rows, client):
        expected = "a key that shops has features of: it knows none of shop='ada@example.com'"
        raise InvalidRequestError([Problem(0, "shop", "ada@example.com", expected, "missing_features")])


def test_the_log_says_why_and_none_of_the_values(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert ask(guarded(), "POST", PATH, json={**ROW, "amount": "4111-1111"}).status_code == 422
    assert ask(guarded(KeyTeller()), "POST", PATH, json=ROW).status_code == 422
    assert ask(guarded(), "GET", "/nothing").status_code == 404
    assert ask(guarded(), "GET", "/v2", headers={"Authorization": "Bearer evg_0a_private"}).status_code == 401
    lines = [json.loads(record.message) for record in caplog.records if record.name == "evergreen.serving.requests"]
    whys = ["row 0, amount: expected a finite number, or null where it is not known", "missing_features: shop"]
    assert [line["why"] for line in lines] == [*whys, "Not Found", "send Authorization: Bearer <a token>"]
    assert "4111" not in caplog.text
    assert "private" not in caplog.text
    assert "ada@example.com" not in caplog.text


def test_a_request_is_part_of_its_client_s_trace_and_shows_no_value() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    guard = guarded(tracer=provider.get_tracer("test"))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert ask(guard, "POST", PATH, json={**ROW, "amount": 4711.5}, headers={"traceparent": parent}).status_code == 200
    (span,) = exporter.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == parent.split("-")[1]
    shown = dict(span.attributes or {})
    assert (shown["evergreen.model"], shown["evergreen.status"]) == ("sums", 200)
    assert "4711" not in str(shown)


def test_nothing_is_traced_unless_that_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert configured_tracer() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert configured_tracer()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
ROWS = st.fixed_dictionaries(dict.fromkeys(ROW, JSON))


@given(body=JSON | ROWS | st.fixed_dictionaries({"rows": st.lists(ROWS, max_size=4), "event_timestamp": JSON}))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_body_makes_the_server_fail(body: object) -> None:
    answer = ask(guarded(), "POST", PATH, content=json.dumps(body))
    assert answer.status_code in {200, 400, 413, 422}, answer.text
    assert json.loads(answer.content)


def test_every_token_of_the_kit_is_another() -> None:
    assert len({one.id for one in TOKENS}) == len(TOKENS)
