"""The key of an input that was given none: a hash of its content.

Ties between equal scores are broken by the key (see `exeunt.score.tie_breaking`). A number would not do: it depends on
the batch and the order that an input comes in, and the first input of every batch would share one tie. Data that are
opened by name have keys of their own, see `exeunt.data.content_keys`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from exeunt._arrays import Keys
from exeunt._text import counted
from exeunt.errors import InputError

__all__ = ["input_keys"]

_MASK = "attention_mask"
_HASHED = {"f": "<f4", "c": "<c8", "i": "<i8", "u": "<i8"}  # the type that is hashed, by kind of number


def input_keys(inputs: Any, n: int) -> Keys:
    """Return the key (n,) of each of n inputs: XXH3 of its values, 64 bits. Equal inputs have equal keys.

    `inputs`: an array or tensor of one row per input, a tuple or list of such, or a mapping of names to such. Several
    arrays count in their order, those of a mapping in the order of their names.
    Real numbers are hashed in single precision, whole ones in 64 bits (bytes stay bytes), so that single or double
    precision makes no difference. Nor does the padding of texts: of arrays of the shape of "attention_mask" (n, t),
    only entries where that is not 0 are hashed. Of raw inputs, each an object, the text, texts or pixels are.

    Raises InputError for anything else, or another number of rows.
    """
    arrays = {name: _plain(value) for name, value in _by_name(inputs).items()}
    if not arrays or any(array.ndim == 0 or len(array) != n for array in arrays.values()):
        shapes = [array.shape for array in arrays.values()]
        raise InputError(
            f"inputs must be arrays of {counted(n, 'row')} to have keys of their content, got shapes {shapes}: give id"
        )
    keys = [0] * n
    for array in arrays.values():
        rows = _rows(array, arrays.get(_MASK))
        keys = [xxh3_64_intdigest(row, key) for row, key in zip(rows, keys, strict=True)]
    return np.array(keys, dtype=np.uint64)


def _by_name(inputs: Any) -> dict[str, Any]:
    if hasattr(inputs, "items"):
        return dict(sorted(inputs.items()))
    if isinstance(inputs, (tuple, list)):
        return {str(place): value for place, value in enumerate(inputs)}
    return {"0": inputs}


def _plain(value: Any) -> NDArray[Any]:
    """Return an array or a tensor, wherever it lies, as a NumPy array of a type that is hashed."""
    if hasattr(value, "detach"):  # of PyTorch, some of whose types NumPy lacks
        value = (value.float() if value.is_floating_point() else value).numpy(force=True)
    array = np.asarray(value)
    if array.dtype.kind == "O":
        return array
    if array.dtype.itemsize == 1 and array.dtype.kind in "iub":
        return array.view(np.uint8)
    if array.dtype.kind not in _HASHED:
        raise InputError(f"inputs of type {array.dtype} have no keys of their content: give id")
    return array.astype(_HASHED[array.dtype.kind], copy=False)


def _rows(array: NDArray[Any], mask: NDArray[Any] | None) -> Iterable[Any]:
    """Return what counts of each row, as contiguous memory."""
    if array.dtype.kind == "O":
        return (_bytes(value) for value in array)
    if mask is not None and mask.ndim == 2 and array.shape == mask.shape:
        return (row[shown] for row, shown in zip(array, mask != 0, strict=True))
    return np.ascontiguousarray(array.reshape(len(array), math.prod(array.shape[1:])))


def _bytes(value: Any) -> bytes:
    """Return the content of a raw input: a text, a tuple of texts, or pixels."""
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return repr(value.shape).encode() + np.ascontiguousarray(value).tobytes()
    if isinstance(value, str) or (isinstance(value, tuple) and all(isinstance(one, str) for one in value)):
        return repr(value).encode()
    raise InputError(f"inputs of type {type(value).__name__} have no keys of their content: give id")
