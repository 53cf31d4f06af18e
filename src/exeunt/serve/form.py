"""Forms (multipart/form-data, RFC 7578) that have come in whole: their parts, one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from exeunt.errors import InputError

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
