"""Bodies of requests, decoded without far more memory than their bytes: JSON, base64, tensors.

A few bytes of JSON may become a hundred in memory. So the strings and numbers of a request, of which there are many,
are decoded by their type alone, and only as many as there may be.
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from exeunt.errors import InputError

NULL = msgspec.Raw(b"null")
_REST = 100_000
"""Bytes of a body beside its inputs, which are decoded whatever they hold."""
_FEW = 1000
"""Strings of a body beside its inputs."""
_MANY = 200_000
"""Up to this many elements, each is decoded by itself if some have a wrong type."""

# -- JSON -------------------------------------------------------------------------------------------------


def check_strings(body: bytes | memoryview, limit: int) -> None:
    """Raise InputError if a body holds many more strings than `limit`. They are counted by their quotes."""
    text = bytes(body)
    if text.count(b'"') - text.count(b'\\"') > 2 * (limit + _FEW):
        raise InputError(f"the JSON holds more than {limit:,} strings: send fewer inputs at a time")


def decoded(part: Any, kind: Any, name: str = "the body") -> Any:
    """Return JSON as a type. Raises InputError, with the name, if it is of another type."""
    try:
        return msgspec.json.decode(part, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{name}: {error}") from None


def fields(body: bytes | memoryview) -> dict[str, msgspec.Raw]:
    """Return the fields of an object, not decoded."""
    return decoded(body, dict[str, msgspec.Raw])  # type: ignore[no-any-return]


def rest(left: Mapping[str, Any]) -> bytes:
    """Return JSON of the fields that are left beside the inputs. Raises InputError if it is large."""
    body = msgspec.json.encode(left)
    if len(body) > _REST:
        raise InputError(f"the fields beside the inputs may have at most {_REST:,} bytes, got {len(body):,}")
    return body


def is_null(part: msgspec.Raw) -> bool:
    """Whether a field is null."""
    return len(memoryview(part)) == len(b"null") and bytes(part) == b"null"


def strings(part: msgspec.Raw, width: int | None = None, *, name: str = "data") -> list[Any]:
    """Return a list of strings, or of tuples of `width`; None for null and for anything else."""
    element_type: Any = str if width is None else tuple[(str,) * width]  # type: ignore[misc]
    try:
        return decoded(part, list[element_type | None], name)  # type: ignore[no-any-return]
    except InputError:
        if bytes(part).count(b",") >= _MANY:
            raise
    return [_or_none(element, element_type) for element in decoded(part, list[msgspec.Raw], name)]


def _or_none(element: msgspec.Raw, kind: Any) -> Any:
    try:
        return decoded(element, kind)
    except InputError:
        return None


def numbers(part: msgspec.Raw, count: int, kind: type) -> list[Any]:
    """Return so many numbers in one list, however they are nested. Raises InputError for another number of them."""
    flat = bytes(part).translate(None, b"[]")
    n = flat.count(b",") + bool(flat.strip())
    if n != count:
        raise InputError(f"{count:,} numbers are wanted, got {n:,}")
    return decoded(b"[%b]" % flat, list[kind], "data")  # type: ignore[no-any-return, valid-type]


def from_base64(text: str | None) -> bytes | None:
    """Return the bytes that a base64 text holds, also as a data URL or in lines; None for anything else."""
    if text is None:
        return None
    try:
        inner = text.partition(";base64,")[2] or text
        return base64.b64decode(inner.replace("\n", "").replace("\r", ""), validate=True)
    except ValueError:
        return None


# -- tensors of the Open Inference Protocol -----------------------------------------------------------------

_IN_JSON: Final[dict[str, type]] = {"b": bool, "u": int, "i": int, "f": float}
DATATYPES: Final[dict[str, Any]] = {
    "BYTES": np.dtype(object),
    "BOOL": np.dtype(bool),
    "UINT8": np.dtype("u1"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


def tensor_from_json(data: msgspec.Raw, shape: Sequence[int], datatype: str) -> NDArray[Any]:
    """Return a tensor from its values, nested or in one list. Raises InputError if they do not fit."""
    kind = DATATYPES[datatype]
    try:
        texts = datatype == "BYTES"
        flat = _strings(data, shape) if texts else numbers(data, math.prod(shape), _IN_JSON[kind.kind])
        values = np.empty(len(flat), dtype=kind)
        values[:] = flat
        return values.reshape(tuple(shape))
    except (ValueError, OverflowError) as error:
        raise InputError(f"the values do not make a tensor {datatype} {list(shape)}: {error}") from None


def _strings(data: msgspec.Raw, shape: Sequence[int]) -> list[Any]:
    """Return the elements of BYTES in one list."""
    nested = b"".join(bytes(memoryview(data)[:100]).split()).startswith(b"[[")
    if len(shape) != 2 or not nested:
        return strings(data)
    return [element for row in strings(data, shape[1]) for element in row or [None] * shape[1]]


def tensor_from_bytes(data: memoryview, shape: Sequence[int], datatype: str) -> NDArray[Any]:
    """Return a tensor from its bytes. Each element of BYTES follows its length, in four bytes.

    Raises InputError if they do not fit.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        if 4 * count > len(data):
            raise InputError(f"{count} elements have {4 * count} bytes at least, got {len(data)}")
        values, position = np.empty(count, dtype=object), 0
        for place in range(count):
            if position + 4 > len(data):
                raise InputError(f"the bytes hold {place} elements, the shape says {count}")
            (length,) = struct.unpack_from("<I", data, position)
            values[place] = bytes(data[position + 4 : position + 4 + length])
            position += 4 + length
        if position != len(data):
            raise InputError(f"the elements of BYTES end at byte {position} of {len(data)}")
        return values.reshape(tuple(shape))
    kind = DATATYPES[datatype]
    if count * kind.itemsize != len(data):
        raise InputError(
            f"a tensor {datatype} {list(shape)} has {count * kind.itemsize} bytes, got {len(data)}"
        )
    return np.frombuffer(data, dtype=kind).reshape(tuple(shape))


def tensor_bytes(values: NDArray[Any]) -> bytes:
    """Return the bytes of a tensor, as `tensor_from_bytes` takes them; texts are UTF-8, None is empty."""
    if values.dtype != object:
        return values.tobytes()
    elements = [(text or "").encode() for text in values]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)
