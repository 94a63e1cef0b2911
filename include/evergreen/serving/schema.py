"""The server's own description: an OpenAPI document made of the models' columns, and a page that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evergreen.serving.answers import Served
from evergreen.serving.host import Host
from evergreen.serving.protocol_v2 import TEXTS
from evergreen.spec.serving import Serving

if TYPE_CHECKING:
    from fastapi import FastAPI

_TYPES: Mapping[str, dict[str, Any]] = {
    "number": {"type": "number", "nullable": True, "description": "null where it is not known"},
    "category": {
        "anyOf": [{"type": "string"}, {"type": "number"}, {"type": "boolean"}],
        "nullable": True,
        "description": "null where it is not known; one that training has not seen counts so too",
    },
    "string": {"type": "string", "description": "features are looked up by it"},
    "integer": {"type": "integer", "format": "int64", "description": "features are looked up by it"},
}
_EXAMPLES: Mapping[str, Any] = {"number": 1.5, "category": "a", "string": "a", "integer": 1}
_ERROR = {
    "type": "object",
    "required": ["error", "request_id"],
    "properties": {
        "error": {"type": "string"},
        "request_id": {"type": "string"},
        "problems": {"type": "array", "items": {"type": "object"}},
    },
}
_MEANINGS = {
    "400": "The body is no JSON.",
    "401": "No token, or none that is known.",
    "403": "This client may not ask this model.",
    "404": "There is no such model, or version.",
    "408": "The body did not arrive in time.",
    "413": "Too long, too deep, or too many rows.",
    "415": "Not JSON.",
    "422": "What is asked is not what the model takes, or its features are missing or too old.",
    "429": "More requests a second than this client has.",
    "503": "No room now, or nothing to answer with: come again after the seconds of Retry-After.",
}


def describe_api(app: FastAPI, host: Host, limits: Mapping[str, Serving]) -> dict[str, Any]:
    """Return the OpenAPI document, as the models are now."""
    paths: dict[str, Any] = {
        "/v2/health/live": _open(_get("Whether the server runs", "200")),
        "/v2/health/ready": _open(_get("Whether a model can be asked", "200", "503")),
        "/v2": _get("What the server is", "200", "401"),
        "/metrics": _get("Figures for Prometheus", "200", "401", kind="text/plain"),
        "/feedback": {"post": _post("What became of a prediction", _feedback(host), {"type": "object"}, "202")},
    }
    for name, model in host.models.items():
        described, answered = _rows(model, limits[name].maximum_rows), _predictions(model)
        paths[f"/models/{name}/predict"] = {"post": _post(f"Ask {name}", described, answered)}
        for path, said in ((f"/v2/models/{name}", name), (f"/v2/models/{name}/versions/{{version}}", "one version")):
            found = {
                path: _get(f"The tensors of {said}", *("200", "401", "403", "404")),
                f"{path}/ready": _get(f"Whether {said} can be asked", *("200", "401", "403", "404", "503")),
                f"{path}/infer": {"post": _post(f"Ask {said} with tensors", _tensors(model), {"type": "object"})},
            }
            paths |= {one: _of_version(at, model) for one, at in found.items()} if said != name else found
    scheme = {"type": "http", "scheme": "bearer"}
    return {
        "openapi": app.openapi_version,
        "info": {"title": app.title, "version": app.version, "description": app.description},
        "paths": paths,
        "components": {"securitySchemes": {"token": scheme}},
        "security": [{"token": []}],
    }


def documentation(app: FastAPI) -> None:
    """Add ``/docs``, which needs nothing of the internet: its scripts come from a package."""
    from fastapi.openapi.docs import get_swagger_ui_html
    from starlette.responses import HTMLResponse
    from starlette.staticfiles import StaticFiles
    from swagger_ui_bundle import swagger_ui_path  # type: ignore[import-untyped]

    app.mount("/docs/assets", StaticFiles(directory=swagger_ui_path))

    async def page() -> HTMLResponse:
        shown = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url="/docs/assets/swagger-ui-bundle.js",
            swagger_css_url="/docs/assets/swagger-ui.css",
            swagger_favicon_url="data:,",
        )
        html = bytes(shown.body).decode()
        start, end = html.rindex("<script>"), html.rindex("</script>")
        app.state.start = html[start + len("<script>") : end]
        # no script within the page, so that none that somebody brought in would run
        return HTMLResponse(f'{html[:start]}<script src="/docs/start.js">{html[end:]}')

    async def start() -> Any:
        from starlette.responses import Response

        await page()
        return Response(app.state.start, media_type="text/javascript")

    app.add_api_route("/docs", page, include_in_schema=False, response_model=None)
    app.add_api_route("/docs/start.js", start, include_in_schema=False, response_model=None)


def _get(summary: str, *statuses: str, kind: str = "application/json") -> dict[str, Any]:
    content = {"schema": {"type": "string" if kind == "text/plain" else "object"}}
    responses = {
        status: _response(status, {"schema": _ERROR})
        if status in {"401", "403", "404"}
        else _response(status, content, kind)
        for status in statuses
    }
    return {"get": {"summary": summary, "responses": responses}}


def _open(path: dict[str, Any]) -> dict[str, Any]:
    """Return a path that anybody may ask."""
    return {method: {**operation, "security": []} for method, operation in path.items()}


def _of_version(path: dict[str, Any], model: Served) -> dict[str, Any]:
    """Return a path that names one of the versions that answer now."""
    version = {"type": "string", "enum": list(model.versions)} if model.versions else {"type": "string"}
    return {**path, "parameters": [{"name": "version", "in": "path", "required": True, "schema": version}]}


def _post(summary: str, body: dict[str, Any], answer: dict[str, Any], good: str = "200") -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            good: _response(good, {"schema": answer}),
            **{status: _response(status, {"schema": _ERROR}) for status in _MEANINGS},
        },
    }


def _response(status: str, content: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"description": _MEANINGS.get(status, "As asked."), "content": {kind: content}}


def _rows(model: Served, most: int) -> dict[str, Any]:
    moment = {
        "type": "string",
        "format": "date-time",
        "nullable": True,
        "description": "when the rows' events are; left out, it is now",
    }
    row = _object({column.name: _TYPES[column.kind] for column in model.columns})
    # no maxItems: more rows are not wrong, they are too many at once (413)
    listed = {"rows": {"type": "array", "minItems": 1, "items": row, "description": f"at most {most:,} at once"}}
    one = {**row, "properties": {**row["properties"], "event_timestamp": moment}}
    several = {**_object(listed), "properties": {**listed, "event_timestamp": moment}}
    return {"anyOf": [one, several], "example": {column.name: _EXAMPLES[column.kind] for column in model.columns}}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(properties),
        "properties": dict(properties),
        "additionalProperties": False,
    }


def _predictions(model: Served) -> dict[str, Any]:
    fields = {
        **{output: {"type": "number"} for output in model.outputs},
        **{text: {"type": "string"} for text in TEXTS},
    }
    return _object({"model": {"type": "string"}, "predictions": {"type": "array", "items": _object(fields)}})


def _tensors(model: Served) -> dict[str, Any]:
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype"],
        "properties": {
            "name": {"type": "string", "enum": [column.name for column in model.columns]},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
            "datatype": {"type": "string"},
            "data": {"type": "array", "items": {}},
        },
    }
    return {
        "type": "object",
        "required": ["inputs"],
        "properties": {"id": {"type": "string"}, "inputs": {"type": "array", "items": tensor}},
    }


def _feedback(host: Host) -> dict[str, Any]:
    outcome = {"anyOf": [{"type": "number"}, {"type": "string"}, {"type": "boolean"}]}
    return _object(
        {
            "model": {"type": "string", "enum": list(host.models)},
            "prediction_id": {"type": "string"},
            "outcome": outcome,
        }
    )
