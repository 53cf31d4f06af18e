"""JSON bodies, taken apart before objects are made of them: a few bytes of JSON may become a hundred in memory.

What a request has many of, strings and numbers, is decoded by its type alone, and only as many as there may be.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec

from exeunt.errors import InputError

__all__ = [
    "NULL",
    "check_strings",
    "decoded",
    "fields",
    "from_base64",
    "is_null",
    "numbers",
    "rest",
    "strings",
]

NULL = msgspec.Raw(b"null")
_REST = 100_000
"""Bytes of what is decoded whatever it holds."""
_FEW = 1000
"""Strings of a body beside its inputs."""
_MANY = 200_000
"""Elements of which each is decoded by itself, if some are of a wrong type."""


def check_strings(body: bytes | memoryview, most: int) -> None:
    """Raise InputError if a body holds many more strings than `most`. They are counted by their quotes."""
    text = bytes(body)
    if text.count(b'"') - text.count(b'\\"') > 2 * (most + _FEW):
        raise InputError(f"the JSON holds more than {most:,} strings: send fewer inputs at a time")


def decoded(part: Any, kind: Any, name: str = "the body") -> Any:
    """Return JSON as a type. Raises InputError, with the name, where it is another."""
    try:
        return msgspec.json.decode(part, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{name}: {error}") from None


def fields(body: bytes | memoryview) -> dict[str, msgspec.Raw]:
    """Return the fields of an object, not decoded."""
    return decoded(body, dict[str, msgspec.Raw])  # type: ignore[no-any-return]


def rest(left: Mapping[str, Any]) -> bytes:
    """Return JSON of the fields that are left once the large ones are taken out. Raises InputError if it is large."""
    body = msgspec.json.encode(left)
    if len(body) > _REST:
        raise InputError(f"the fields beside the inputs may have at most {_REST:,} bytes, got {len(body):,}")
    return body


def is_null(part: msgspec.Raw) -> bool:
    """Whether a field is null."""
    return len(memoryview(part)) == len(b"null") and bytes(part) == b"null"


def strings(part: msgspec.Raw, width: int | None = None, *, name: str = "data") -> list[Any]:
    """Return a list of strings, or of tuples of so many; None for null, and for what is something else."""
    one: Any = str if width is None else tuple[(str,) * width]  # type: ignore[misc]
    try:
        return decoded(part, list[one | None], name)  # type: ignore[no-any-return]
    except InputError:
        if bytes(part).count(b",") >= _MANY:
            raise
    return [_or_none(element, one) for element in decoded(part, list[msgspec.Raw], name)]


def _or_none(element: msgspec.Raw, kind: Any) -> Any:
    try:
        return decoded(element, kind)
    except InputError:
        return None


def from_base64(text: str | None) -> bytes | None:
    """Return bytes that are sent in base64, also as a data URL or in lines; None for what is none."""
    if text is None:
        return None
    try:
        inner = text.partition(";base64,")[2] or text
        return base64.b64decode(inner.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError:
        return None


def numbers(part: msgspec.Raw, count: int, kind: type) -> list[Any]:
    """Return so many numbers in one list, however they are nested. Raises InputError for another number of them."""
    flat = bytes(part).translate(None, b"[]")
    found = flat.count(b",") + bool(flat.strip())
    if found != count:
        raise InputError(f"{count:,} numbers are wanted, got {found:,}")
    return decoded(b"[%b]" % flat, list[kind], "data")  # type: ignore[no-any-return, valid-type]
