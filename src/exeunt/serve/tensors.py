"""Tensors of the Open Inference Protocol: in JSON, or as bytes behind it."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from exeunt.errors import InputError
from exeunt.serve.json_parts import numbers, strings

if TYPE_CHECKING:
    import msgspec

__all__ = ["DATATYPES", "from_bytes", "from_json", "to_bytes"]

_IN_JSON: Final[dict[str, type]] = {"b": bool, "u": int, "i": int, "f": float}
DATATYPES: Final[dict[str, Any]] = {
    "BYTES": np.dtype(object),
    "BOOL": np.dtype(bool),
    "UINT8": np.dtype("u1"),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


def from_json(data: msgspec.Raw, shape: Sequence[int], datatype: str) -> NDArray[Any]:
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


def from_bytes(data: memoryview, shape: Sequence[int], datatype: str) -> NDArray[Any]:
    """Return a tensor from its bytes. Elements of BYTES come after their length, in four bytes.

    Raises InputError if they do not fit.
    """
    count = math.prod(shape)
    if datatype == "BYTES":
        if 4 * count > len(data):
            raise InputError(f"{count} elements have {4 * count} bytes at least, got {len(data)}")
        values, at = np.empty(count, dtype=object), 0
        for place in range(count):
            if at + 4 > len(data):
                raise InputError(f"the bytes hold {place} elements, the shape says {count}")
            (length,) = struct.unpack_from("<I", data, at)
            values[place] = bytes(data[at + 4 : at + 4 + length])
            at += 4 + length
        if at != len(data):
            raise InputError(f"the elements of BYTES end at byte {at} of {len(data)}")
        return values.reshape(tuple(shape))
    kind = DATATYPES[datatype]
    if count * kind.itemsize != len(data):
        raise InputError(
            f"a tensor {datatype} {list(shape)} has {count * kind.itemsize} bytes, got {len(data)}"
        )
    return np.frombuffer(data, dtype=kind).reshape(tuple(shape))


def to_bytes(values: NDArray[Any]) -> bytes:
    """Return the bytes of a tensor, as `from_bytes` takes them; texts are UTF-8, None is empty."""
    if values.dtype != object:
        return values.tobytes()
    elements = [(value or "").encode() for value in values]
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


def _strings(data: msgspec.Raw, shape: Sequence[int]) -> list[Any]:
    """Return the elements of BYTES in one list."""
    nested = b"".join(bytes(memoryview(data)[:100]).split()).startswith(b"[[")
    if len(shape) != 2 or not nested:
        return strings(data)
    return [one for row in strings(data, shape[1]) for one in row or [None] * shape[1]]
