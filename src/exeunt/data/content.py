"""Hashes of content: a 64-bit key of one input, and a fingerprint of a whole data set."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.data.items import HELD_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from exeunt.data.items import Items

N_SAMPLED = 64


def content_key(content: NDArray[np.uint8] | str) -> int:
    """Return the 64-bit key of an input: blake2b over the shape and the decoded pixels, or over the text.

    The same picture stored in two formats has one key.
    """
    if isinstance(content, str):
        digest = hashlib.blake2b(content.encode(), digest_size=8)
    else:
        digest = hashlib.blake2b(repr(content.shape).encode(), digest_size=8)
        digest.update(np.ascontiguousarray(content).data)
    return int.from_bytes(digest.digest(), "little")


def bytes_key(content: Any) -> int:
    """Return the 64-bit key of an input as stored: cheap, but blind to the same picture re-encoded."""
    return int.from_bytes(hashlib.blake2b(_raw(content), digest_size=8).digest(), "little")


def is_small(items: Items) -> bool:
    """Whether the source is small enough to be read through for a hash (1 GiB as stored)."""
    return items.nbytes <= HELD_BYTES


def fingerprint(items: Items, labels: NDArray[np.int64] | None, class_names: tuple[str, ...] | None) -> str:
    """Return 32 hexadecimal digits that stand for the content and the labels.

    A source of up to 1 GiB is read in full; of a larger one, the labels, the number of inputs, the total
    size and 64 evenly spaced inputs are, and the fingerprint starts with "sampled-".
    """
    small = is_small(items)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((len(items), class_names, None if small else items.nbytes)).encode())
    if labels is not None:
        digest.update(labels.astype("<i8").tobytes())
    n = len(items)
    rows = range(n) if small else np.linspace(0, n - 1, min(n, N_SAMPLED)).astype(int)
    for row in rows:
        raw = _raw(items[int(row)])
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return ("" if small else "sampled-") + digest.hexdigest()


def _raw(content: Any) -> bytes:
    if isinstance(content, Path):
        return content.read_bytes() if content.is_file() else b""
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, np.ndarray):
        return repr(content.shape).encode() + content.tobytes()
    return bytes(content)
