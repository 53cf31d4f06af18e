"""Inputs as the engine and executors take them: keys of their content, raw batches, the padded length of texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from exeunt._support.arrays import Booleans, Keys
from exeunt._support.text import counted
from exeunt.errors import InputError

_MASK = "attention_mask"
_HASHED = {"f": "<f4", "c": "<c8", "i": "<i8", "u": "<i8"}  # the type that is hashed, by kind of number


def input_keys(inputs: Any, n: int) -> Keys:
    """Return the key (n,) of each of n inputs without one: XXH3 of its values, 64 bits. Equal inputs have equal keys.

    The key breaks ties between equal scores (see `exeunt.score.tie_breaking`). A running number would not do: it
    depends on the batch and the order of the inputs, and the first input of every batch would share one tie. Data that
    are opened by name have keys of their own, see `exeunt.data.dataset`.

    `inputs`: an array or tensor of one row per input, a tuple or list of such, or a mapping of names to such. Several
    arrays are hashed in their order, those of a mapping in the order of their names.
    Real numbers are hashed in single precision, whole ones in 64 bits (bytes stay bytes), so that single or double
    precision makes no difference. Nor does the padding of texts: of arrays with the shape of "attention_mask" (n, t),
    only entries where the mask is not 0 are hashed. Of a raw input, an object, the text, texts or pixels are hashed.

    Raises InputError for anything else, or another number of rows.
    """
    arrays = {name: _plain(array) for name, array in inputs_by_name(inputs).items()}
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


def inputs_by_name(inputs: Any) -> dict[str, Any]:
    """Return arrays by name: those of a mapping in the order of their names, others as "0", "1", ..."""
    if hasattr(inputs, "items"):
        return dict(sorted(inputs.items()))
    if isinstance(inputs, (tuple, list)):
        return {str(place): array for place, array in enumerate(inputs)}
    return {"0": inputs}


def n_rows(inputs: Any) -> int:
    """Return how many rows inputs have; 0 if that is unknown."""
    if type(inputs) is np.ndarray and inputs.ndim:
        return len(inputs)
    try:
        return len(next(iter(inputs_by_name(inputs).values()), ()))
    except TypeError:
        return 0


def joined_inputs(parts: Sequence[Any]) -> Any:
    """Return the inputs of several tickets as one: arrays, or mappings of names to arrays, of equal sizes and types.

    Raises InputError for any others.
    """
    first = parts[0]
    if isinstance(first, np.ndarray):
        kind = first.dtype, first.shape[1:]
        if all(isinstance(part, np.ndarray) and (part.dtype, part.shape[1:]) == kind for part in parts):
            return np.concatenate(parts)
    elif hasattr(first, "items") and all(
        hasattr(part, "items") and part.keys() == first.keys() for part in parts
    ):
        return {name: joined_inputs([part[name] for part in parts]) for name in first}
    raise InputError("only arrays of equal sizes and types are joined")


def _plain(array_like: Any) -> NDArray[Any]:
    """Return an array or a tensor, on any device, as a NumPy array of a type that is hashed."""
    if hasattr(array_like, "detach"):  # a tensor of PyTorch, which has types that NumPy lacks
        array_like = (array_like.float() if array_like.is_floating_point() else array_like).numpy(force=True)
    array = np.asarray(array_like)
    if array.dtype.kind == "O":
        return array
    if array.dtype.itemsize == 1 and array.dtype.kind in "iub":
        return array.view(np.uint8)
    if array.dtype.kind not in _HASHED:
        raise InputError(f"inputs of type {array.dtype} have no keys of their content: give id")
    return array.astype(_HASHED[array.dtype.kind], copy=False)


def _rows(array: NDArray[Any], mask: NDArray[Any] | None) -> Iterable[Any]:
    """Return what is hashed of each row, as contiguous memory."""
    if array.dtype.kind == "O":
        return (content_bytes(row) for row in array)
    if mask is not None and mask.ndim == 2 and array.shape == mask.shape:
        return (row[shown] for row, shown in zip(array, mask != 0, strict=True))
    return np.ascontiguousarray(array.reshape(len(array), math.prod(array.shape[1:])))


def content_bytes(row: Any) -> bytes:
    """Return the content of a raw input: a text, a tuple of texts, or pixels. Raises InputError for anything else."""
    if isinstance(row, np.ndarray) and row.dtype.kind != "O":
        return repr(row.shape).encode() + np.ascontiguousarray(row).tobytes()
    if isinstance(row, str) or (isinstance(row, tuple) and all(isinstance(text, str) for text in row)):
        return repr(row).encode()
    raise InputError(f"inputs of type {type(row).__name__} have no keys of their content: give id")


def raw_batch(inputs: Any) -> tuple[NDArray[Any], Booleans]:
    """Return raw inputs, which are prepared later, as one array of numbers or objects; and which are finite, (n,)."""
    arrays = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    raw = np.asarray(arrays[0]) if len(arrays) == 1 else None
    if raw is None or raw.ndim == 0:
        raise InputError(
            f"this takes 1 array(s), of raw inputs, a row each; got {len(arrays)}: make it with runner.prepare"
        )
    valid: Booleans = np.ones(len(raw), dtype=np.bool_)
    if raw.dtype.kind == "f":
        valid &= np.isfinite(raw).all(axis=tuple(range(1, raw.ndim)))
    return raw, valid


def raw_rows(values: Sequence[Any]) -> NDArray[Any]:
    """Return values as an array of objects (n,)."""
    return np.fromiter(values, dtype=object, count=len(values))


def padded_length(tokens: int, longest: int | None) -> int:
    """Return the length that texts of so many tokens are padded to: a multiple of 8, above 64 tokens of 32.

    Few lengths let rows of several batches be joined. `longest`: the limit of the network, None for none. Raises
    InputError for more tokens than that.
    """
    if longest is not None and tokens > longest:
        raise InputError(f"these texts have {tokens} tokens and the network takes {longest}: truncate them")
    multiple = 8 if tokens <= 64 else 32
    rounded = max(1, -(-tokens // multiple)) * multiple
    return rounded if longest is None else min(rounded, longest)
