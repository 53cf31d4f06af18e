"""`POST /predict`: images as files or in base64, texts as JSON, or a whole batch as an Arrow stream."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import pyarrow as pa
from fastapi import APIRouter, Query
from pydantic import BaseModel
from pydantic import Field as Described
from python_multipart import create_form_parser
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from exeunt.errors import InputError
from exeunt.serve import json_parts
from exeunt.serve.answering import Answered, Asked, Options, called
from exeunt.serve.arrow_stream import read_table
from exeunt.serve.disconnecting import unless_it_leaves

if TYPE_CHECKING:
    from python_multipart.multipart import Field, File

    from exeunt.serve.input_reading import InputReader
    from exeunt.serve.service import Service

__all__ = ["ARROW", "router"]

ARROW = "application/vnd.apache.arrow.stream"
_MOST_FIELDS = 16
router = APIRouter()


class PredictBody(Options):
    """Inputs of one kind, and how they are to be answered."""

    images: list[str | None] | None = Described(
        None, description="Encoded images (PNG, JPEG, ...) in base64."
    )
    texts: list[str | list[str] | None] | None = Described(
        None, description="Texts, or for pairs of texts lists of two."
    )


class Answer(BaseModel):
    """The answer to one input. `error`: why there is none; its label and exit are then -1."""

    label: int
    class_name: str | None
    confidence: float
    exit: int
    cost: float
    policy: str | None
    degraded: bool
    expired: bool
    borderline: bool
    error: str | None


class Answers(BaseModel):
    """An answer per input, in order, and the unit of their costs."""

    answers: list[Answer]
    unit: str


_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": PredictBody.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        ARROW: {"schema": {"type": "string", "format": "binary"}},
    },
}


@router.post("/predict", response_model=Answers, openapi_extra={"requestBody": _BODY}, tags=["predict"])
async def predict(request: Request, options: Annotated[Options, Query()]) -> Response:
    """Answer inputs: one or many images (JSON in base64, or files), texts (JSON), or an Arrow stream.

    An Arrow stream has a column `image` (encoded, binary; or pixels, uint8 tensors (h, w, 3)) or `text`; its answers
    are an Arrow stream. Options in the query hold unless the JSON body says otherwise.
    """
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind not in _READ:
        raise HTTPException(415, f"send {', '.join(_READ)}; got {kind or 'no content-type'}")
    reading = partial(_READ[kind], await request.body(), given, options)
    service: Service = request.app.state.service
    times = request.state.begun, request.state.read
    answered = await unless_it_leaves(request, service.answer(reading, *times))
    write, kind = (_arrow, ARROW) if kind == ARROW else (_json, "application/json")
    return Response(await called(write, len(answered.columns["label"]), answered), media_type=kind)


# -- in a thread of the decoders --------------------------------------------------------------------------


def _read_form(body: bytes, content_type: str, options: Options, reader: InputReader) -> Asked:
    """Read the files of a form, in order; its other fields are options."""
    files: list[bytes] = []
    fields: dict[str, str] = {}
    read: list[str] = []
    ended: list[bool] = []

    def on_file(file: File) -> None:
        reader.check_count(len(files) + 1)  # here: to read a million parts takes long
        file.file_object.seek(0)
        files.append(file.file_object.read())

    def on_field(field: Field) -> None:
        read.append((field.field_name or b"").decode())
        fields[read[-1]] = (field.value or b"").decode()
        if len(read) > _MOST_FIELDS:
            raise InputError(f"a form may have at most {_MOST_FIELDS} fields beside its files")

    headers = {"Content-Type": content_type.encode("latin-1")}
    try:
        parser = create_form_parser(headers, on_field, on_file, {"MAX_MEMORY_FILE_SIZE": len(body)})
        parser.on_end = lambda: ended.append(True)
        parser.write(body)
        parser.finalize()
    except InputError:
        raise
    except ValueError as error:  # its own errors are such
        raise InputError(f"the body is no form: {error}") from None
    if not ended:
        raise InputError("the form does not end: its last boundary is missing")
    if "images" in fields:
        raise InputError("images are files, with curl -F images=@cat.jpg; the form's are a text")
    return Asked(reader.images(files), _with(options, fields))


def _read_json(body: bytes, _: str, options: Options, reader: InputReader) -> Asked:
    json_parts.check_strings(body, reader.max_rows * reader.strings_each)
    given = json_parts.fields(body)
    images, texts = (given.pop(name, json_parts.NULL) for name in ("images", "texts"))
    further = PredictBody.model_validate_json(json_parts.rest(given)).model_dump(exclude_unset=True)
    if json_parts.is_null(images) == json_parts.is_null(texts):
        raise InputError('give either "images", a list of images in base64, or "texts", a list of texts')
    if json_parts.is_null(images):
        width = None if reader.strings_each == 1 else reader.strings_each
        rows = reader.texts(json_parts.strings(texts, width, name="texts"))
    else:
        rows = reader.images(
            [json_parts.from_base64(one) for one in json_parts.strings(images, name="images")]
        )
    return Asked(rows, _with(options, further))


def _with(options: Options, further: dict[str, Any]) -> Options:
    return Options.model_validate(options.model_dump(exclude_unset=True) | further)


def _read_arrow(body: bytes, _: str, options: Options, reader: InputReader) -> Asked:
    table = read_table(body)
    reader.check_count(table.num_rows)
    if any(table.column_names.count(name) > 1 for name in ("image", "text")):
        raise InputError(f"an Arrow stream must have one such column, got {', '.join(table.column_names)}")
    if "text" in table.column_names:
        kinds = (pa.string(), pa.large_string(), pa.list_(pa.string()))
        return Asked(reader.texts(_cells(table, "text", kinds)), options)
    if "image" not in table.column_names:
        raise InputError(f"an Arrow stream needs a column image or text, got {', '.join(table.column_names)}")
    column = table.column("image")
    if isinstance(column.type, pa.FixedShapeTensorType):
        return Asked(reader.images(_tensors(column)), options)
    return Asked(reader.images(_cells(table, "image", (pa.binary(), pa.large_binary()))), options)


_READ = {"application/json": _read_json, "multipart/form-data": _read_form, ARROW: _read_arrow}


def _cells(table: Any, name: str, kinds: tuple[Any, ...]) -> list[Any]:
    column = table.column(name)
    if column.type not in kinds:
        raise InputError(
            f"the column {name} must be of type {' or '.join(map(str, kinds))}, got {column.type}"
        )
    cells: list[Any] = column.to_pylist()
    return cells


def _tensors(column: Any) -> list[Any]:
    """Return the tensors of a column; None for one that is null."""
    axes = column.type.permutation
    if column.type.value_type != pa.uint8() or axes not in (None, sorted(axes or [])):
        raise InputError(f"tensors must be of uint8, in the order of their axes, got {column.type}")
    tensors: list[Any] = []
    for chunk in column.chunks:
        there = chunk.drop_null()
        if there.storage.flatten().null_count:
            raise InputError("tensors must not hold nulls")
        dense = iter(there.to_numpy_ndarray() if len(there) else ())
        tensors += [next(dense) if valid else None for valid in chunk.is_valid().to_pylist()]
    return tensors


# -- answers ----------------------------------------------------------------------------------------------


def _json(answered: Answered) -> bytes:
    names = list(answered.columns)
    rows = zip(*(column.tolist() for column in answered.columns.values()), strict=True)
    answers = [dict(zip(names, row, strict=True)) for row in rows]
    return msgspec.json.encode({"answers": answers, "unit": answered.unit})


def _arrow(answered: Answered) -> bytes:
    columns = {
        name: pa.array(column, type=pa.string() if column.dtype == object else None)
        for name, column in answered.columns.items()
    }
    table = pa.table(columns).replace_schema_metadata({"unit": answered.unit})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
