"""`POST /predict`: images as files or in base64, texts as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec
from pydantic import Field as Described
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from exeunt.errors import InputError
from exeunt.serve import request_bodies as bodies
from exeunt.serve.error_answers import problems
from exeunt.serve.input_reader import InputReader
from exeunt.serve.prediction import Answer, Options, PredictRequest, PredictResponse, options_of

_MOST_FIELDS = 16
_JSON: Final = "application/json"


class PredictBody(Options):
    """Inputs of one kind, and how they are to be answered."""

    images: list[str | None] | None = Described(
        None, description="Encoded images (PNG, JPEG, ...) in base64."
    )
    texts: list[str | list[str] | None] | None = Described(
        None, description="Texts, or for pairs of texts lists of two."
    )


class Answers(msgspec.Struct):
    """An answer per input, in order, and the unit of their costs."""

    answers: list[Answer]
    unit: str


class Predict:
    """Answers inputs: one or many images (JSON in base64, or files), or texts (JSON).

    Options in the query hold unless the body says otherwise. Raises HTTPException 415 for other types.
    """

    def __init__(self, _: Any, headers: Mapping[bytes, bytes], query: bytes, body: bytes) -> None:
        self._type = headers.get(b"content-type", b"").decode("latin-1")
        kind = self._type.partition(";")[0].strip().lower()
        if kind not in _READ:
            raise HTTPException(415, f"send {', '.join(_READ)}; got {kind or 'no content-type'}")
        self._read, self._query, self._body = _READ[kind], query, body

    def __call__(self, reader: InputReader) -> PredictRequest:
        """Read the inputs."""
        options = _in_query(self._query) if self._query else {}
        return self._read(self._body, self._type, options, reader)

    def written(self, response: PredictResponse) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Return the answers as JSON."""
        body = msgspec.json.encode(Answers(response.answers, response.unit))  # type: ignore[arg-type]
        return body, [(b"content-type", _JSON.encode())]


# -- reading ----------------------------------------------------------------------------------------------


def _in_query(query: bytes) -> dict[str, Any]:
    parameters = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    try:
        return Options.model_validate(parameters).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise InputError(problems(error, "the query")) from None


def _read_form(
    body: bytes, content_type: str, options: dict[str, Any], reader: InputReader
) -> PredictRequest:
    """Read the files of a form, in order; its other fields are options."""
    files: list[bytes] = []
    fields: dict[str, str] = {}
    read = 0
    for part in parts_of(body, content_type):
        if part.is_file:
            reader.check_count(len(files) + 1)  # here, because parsing a million parts takes long
            files.append(part.content)
            continue
        read += 1
        if read > _MOST_FIELDS:
            raise InputError(f"a form may have at most {_MOST_FIELDS} fields beside its files")
        fields[part.name] = part.content.decode(errors="replace")
    if "images" in fields:
        raise InputError("images are files, with curl -F images=@cat.jpg; the form's are a text")
    return PredictRequest(reader.images(files), options_of(options | fields))


def _read_json(body: bytes, _: str, options: dict[str, Any], reader: InputReader) -> PredictRequest:
    bodies.check_strings(body, reader.max_rows * reader.strings_each)
    parts = bodies.fields(body)
    images, texts = (parts.pop(name, bodies.NULL) for name in ("images", "texts"))
    if parts:
        further = PredictBody.model_validate_json(bodies.rest(parts)).model_dump(exclude_unset=True)
        options = options | further
    if bodies.is_null(images) == bodies.is_null(texts):
        raise InputError('give either "images", a list of images in base64, or "texts", a list of texts')
    if bodies.is_null(images):
        width = None if reader.strings_each == 1 else reader.strings_each
        rows = reader.texts(bodies.strings(texts, width, name="texts"))
    else:
        rows = reader.images([bodies.from_base64(string) for string in bodies.strings(images, name="images")])
    return PredictRequest(rows, options_of(options))


_READ = {_JSON: _read_json, "multipart/form-data": _read_form}


_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s";]{1,70}))', re.IGNORECASE)
_PARAMETER = re.compile(rb';\s*([\w*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]*))')
_HEADERS = 8192
"""Bytes of the headers of a part at most."""
_AS_IT_IS = (b"", b"binary", b"8bit", b"7bit")


class Part(NamedTuple):
    """A part of a form. `is_file`: whether it has the name of a file."""

    name: str
    is_file: bool
    content: bytes


def parts_of(body: bytes, content_type: str) -> Iterator[Part]:
    """Yield the parts of a form. Raises InputError for what is none."""
    boundary = _BOUNDARY.search(content_type)
    if boundary is None:
        raise InputError("the body is no form: its content-type names no boundary")
    line = b"\r\n--" + (boundary[1] or boundary[2]).encode("latin-1")
    position = len(line) - 2 if body.startswith(line[2:]) else _after(body, line, 0)
    while body[position : position + 2] != b"--":
        begin = body.find(b"\r\n", position) + 2  # padding may follow the boundary
        end = body.find(b"\r\n\r\n", begin - 2, begin + _HEADERS)
        if begin == 1 or body[position : begin - 2].strip(b" \t") or end < 0:
            raise InputError("the body is no form: a part has no headers, or too long ones")
        following = _after(body, line, end + 4)
        yield _part(body[begin:end], body[end + 4 : following - len(line)])
        position = following


def _after(body: bytes, line: bytes, start: int) -> int:
    """Return where the next boundary ends."""
    position = body.find(line, start)
    if position < 0:
        raise InputError("the form does not end: its last boundary is missing")
    return position + len(line)


def _part(headers: bytes, content: bytes) -> Part:
    disposition = encoding = b""
    for header in headers.split(b"\r\n"):
        name, _, text = header.partition(b":")
        name = name.strip().lower()
        if name == b"content-disposition":
            disposition = text
        elif name == b"content-transfer-encoding":
            encoding = text.strip().lower()
    if encoding not in _AS_IT_IS:
        raise InputError(f"a part of a form is sent as it is, not as {encoding.decode('latin-1')}")
    parameters = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(disposition)}
    if b"name" not in parameters:
        raise InputError("the body is no form: a part has no name")
    return Part(
        parameters[b"name"].decode(errors="replace"),
        b"filename" in parameters or b"filename*" in parameters,
        content,
    )
