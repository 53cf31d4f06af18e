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
from exeunt.serve.prediction import (
    Options,
    PredictRequest,
    PredictResponse,
    in_thread_if_large,
    predicted,
)
from exeunt.serve.routes import bodies

if TYPE_CHECKING:
    from python_multipart.multipart import Field, File

    from exeunt.serve.reading import InputReader


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


_FORM = {
    "type": "object",
    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
}
_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": PredictBody.model_json_schema()},
        "multipart/form-data": {"schema": _FORM},
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
    response = await predicted(request, partial(_READ[kind], await request.body(), given, options))
    write, kind = (_arrow, ARROW) if kind == ARROW else (_json, "application/json")
    body = await in_thread_if_large(write, len(response.columns["label"]), response)
    return Response(body, media_type=kind)


# -- reading requests, in a decoding thread ---------------------------------------------------------------


def _read_form(body: bytes, content_type: str, options: Options, reader: InputReader) -> PredictRequest:
    """Read the files of a form, in order; its other fields are options."""
    files: list[bytes] = []
    fields: dict[str, str] = {}
    read: list[str] = []
    ended: list[bool] = []

    def on_file(file: File) -> None:
        reader.check_count(len(files) + 1)  # here, because parsing a million parts takes long
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
    except ValueError as error:  # the parser's errors are ValueErrors
        raise InputError(f"the body is no form: {error}") from None
    if not ended:
        raise InputError("the form does not end: its last boundary is missing")
    if "images" in fields:
        raise InputError("images are files, with curl -F images=@cat.jpg; the form's are a text")
    return PredictRequest(reader.images(files), _with(options, fields))


def _read_json(body: bytes, _: str, options: Options, reader: InputReader) -> PredictRequest:
    bodies.check_strings(body, reader.max_rows * reader.strings_each)
    given = bodies.fields(body)
    images, texts = (given.pop(name, bodies.NULL) for name in ("images", "texts"))
    further = PredictBody.model_validate_json(bodies.rest(given)).model_dump(exclude_unset=True)
    if bodies.is_null(images) == bodies.is_null(texts):
        raise InputError('give either "images", a list of images in base64, or "texts", a list of texts')
    if bodies.is_null(images):
        width = None if reader.strings_each == 1 else reader.strings_each
        rows = reader.texts(bodies.strings(texts, width, name="texts"))
    else:
        rows = reader.images([bodies.from_base64(one) for one in bodies.strings(images, name="images")])
    return PredictRequest(rows, _with(options, further))


def _with(options: Options, further: dict[str, Any]) -> Options:
    return Options.model_validate(options.model_dump(exclude_unset=True) | further)


def _read_arrow(body: bytes, _: str, options: Options, reader: InputReader) -> PredictRequest:
    table = bodies.read_table(body)
    reader.check_count(table.num_rows)
    if any(table.column_names.count(name) > 1 for name in ("image", "text")):
        raise InputError(f"an Arrow stream must have one such column, got {', '.join(table.column_names)}")
    if "text" in table.column_names:
        kinds = (pa.string(), pa.large_string(), pa.list_(pa.string()))
        return PredictRequest(reader.texts(_cells(table, "text", kinds)), options)
    if "image" not in table.column_names:
        raise InputError(f"an Arrow stream needs a column image or text, got {', '.join(table.column_names)}")
    column = table.column("image")
    if isinstance(column.type, pa.FixedShapeTensorType):
        return PredictRequest(reader.images(_tensors(column)), options)
    return PredictRequest(reader.images(_cells(table, "image", (pa.binary(), pa.large_binary()))), options)


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


# -- writing responses ------------------------------------------------------------------------------------


def _json(response: PredictResponse) -> bytes:
    names = list(response.columns)
    rows = zip(*(column.tolist() for column in response.columns.values()), strict=True)
    answers = [dict(zip(names, row, strict=True)) for row in rows]
    return msgspec.json.encode({"answers": answers, "unit": response.unit})


def _arrow(response: PredictResponse) -> bytes:
    columns = {
        name: pa.array(column, type=pa.string() if column.dtype == object else None)
        for name, column in response.columns.items()
    }
    table = pa.table(columns).replace_schema_metadata({"unit": response.unit})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]
