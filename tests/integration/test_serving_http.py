"""The server's HTTP side on a real port: with a public client of its protocol, and against its own description."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import GenerationMode
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from evergreen.serving.answers import Answer
from evergreen.serving.requests import Rows
from serving_kit import ROW, Halver, ask, bearer, guarded, listening

AMOUNTS = [1.0, 2.5, float("nan")]
TENSORS = [
    {"name": "shop", "shape": [1], "datatype": "BYTES", "data": ["a"]},
    {"name": "visits", "shape": [1, 1], "datatype": "INT32", "data": [[3]]},
    {"name": "kind", "shape": [1], "datatype": "BYTES", "data": ["x"]},
    {"name": "amount", "shape": [1], "datatype": "FP64", "data": [2.5]},
]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening(guarded()) as port:
        yield port


@pytest.fixture
def triton(port: int) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client


def _inputs(binary: bool, amounts: list[float] = AMOUNTS, numbers: str = "FP64") -> list[InferInput]:
    count = len(amounts)
    values = {
        "shop": ("BYTES", np.array(["a", "b", "ü"][:count], dtype=object)),
        "visits": ("INT64", np.arange(count, dtype=np.int64)),
        "amount": (numbers, np.array(amounts, dtype=np.float64 if numbers == "FP64" else np.float32)),
        "kind": ("BYTES", np.array(["x"] * count, dtype=object)),
    }
    inputs = []
    for name, (datatype, array) in values.items():
        tensor = InferInput(name, [count], datatype)
        tensor.set_data_from_numpy(array, binary_data=binary)
        inputs.append(tensor)
    return inputs


def test_a_triton_client_finds_the_server_alive_and_its_model(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("sums", headers=bearer())
    metadata = triton.get_model_metadata("sums", headers=bearer())
    assert metadata["versions"] == ["7"]
    assert {one["name"]: one["datatype"] for one in metadata["inputs"]} == {
        **{"shop": "BYTES", "visits": "INT64"},
        **{"amount": "FP64", "kind": "BYTES"},
    }
    assert triton.get_server_metadata(headers=bearer())["extensions"] == ["binary_tensor_data"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
@pytest.mark.parametrize("numbers", ["FP64", "FP32"])
def test_a_triton_client_is_answered(
    triton: InferenceServerClient, binary_in: bool, binary_out: bool | None, numbers: str
) -> None:
    amounts = AMOUNTS if binary_in else AMOUNTS[:2]  # JSON has no NaN
    wanted = ["prediction", "prediction_id", "variant", "version"]
    outputs = None if binary_out is None else [InferRequestedOutput(name, binary_data=binary_out) for name in wanted]
    answer = triton.infer(
        "sums", _inputs(binary_in, amounts, numbers), outputs=outputs, request_id="mine", headers=bearer()
    )
    assert answer.get_response()["id"] == "mine"
    assert answer.get_response()["model_version"] == "7"
    assert answer.as_numpy("prediction").tolist() == [0.5, 1.25, 0.0][: len(amounts)]
    variants = [text.decode() if isinstance(text, bytes) else text for text in answer.as_numpy("variant")]
    assert variants == ["champion"] * len(amounts)


def test_outputs_are_those_that_are_asked_for(triton: InferenceServerClient) -> None:
    answer = triton.infer("sums", _inputs(True), outputs=[InferRequestedOutput("variant")], headers=bearer())
    assert [one["name"] for one in answer.get_response()["outputs"]] == ["variant"]
    with pytest.raises(InferenceServerException, match="expected one of prediction, prediction_id, variant, version"):
        triton.infer("sums", _inputs(True), outputs=[InferRequestedOutput("other")], headers=bearer())


def test_a_version_that_does_not_answer_is_said(triton: InferenceServerClient) -> None:
    assert triton.infer("sums", _inputs(True), model_version="7", headers=bearer()).as_numpy("prediction").size
    with pytest.raises(InferenceServerException, match="version '6' of sums does not answer; there is 7"):
        triton.infer("sums", _inputs(True), model_version="6", headers=bearer())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"inputs": None}, "a list of tensors"),
        ({"inputs": []}, "a value: it is missing"),
        ({"shape": [2]}, "as many values as its shape says"),
        ({"shape": [1, 2]}, "the shape [rows]"),
        ({"shape": "x"}, "the shape [rows]"),
        ({"datatype": "FP128"}, "a datatype of"),
        ({"data": ["x"]}, "a finite number"),
        ({"data": 5}, "as many values"),
        ({"name": "other"}, "one of amount, kind, shop, visits"),
        ({"parameters": {"binary_data_size": 8}}, "at most the 0 bytes"),
        ({"parameters": {"binary_data_size": -1}}, "at most the 0 bytes"),
        ({"inputs": TENSORS, "outputs": [{"name": "prediction", "parameters": "x"}]}, "parameters that are an object"),
        ({"inputs": TENSORS, "outputs": [{"name": "prediction", "parameters": [1]}]}, "parameters that are an object"),
        ({"inputs": TENSORS, "outputs": [{"name": ["prediction"]}]}, "one of prediction, prediction_id"),
        ({"inputs": TENSORS, "outputs": [{}]}, "one of prediction, prediction_id"),
        ({"inputs": TENSORS, "outputs": "prediction"}, "a list of objects with a name"),
        ({"inputs": TENSORS, "id": [1]}, "text"),
    ],
)
def test_a_wrong_tensor_is_named(port: int, change: dict, expected: str) -> None:
    body = change if "inputs" in change else {"inputs": [*TENSORS[:-1], {**TENSORS[-1], **change}]}
    answer = httpx.post(f"http://127.0.0.1:{port}/v2/models/sums/infer", json=body, headers=bearer())
    assert answer.status_code == 422, answer.text
    assert expected in answer.text


def test_a_wrong_name_comes_back_cut() -> None:
    tensor = {"name": "n" * 15_000, "shape": "x", "datatype": "FP64"}
    answer = ask(guarded(), "POST", "/v2/models/sums/infer", json={"inputs": [tensor]})
    assert answer.status_code == 422
    assert len(answer.content) < 1000


def test_versions_that_know_different_classes_answer_one_request() -> None:
    class Split(Halver):
        async def predict(self, rows: Rows, client: str) -> list[Answer]:
            return [
                Answer("p", "7", "champion", {"early": 0.25, "late": 0.75}),
                Answer("q", "8", "challenger", {"early": 0.5, "lost": 0.5}),
            ]

    with (
        listening(guarded(Split(outputs=("early", "late"), versions=("7", "8")))) as port,
        InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        wanted = [InferRequestedOutput(name) for name in ("early", "late", "version")]
        asked = client.infer("sums", _inputs(True, AMOUNTS[:2]), outputs=wanted, headers=bearer())
        assert asked.as_numpy("early").tolist() == [0.25, 0.5]
        np.testing.assert_equal(asked.as_numpy("late"), [0.75, np.nan])
        assert asked.as_numpy("version").tolist() == [b"7", b"8"]
        everything = client.infer("sums", _inputs(True, AMOUNTS[:2]), headers=bearer())
        np.testing.assert_equal(everything.as_numpy("late"), [0.75, np.nan])
        np.testing.assert_equal(everything.as_numpy("lost"), [np.nan, 0.5])


@pytest.mark.parametrize("length", ["-1", "x", "99999", "1e3", "1" * 5000])
def test_a_header_length_that_is_none_is_refused(port: int, length: str) -> None:
    headers = {**bearer(), "Inference-Header-Content-Length": length}
    answer = httpx.post(f"http://127.0.0.1:{port}/v2/models/sums/infer", content=b"{}", headers=headers)
    assert answer.status_code == 400


def test_clients_that_send_slowly_give_their_places_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evergreen.serving.bodies.BODY_SECONDS", 0.5)
    head = f"POST /models/sums/predict HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n"
    with ExitStack() as stack:
        port = stack.enter_context(listening(guarded(most_in_flight=3)))
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(3)]
        for one in slow:
            one.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        for one in slow:  # each is told, and its connection is closed
            assert b"".join(iter(lambda one=one: one.recv(4096), b"")).startswith(b"HTTP/1.1 408")
        answer = httpx.post(f"http://127.0.0.1:{port}/models/sums/predict", json=ROW, headers=bearer())
        assert answer.status_code == 200


SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", guarded(Halver(), Halver("others")), headers=bearer())
SCHEMA.config.generation.update(modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE])


@SCHEMA.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_server_does_what_its_description_says(case: schemathesis.Case) -> None:
    case.call_and_validate(
        headers=bearer(),
        # which of the tensors fit together the description cannot say, nor that a moment has been
        excluded_checks=[schemathesis.checks.CHECKS.get_one("positive_data_acceptance")],
    )


def test_the_description_is_of_the_models_columns(port: int) -> None:
    described = httpx.get(f"http://127.0.0.1:{port}/openapi.json", headers=bearer()).json()
    one = described["paths"]["/models/sums/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(one["anyOf"][0]["required"]) == set(ROW)
    assert one["example"].keys() == ROW.keys()
    json.dumps(described)


def test_an_answer_that_is_under_way_when_the_server_is_told_to_stop_comes() -> None:
    guard = guarded(Halver(seconds=0.5))

    async def last(port: int) -> list[int]:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=bearer()) as asking:
            under_way = [asyncio.create_task(asking.post("/models/sums/predict", json=ROW)) for _ in range(5)]
            await asyncio.sleep(0.2)
            guard.host.draining = True
            ready = await asking.get("/v2/health/ready")
            more = await asking.post("/models/sums/predict", json=ROW)
            assert more.headers["connection"] == "close"
            return [ready.status_code, more.status_code, *[one.status_code for one in await asyncio.gather(*under_way)]]

    with listening(guard) as port:
        assert asyncio.run(last(port)) == [503, 200, *[200] * 5]
