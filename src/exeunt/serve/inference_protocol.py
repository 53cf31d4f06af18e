"""The Open Inference Protocol, version 2, with tensors in JSON or binary: what clients of Triton and KServe speak."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from exeunt._version import __version__
from exeunt.errors import InputError
from exeunt.serve import json_parts
from exeunt.serve.answering import ANSWER_TYPES, Answered, Asked, Options, called
from exeunt.serve.disconnecting import unless_it_leaves
from exeunt.serve.tensors import DATATYPES, from_bytes, from_json, to_bytes

if TYPE_CHECKING:
    from exeunt.serve.input_reading import InputReader, Rows
    from exeunt.serve.service import Service

__all__ = ["router"]

_VERSION = "1"
_LONGEST_US = 10**12
_HEADER = "inference-header-content-length"
_NAMES: Final = {np.dtype(kind): name for name, kind in DATATYPES.items()}

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


class _Parts(msgspec.Struct):
    """An input, not decoded."""

    name: msgspec.Raw
    shape: msgspec.Raw
    datatype: msgspec.Raw
    parameters: msgspec.Raw = msgspec.Raw(b"{}")
    data: msgspec.Raw = json_parts.NULL


class _Input(BaseModel):
    name: str
    shape: list[Annotated[int, Field(lt=2**63)]] = Field(max_length=4)
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Output(BaseModel):
    name: str
    parameters: dict[str, Any] = {}


class InferRequest(BaseModel):
    """A request for inference. `parameters` may hold `budget`, `tier`, `deadline_ms`; `timeout` is in microseconds."""

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[_Input]
    outputs: list[_Output] | None = None


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _model(request: Request) -> Service:
    """Return the service, if the path names its model. Raises HTTPException 404 otherwise."""
    service = _service(request)
    name, version = request.path_params["model"], request.path_params.get("version", _VERSION)
    if name != service.settings.model_name or version != _VERSION:
        known = f"{service.settings.model_name}, version {_VERSION}"
        raise HTTPException(404, f"there is no such model here: there is {known}")
    return service


@router.get("")
async def server() -> dict[str, Any]:
    """Name and version of the server."""
    return {"name": "exeunt", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live")
async def live(request: Request) -> Response:
    """Whether the server works; 503 if it should be started anew."""
    return Response(status_code=200 if _service(request).alive else 503)


@router.get("/health/ready")
async def ready(request: Request) -> Response:
    """Whether requests are answered; 503 while it drains."""
    return Response(status_code=200 if _service(request).ready else 503)


@router.get("/models/{model}/ready")
@router.get("/models/{model}/versions/{version}/ready")
async def model_ready(request: Request) -> Response:
    """Whether the model answers."""
    return Response(status_code=200 if _model(request).ready else 503)


@router.get("/models/{model}")
@router.get("/models/{model}/versions/{version}")
async def metadata(request: Request) -> dict[str, Any]:
    """What the model takes and gives."""
    service = _model(request)
    reader = service.opened.reader
    if reader.kind == "image":
        takes = {"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    else:
        pairs = [len(reader.text_columns)] if len(reader.text_columns) > 1 else []
        takes = {"name": "text", "datatype": "BYTES", "shape": [-1, *pairs]}
    gives = [
        {"name": name, "datatype": _NAMES[np.dtype(kind)], "shape": [-1]}
        for name, kind in ANSWER_TYPES.items()
    ]
    return {
        "name": service.settings.model_name,
        "versions": [_VERSION],
        "platform": "exeunt",
        "inputs": [takes],
        "outputs": gives,
    }


def _inlined(schema: Any, parts: dict[str, Any]) -> Any:
    """Return a schema with its parts in their places: in /openapi.json references would lead nowhere."""
    if isinstance(schema, list):
        return [_inlined(one, parts) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(parts[schema["$ref"].removeprefix("#/$defs/")], parts)
    return {name: _inlined(value, parts) for name, value in schema.items() if name != "$defs"}


_SCHEMA = InferRequest.model_json_schema()
_BODY = {
    "required": True,
    "content": {"application/json": {"schema": _inlined(_SCHEMA, _SCHEMA["$defs"])}},
}


@router.post("/models/{model}/infer", openapi_extra={"requestBody": _BODY})
@router.post("/models/{model}/versions/{version}/infer", openapi_extra={"requestBody": _BODY})
async def infer(request: Request) -> Response:
    """Answer the rows of one tensor.

    `image`: BYTES (n,), encoded; UINT8 pixels (n, h, w, 3); or FP32 (n, 3, h, w), prepared. `text`: BYTES (n,), or
    (n, 2) for pairs. In JSON, BYTES of images are base64.
    """
    service = _model(request)
    length = request.headers.get(_HEADER)
    if length is not None and not re.fullmatch("[0-9]{1,30}", length):
        raise HTTPException(400, f"{_HEADER} must be a number of bytes, got {length!r}")
    reading = _Reading(await request.body(), None if length is None else int(length))
    times = request.state.begun, request.state.read
    answered = await unless_it_leaves(request, service.answer(reading, *times))
    given = reading.request, answered, service.settings.model_name
    return await called(_response, len(answered.columns["label"]), *given)


class _Reading:
    """Reads a request in a thread of the decoders. `request`: its JSON, once it was called."""

    request: InferRequest

    def __init__(self, body: bytes, header: int | None) -> None:
        self._body, self._header = body, header

    def __call__(self, reader: InputReader) -> Asked:
        body, end = memoryview(self._body), len(self._body) if self._header is None else self._header
        head = body[:end]
        json_parts.check_strings(head, reader.max_rows * reader.strings_each)
        fields = json_parts.fields(head)
        parts = json_parts.decoded(fields.pop("inputs", b"[]"), list[_Parts], "inputs")
        if len(parts) != 1:
            raise InputError(f"give one input, {reader.kind!r}; got {len(parts)}")
        data, parts[0].data = parts[0].data, json_parts.NULL
        self.request = given = InferRequest.model_validate_json(json_parts.rest({**fields, "inputs": parts}))
        unknown = [one.name for one in given.outputs or [] if one.name not in ANSWER_TYPES]
        if unknown:
            raise InputError(f"there is no output {unknown[0]!r}: choose of {', '.join(ANSWER_TYPES)}")
        if len(given.outputs or []) > len({one.name for one in given.outputs or []}):
            raise InputError("an output may be asked for once")
        return Asked(_rows(given.inputs[0], data, body[end:], reader), _options(given.parameters))


def _options(parameters: dict[str, Any]) -> Options:
    asked = {name: parameters[name] for name in Options.model_fields if name in parameters}
    timeout = parameters.get("timeout")
    if type(timeout) is int and timeout > 0 and "deadline_ms" not in asked:
        asked["deadline_ms"] = min(timeout, _LONGEST_US) / 1e3
    return Options.model_validate(asked)


def _rows(given: _Input, data: msgspec.Raw, rest: memoryview, reader: InputReader) -> Rows:
    shape, kind = given.shape, given.datatype
    if given.name != reader.kind:
        raise InputError(f"the input is called {reader.kind!r}, got {given.name!r}")
    if kind not in DATATYPES or not shape or min(shape) < 0 or 0 in shape[1:]:
        raise InputError(
            f"an input must be of type {', '.join(DATATYPES)} and have a shape, got {kind} {shape}"
        )
    reader.check_tensor(kind, shape)
    size = given.parameters.get("binary_data_size")
    binary = size is not None
    if binary and size != len(rest):
        raise InputError(f"the input has {size} bytes, and {len(rest)} came behind the JSON")
    values = from_bytes(rest, shape, kind) if binary else from_json(data, shape, kind)
    if kind == "FP32":
        return reader.prepared(values)
    if kind == "UINT8":
        return reader.images(list(values))
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    elements = values.tolist()
    if reader.kind == "text":
        return reader.texts(_each(_text, elements))
    return reader.images(elements if binary else [json_parts.from_base64(one) for one in elements])


def _each(function: Any, values: list[Any]) -> list[Any]:
    return [_each(function, one) if isinstance(one, list) else function(one) for one in values]


def _text(value: Any) -> Any:
    """Return bytes as the text they are; what is none stays as it is, and its row says so."""
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return value


def _response(request: InferRequest, answered: Answered, model: str) -> Response:
    every = bool(request.parameters.get("binary_data_output"))
    names = list(ANSWER_TYPES) if request.outputs is None else [one.name for one in request.outputs]
    asked = {} if request.outputs is None else {one.name: one.parameters for one in request.outputs}
    outputs, binary = [], []
    for name in names:
        values = answered.columns[name]
        output: dict[str, Any] = {"name": name, "datatype": _NAMES[values.dtype], "shape": [len(values)]}
        if asked.get(name, {}).get("binary_data", every):
            binary.append(to_bytes(values))
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            output["data"] = _plain(values)
        outputs.append(output)
    body: dict[str, Any] = {"model_name": model, "model_version": _VERSION, "outputs": outputs}
    body["parameters"] = {"unit": answered.unit}
    if request.id is not None:
        body["id"] = request.id
    head = msgspec.json.encode(body)
    if not binary:
        return Response(head, media_type="application/json")
    headers = {"inference-header-content-length": str(len(head))}
    return Response(b"".join([head, *binary]), headers=headers, media_type="application/octet-stream")


def _plain(values: NDArray[Any]) -> list[Any]:
    plain: list[Any] = values.tolist()
    return [value or "" for value in plain] if values.dtype == object else plain
