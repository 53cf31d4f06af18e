"""The Open Inference Protocol, version 2, with tensors in JSON or binary: what clients of Triton and KServe speak."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from exeunt._version import __version__
from exeunt.errors import InputError
from exeunt.serve import request_bodies as bodies
from exeunt.serve.input_reader import InputReader, Rows
from exeunt.serve.prediction import (
    Options,
    PredictRequest,
    PredictResponse,
    answer_types,
    options_of,
)
from exeunt.serve.request_bodies import DATATYPES
from exeunt.serve.service import Service

_VERSION = "1"
_LONGEST_US = 10**12
_HEADER = "inference-header-content-length"
_SHORT = 1000
"""What was read from JSON of up to so many bytes is kept."""
_NAMES: Final = {np.dtype(kind): name for name, kind in DATATYPES.items()}

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])


class _Input(BaseModel):
    name: str
    shape: list[Annotated[int, Field(lt=2**63)]] = Field(max_length=4)
    datatype: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[Any] | None = None


class _Output(BaseModel):
    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferRequest(BaseModel):
    """A request for inference. `parameters` may hold `budget`, `tier`, `deadline_ms`; `timeout` is in microseconds."""

    id: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    inputs: list[_Input]
    outputs: list[_Output] | None = None


def check_model(service: Service, model: str, version: str) -> str:
    """Return the name of the model. Raises HTTPException 404 if an address names another model than the service's."""
    known = service.settings.model_name
    if (model, version) != (known, _VERSION):
        raise HTTPException(404, f"there is no such model here: there is {known}, version {_VERSION}")
    return known


def service_of(request: Request) -> Service:
    """Return the service. Raises HTTPException 404 if the path names another model than its own."""
    service: Service = request.app.state.service
    named = request.path_params
    check_model(service, named.get("model", service.settings.model_name), named.get("version", _VERSION))
    return service


@router.get("")
async def server() -> dict[str, Any]:
    """Name and version of the server."""
    return {"name": "exeunt", "version": __version__, "extensions": ["binary_tensor_data"]}


@router.get("/health/live")
async def live(request: Request) -> Response:
    """Whether the server works; 503 if it should be restarted. The body says how many of its workers answer."""
    return _health(service := service_of(request), service.alive)


@router.get("/health/ready")
@router.get("/models/{model}/ready")
@router.get("/models/{model}/versions/{version}/ready")
async def ready(request: Request) -> Response:
    """Whether requests are answered; 503 while the server drains. The body says how many of its workers answer."""
    return _health(service := service_of(request), service.ready)


def _health(service: Service, well: bool) -> Response:
    workers = {"answering": service.workers, "wanted": service.settings.workers}
    return JSONResponse({"workers": workers}, 200 if well else 503)


@router.get("/models/{model}")
@router.get("/models/{model}/versions/{version}")
async def metadata(request: Request) -> dict[str, Any]:
    """Inputs and outputs of the model."""
    service = service_of(request)
    reader = service.active.loaded.reader
    if reader.kind == "image":
        takes = {"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    else:
        pairs = [len(reader.text_columns)] if len(reader.text_columns) > 1 else []
        takes = {"name": "text", "datatype": "BYTES", "shape": [-1, *pairs]}
    gives = [
        {"name": name, "datatype": _NAMES[np.dtype(kind)], "shape": [-1]}
        for name, kind in answer_types(masks=reader.gives_masks).items()
    ]
    return {
        "name": service.settings.model_name,
        "versions": [_VERSION],
        "platform": "exeunt",
        "inputs": [takes],
        "outputs": gives,
    }


class Infer:
    """Answers the rows of one tensor.

    `image`: BYTES (n,), encoded; UINT8 pixels (n, h, w, 3); or FP32 (n, 3, h, w), prepared. `text`: BYTES (n,), or
    (n, 2) for pairs. In JSON, BYTES of images are base64.
    """

    def __init__(
        self,
        service: Service,
        headers: Mapping[bytes, bytes],
        _: bytes,
        body: bytes,
        model: str,
        version: str = _VERSION,
    ) -> None:
        self._model = check_model(service, model, version)
        length = headers.get(_HEADER.encode())
        if length is not None and not re.fullmatch(b"[0-9]{1,30}", length):
            raise HTTPException(400, f"{_HEADER} must be a number of bytes, got {length.decode('latin-1')!r}")
        self._body, self._header = body, len(body) if length is None else int(length)

    def __call__(self, reader: InputReader) -> PredictRequest:
        """Read the tensor."""
        head, rest = self._body[: self._header], memoryview(self._body)[self._header :]
        read = _known_head if rest and len(head) <= _SHORT else _head
        self._request, data = read(head, reader.max_rows * reader.strings_each)
        request = self._request
        names = [output.name for output in request.outputs or []]
        self._types = answer_types(masks=reader.gives_masks)
        if unknown := [name for name in names if name not in self._types]:
            raise InputError(f"there is no output {unknown[0]!r}: choose of {', '.join(self._types)}")
        if len(names) > len(set(names)):
            raise InputError("an output may be asked for once")
        return PredictRequest(_rows(request.inputs[0], data, rest, reader), _options(request.parameters))

    def written(self, response: PredictResponse) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Return the outputs that were asked for, as JSON or in binary."""
        request = self._request
        every = bool(request.parameters.get("binary_data_output"))
        wanted = [_Output(name=name) for name in self._types] if request.outputs is None else request.outputs
        outputs, binary = [], []
        for output_name in wanted:
            kind, values = (
                self._types[output_name.name],
                [getattr(answer, output_name.name) for answer in response.answers],
            )
            output: dict[str, Any] = {
                "name": output_name.name,
                "datatype": _NAMES[np.dtype(kind)],
                "shape": [len(values)],
            }
            if output_name.parameters.get("binary_data", every):
                binary.append(bodies.tensor_bytes(np.array(values, dtype=kind)))
                output["parameters"] = {"binary_data_size": len(binary[-1])}
            else:
                output["data"] = [text or "" for text in values] if kind is np.object_ else values
            outputs.append(output)
        body: dict[str, Any] = {"model_name": self._model, "model_version": _VERSION, "outputs": outputs}
        body["parameters"] = {"unit": response.unit}
        if request.id is not None:
            body["id"] = request.id
        head = msgspec.json.encode(body)
        if not binary:
            return head, [(b"content-type", b"application/json")]
        headers = [(b"content-type", b"application/octet-stream"), (_HEADER.encode(), b"%d" % len(head))]
        return b"".join([head, *binary]), headers


def _head(head: bytes, max_strings: int) -> tuple[InferRequest, msgspec.Raw]:
    """Return the JSON of a request that holds so many strings at most, and apart from it the values of its tensor."""
    bodies.check_strings(head, max_strings)
    fields = bodies.fields(head)
    # A tuple, so that decoding ends at a second input: a million of them would fill the memory.
    parts = bodies.decoded(fields.pop("inputs", b"[]"), tuple[dict[str, msgspec.Raw]], "give one input")
    data = parts[0].pop("data", bodies.NULL)
    return InferRequest.model_validate_json(bodies.rest({**fields, "inputs": parts})), data


_known_head = lru_cache(maxsize=64)(_head)
"""`_head`, which keeps what it read: clients that send tensors in binary repeat their JSON, unless they give ids."""


def _options(parameters: dict[str, Any]) -> Options:
    wanted = {name: parameters[name] for name in Options.model_fields if name in parameters}
    timeout = parameters.get("timeout")
    if type(timeout) is int and timeout > 0 and "deadline_ms" not in wanted:
        wanted["deadline_ms"] = min(timeout, _LONGEST_US) / 1e3
    return options_of(wanted)


def _rows(tensor: _Input, data: msgspec.Raw, rest: memoryview, reader: InputReader) -> Rows:
    shape, kind = tensor.shape, tensor.datatype
    if tensor.name != reader.kind:
        raise InputError(f"the input is called {reader.kind!r}, got {tensor.name!r}")
    if kind not in DATATYPES or not shape or min(shape) < 0 or 0 in shape[1:]:
        raise InputError(
            f"an input must be of type {', '.join(DATATYPES)} and have a shape, got {kind} {shape}"
        )
    reader.check_tensor(kind, shape)
    size = tensor.parameters.get("binary_data_size")
    binary = size is not None
    if binary and size != len(rest):
        raise InputError(f"the input has {size} bytes, and {len(rest)} came behind the JSON")
    decode: Any = bodies.tensor_from_bytes if binary else bodies.tensor_from_json
    values = decode(rest if binary else data, shape, kind)
    if kind == "FP32":
        return reader.prepared(values)
    if kind == "UINT8":
        return reader.pixels(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if reader.kind == "text":
        return reader.texts(np.vectorize(_text, otypes=[object])(values).tolist())
    elements = values.tolist()
    return reader.images(elements if binary else [bodies.from_base64(element) for element in elements])


def _text(element: Any) -> Any:
    """Return bytes as the text that they encode; anything else stays as it is, and becomes an error of its row."""
    try:
        return element.decode() if isinstance(element, bytes) else element
    except UnicodeDecodeError:
        return element
