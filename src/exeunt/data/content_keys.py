"""Keys of inputs of data that are opened by name, and a hash of all of them.

Keys tell inputs apart, keep copies in one part of a split, and break ties in recordings and predictions of such data.
Arrays that a runner gets without keys have keys from `exeunt.engine.inputs`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exeunt._places import RemotePath
from exeunt.data.stored_inputs import StoredInputs, is_small

_N_SAMPLED = 64


def content_key(content: NDArray[np.uint8] | str | tuple[str, ...]) -> int:
    """Return the 64-bit key of a decoded input: blake2b over the shape and the pixels, or over the text or texts.

    An image stored in two formats has one key.
    """
    if isinstance(content, (str, tuple)):
        digest = hashlib.blake2b(_raw(content), digest_size=8)
    else:
        digest = hashlib.blake2b(repr(content.shape).encode(), digest_size=8)
        digest.update(np.ascontiguousarray(content).data)
    return int.from_bytes(digest.digest(), "little")


def stored_key(stored: Any) -> int:
    """Return the 64-bit key of an input as stored: cheap, but one image in two formats has two keys."""
    return int.from_bytes(hashlib.blake2b(_raw(stored), digest_size=8).digest(), "little")


def fingerprint(
    inputs: StoredInputs, labels: NDArray[np.int64] | None, class_names: tuple[str, ...] | None
) -> str:
    """Return a hash of the inputs and their labels, 32 hexadecimal digits.

    Up to 1 GiB is read in full. Of larger data the hash covers the labels, the number of inputs, the total size and
    64 evenly spaced inputs, and it starts with "sampled-".
    """
    small = is_small(inputs)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((len(inputs), class_names, None if small else inputs.nbytes)).encode())
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    n = len(inputs)
    rows = range(n) if small else np.linspace(0, n - 1, min(n, _N_SAMPLED)).astype(int)
    for row in rows:
        raw = _raw(inputs[int(row)])
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return ("" if small else "sampled-") + digest.hexdigest()


def _raw(stored: Any) -> bytes:
    if isinstance(stored, (Path, RemotePath)):
        try:
            return stored.read_bytes() if stored.is_file() else b""
        except PermissionError:  # as if the image were missing
            return b""
    if isinstance(stored, str):
        return stored.encode()
    if isinstance(stored, np.ndarray):
        return repr(stored.shape).encode() + stored.tobytes()
    return stored if isinstance(stored, bytes) else repr(stored).encode()  # a pair of texts, or a BadCell
