"""The endpoints of the server: named columns, the Open Inference Protocol V2, feedback, health and metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from evergreen.serving import protocol_v2
from evergreen.serving.bodies import HEADER_LENGTH, header_length, parsed_json, read_body
from evergreen.serving.clients import Client, Limiter
from evergreen.serving.guard import error_fields
from evergreen.serving.host import Host
from evergreen.serving.metrics import SECONDS
from evergreen.serving.requests import InvalidRequestError, Problem, RefusedError, VersionAwayError
from evergreen.serving.schema import describe_api, documentation
from evergreen.serving.validation import Checker
from evergreen.spec.serving import Serving
from evergreen.version import code_version

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

    from evergreen.serving.answers import Served

_FEEDBACK_BYTES = 10_000


def make_app(host: Host, limits: Mapping[str, Serving]) -> FastAPI:
    """Return the application.

    Parameters
    ----------
    host
        The models.
    limits
        The section ``serving`` of each model.yaml, by model.
    """
    from fastapi import FastAPI
    from starlette.exceptions import HTTPException

    app = FastAPI(
        title="Evergreen: predictions",
        version=code_version(),
        docs_url=None,
        redoc_url=None,
        description="Every request but those of health needs `Authorization: Bearer <token>`.",
    )
    app.openapi_version = "3.0.3"  # what the page of swagger-ui-bundle reads
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(Exception, _failed)
    endpoints = _Endpoints(host, limits)
    for path, method, endpoint in endpoints.routes():
        # Starlette's routes: FastAPI's would look for parameters, which takes longer than an answer does
        app.add_route(path, _answering(endpoint), methods=[method], include_in_schema=False)
    documentation(app)
    app.openapi = partial(describe_api, app, host, limits)  # type: ignore[method-assign]
    return app


def _no_route(request: Request, error: Exception) -> Response:
    """Answer where there is no endpoint, in the shape of every error."""
    request.scope["state"]["reason"] = "no_route"
    status = int(getattr(error, "status_code", 500))
    return _error(request, status, str(getattr(error, "detail", "")), getattr(error, "headers", None))


def _failed(request: Request, _: Exception) -> Response:
    """Answer where the server itself has failed; the guard logs how."""
    return _error(request, 500, "the server has failed; its log has why, under this request's id")


_Endpoint = Callable[["Request"], Awaitable["Response"]]


def _answering(endpoint: _Endpoint) -> _Endpoint:
    """Return an endpoint that makes answers of what may be wrong with a request."""
    from starlette.requests import Request  # what FastAPI looks for in the annotations

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except InvalidRequestError as error:
            kinds = {problem.kind for problem in error.problems}
            request.scope["state"]["reason"] = next(iter(kinds)) if len(kinds) == 1 else "several"
            refused = _error(request, 422, _said(error), problems=[_fields(one) for one in error.problems])
            if kinds != {"input"}:  # what is expected of features shows the key: the log gets none
                named = sorted({f"{problem.kind}: {problem.column}" for problem in error.problems})
                request.scope["state"]["why"] = ", ".join(named)
            return refused
        except RefusedError as error:
            request.scope["state"]["reason"] = error.reason
            return _error(request, error.status, str(error), error.headers)

    answer.__annotations__["request"] = Request
    return answer


class _Endpoints:
    """What answers, with what all of it needs."""

    def __init__(self, host: Host, limits: Mapping[str, Serving]) -> None:
        self._host, self._limits, self._rates = host, limits, Limiter()
        self._checkers = {
            name: Checker(model.columns, limits[name].maximum_rows) for name, model in host.models.items()
        }

    def routes(self) -> list[tuple[str, str, _Endpoint]]:
        """Return path, method and endpoint of all there is."""
        model = "/v2/models/{name}"
        version = f"{model}/versions/{{version}}"
        return [
            ("/v2/health/live", "GET", self.live),
            ("/v2/health/ready", "GET", self.ready),
            ("/v2", "GET", self.server),
            *((path, "GET", self.metadata) for path in (model, version)),
            *((f"{path}/ready", "GET", self.model_ready) for path in (model, version)),
            *((f"{path}/infer", "POST", self.infer) for path in (model, version)),
            ("/models/{name}/predict", "POST", self.predict),
            ("/feedback", "POST", self.feedback),
            ("/metrics", "GET", self.metrics),
        ]

    async def live(self, _: Request) -> Response:
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        return _json({"ready": self._host.ready}, 200 if self._host.ready else 503)

    async def server(self, _: Request) -> Response:
        return _json({"name": "evergreen", "version": code_version(), "extensions": ["binary_tensor_data"]})

    async def metadata(self, request: Request) -> Response:
        model = self._model(request, "v2")
        return _json(protocol_v2.describe(model.name, model.columns, model.outputs, model.versions))

    async def model_ready(self, request: Request) -> Response:
        model = self._model(request, "v2")
        return _json({"name": model.name, "ready": model.ready}, 200 if model.ready else 503)

    async def predict(self, request: Request) -> Response:
        """Answer rows of named columns: one object, or ``{"rows": [...], "event_timestamp": ...}``."""
        model, client = self._asked(request, "predict")
        parsed = parsed_json(await read_body(request, self._limits[model.name].maximum_bytes))
        listed, at = [parsed], None
        if isinstance(parsed, dict):
            at = parsed.pop("event_timestamp", None)
            if "rows" in parsed:
                if extra := sorted(parsed.keys() - {"rows"}):
                    raise InvalidRequestError([Problem(None, extra[0], None, "rows and event_timestamp, and no more")])
                listed = parsed["rows"]
        answers = await model.predict(self._checkers[model.name].rows(listed, at), client.name)
        _answered(request)
        return _json(
            {
                "model": model.name,
                "predictions": [
                    {
                        "prediction_id": one.prediction_id,
                        **one.outputs,
                        "version": one.version,
                        "variant": one.variant,
                    }
                    for one in answers
                ],
            }
        )

    async def infer(self, request: Request) -> Response:
        """Answer tensors."""
        from starlette.responses import Response

        model, client = self._asked(request, "v2")
        body = await read_body(request, self._limits[model.name].maximum_bytes)
        end = header_length(request, body)
        checker = self._checkers[model.name]
        inference = protocol_v2.read(checker, parsed_json(body[:end]), body[end:], model.outputs)
        pinned = replace(inference.rows, version=request.path_params.get("version"))
        answers = await model.predict(pinned, client.name)
        header, tail = protocol_v2.write(model.name, inference, answers)
        _answered(request)
        if not tail:
            return _json(header)
        content = _dumped(header)
        headers = {HEADER_LENGTH: str(len(content)), "content-type": "application/octet-stream"}
        return Response(content + tail, headers=headers)

    async def feedback(self, request: Request) -> Response:
        """Keep what became of a prediction: ``{"model": ..., "prediction_id": ..., "outcome": ...}``."""
        parsed = parsed_json(await read_body(request, _FEEDBACK_BYTES))
        names = {"model", "prediction_id", "outcome"}
        texts = ("model", "prediction_id")
        if (
            not isinstance(parsed, dict)
            or parsed.keys() != names
            or not all(isinstance(parsed[text], str) for text in texts)
        ):
            expected = "an object with model (text), prediction_id (text) and outcome"
            raise InvalidRequestError([Problem(None, None, None, expected)])
        if not isinstance(parsed["outcome"], str | int | float):
            raise InvalidRequestError([Problem(None, "outcome", None, "a number, text or a boolean")])
        model, client = self._asked(request, "feedback", parsed["model"])
        await model.feedback(parsed["prediction_id"], parsed["outcome"], client.name)
        return _json({"accepted": True}, 202)

    async def metrics(self, _: Request) -> Response:
        import prometheus_client
        from starlette.responses import Response

        return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    def _asked(self, request: Request, protocol: str, name: str = "") -> tuple[Served, Client]:
        """Return the model a request is for, and who asks, if there is room for one more request of theirs."""
        model = self._model(request, protocol, name)
        client = _client(request)
        rate = client.requests_per_second or self._limits[model.name].requests_per_second
        if (wait := self._rates.wait(client.name, model.name, rate)) > 0:
            headers = {"retry-after": str(math.ceil(wait))}
            raise RefusedError(429, "rate", f"{client.name} may ask {model.name} {rate:g} times a second", headers)
        return model, client

    def _model(self, request: Request, protocol: str, name: str = "") -> Served:
        name = name or request.path_params["name"]
        client, model = _client(request), self._host.models.get(name)
        if model is not None and not client.may_ask(name):
            raise RefusedError(403, "forbidden", f"{client.name} may not ask {name}")
        if model is None:
            there = ", ".join(one for one in self._host.models if client.may_ask(one)) or "none"
            raise RefusedError(404, "no_model", f"there is no model {name[:80]!r}; there is {there}")
        request.scope["state"] |= {"model": name, "protocol": protocol}
        version = request.path_params.get("version")
        if version is not None and version not in model.versions:
            raise VersionAwayError(name, version, model.versions)
        return model


def _client(request: Request) -> Client:
    client: Client = request.scope["state"]["client"]
    return client


def _error(
    request: Request,
    status: int,
    why: str,
    headers: Mapping[str, str] | None = None,
    problems: list[dict[str, Any]] | None = None,
) -> Response:
    """Return an error; the log gets its sentence, and none of the values that the problems show."""
    state = request.scope["state"]
    state["why"] = why
    return _json(error_fields(why, state["request_id"], problems), status, headers)


def _answered(request: Request) -> None:
    state = request.scope["state"]
    SECONDS.labels(state["model"], state["protocol"]).observe(time.perf_counter() - state["began"])


def _said(error: InvalidRequestError) -> str:
    first = error.problems[0]
    place = "" if first.row is None else f"row {first.row}, "
    more = f", and {len(error.problems) - 1} more" if len(error.problems) > 1 else ""
    return f"{place}{first.column or 'the body'}: expected {first.expected}{more}"


def _fields(problem: Problem) -> dict[str, Any]:
    return {
        "row": problem.row,
        "field": problem.column,
        "value": problem.value,
        "expected": problem.expected,
        "kind": problem.kind,
    }


def _dumped(content: Any) -> bytes:
    import orjson

    return orjson.dumps(content, default=str)


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    from starlette.responses import Response

    return Response(_dumped(content), status, headers, media_type="application/json")
