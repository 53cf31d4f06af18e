"""The OpenAPI description: what the framework says of its own routes, and the addresses in front of it."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from exeunt.serve.inference_protocol import Infer, InferRequest
from exeunt.serve.predict_route import Answers, Predict, PredictBody
from exeunt.serve.prediction import Options

_FORM = {
    "type": "object",
    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the description of an application and of the addresses that take inputs."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        for path in ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer"):
            schema["paths"][path] = {"post": _infer(path)}
        app.openapi_schema = schema | {"paths": {"/predict": {"post": _predict()}, **schema["paths"]}}
    return app.openapi_schema


def _predict() -> dict[str, Any]:
    query = [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in Options.model_json_schema()["properties"].items()
    ]
    bodies = {
        "application/json": {"schema": _inlined(PredictBody.model_json_schema())},
        "multipart/form-data": {"schema": _FORM},
    }
    answers = {"application/json": {"schema": _inlined(msgspec.json.schema(Answers))}}
    return _operation("predict", Predict, bodies, query, answers)


def _infer(path: str) -> dict[str, Any]:
    parts = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("model", "version")
        if f"{{{name}}}" in path
    ]
    bodies = {"application/json": {"schema": _inlined(InferRequest.model_json_schema())}}
    return _operation("Open Inference Protocol", Infer, bodies, parts, {"application/json": {}})


def _operation(tag: str, route: type, bodies: Any, parameters: Any, answers: Any) -> dict[str, Any]:
    return {
        "tags": [tag],
        "summary": route.__name__,
        "description": route.__doc__,
        "parameters": parameters,
        "requestBody": {"required": True, "content": bodies},
        "responses": {"200": {"description": "The answers", "content": answers}},
    }


def _inlined(schema: Any, parts: dict[str, Any] | None = None) -> Any:
    """Return a schema with its parts in their places: in /openapi.json, references would lead nowhere."""
    if isinstance(schema, list):
        return [_inlined(element, parts) for element in schema]
    if not isinstance(schema, dict):
        return schema
    parts = schema.get("$defs", {}) if parts is None else parts
    if "$ref" in schema:
        return _inlined(parts[schema["$ref"].removeprefix("#/$defs/")], parts)
    return {name: _inlined(element, parts) for name, element in schema.items() if name != "$defs"}
