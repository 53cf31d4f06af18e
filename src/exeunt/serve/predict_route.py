"""`POST /predict`: images as files or in base64, texts as JSON."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from pydantic import BaseModel
from pydantic import Field as Described
from python_multipart import create_form_parser
from python_multipart.multipart import Field, File
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from exeunt.errors import InputError
from exeunt.serve import prediction
from exeunt.serve import request_bodies as bodies
from exeunt.serve.decoding import InputReader

_MOST_FIELDS = 16
router = APIRouter()


class PredictBody(prediction.Options):
    """Inputs of one kind, and how they are to be answered."""

    images: list[str | None] | None = Described(
        None, description="Encoded images (PNG, JPEG, ...) in base64."
    )
    texts: list[str | list[str] | None] | None = Described(
        None, description="Texts, or for pairs of texts lists of two."
    )


class Answers(BaseModel):
    """An answer per input, in order, and the unit of their costs."""

    answers: list[prediction.Answer]
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
    },
}


@router.post("/predict", response_model=Answers, openapi_extra={"requestBody": _BODY}, tags=["predict"])
async def predict(request: Request, options: Annotated[prediction.Options, Query()]) -> Response:
    """Answer inputs: one or many images (JSON in base64, or files), or texts (JSON).

    Options in the query hold unless the body says otherwise.
    """
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind not in _READ:
        raise HTTPException(415, f"send {', '.join(_READ)}; got {kind or 'no content-type'}")
    response = await prediction.predicted(request, partial(_READ[kind], await request.body(), given, options))
    body = await prediction.in_thread_if_large(_json, len(response.columns["label"]), response)
    return Response(body, media_type="application/json")


# -- reading requests, in a decoding thread ---------------------------------------------------------------


def _read_form(
    body: bytes, content_type: str, options: prediction.Options, reader: InputReader
) -> prediction.PredictRequest:
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
    return prediction.PredictRequest(reader.images(files), _with(options, fields))


def _read_json(
    body: bytes, _: str, options: prediction.Options, reader: InputReader
) -> prediction.PredictRequest:
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
    return prediction.PredictRequest(rows, _with(options, further))


def _with(options: prediction.Options, further: dict[str, Any]) -> prediction.Options:
    return prediction.Options.model_validate(options.model_dump(exclude_unset=True) | further)


_READ = {"application/json": _read_json, "multipart/form-data": _read_form}


# -- writing responses ------------------------------------------------------------------------------------


def _json(response: prediction.PredictResponse) -> bytes:
    names = list(response.columns)
    rows = zip(*(column.tolist() for column in response.columns.values()), strict=True)
    answers = [dict(zip(names, row, strict=True)) for row in rows]
    return msgspec.json.encode({"answers": answers, "unit": response.unit})
