"""Breaking ties between equal scores: one uniform number per input, a seeded hash of its key.

The paper adds uniform noise to the class probabilities (Eq. 4-5) so that scores have no atoms. A hash does
the same without changing a score, and gives an input the same number in calibration, replay and serving, in any batch
or order. Inputs are compared by (score, tie), first by score.

There are two kinds of keys, and a policy uses one kind in calibration and in use. Keys of the content are
equal for copies of an input, so copies leave together. Keys of rows, or of requests, differ between copies.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np

from exeunt._support.arrays import Floats, Integers, Keys

Ties: TypeAlias = Literal["content", "row"]
"""The keys that break ties: of an input's content, or of its row."""

_GOLDEN, _FIRST, _SECOND = map(np.uint64, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_30, _27, _31, _11 = map(np.uint64, (30, 27, 31, 11))


def scramble(keys: Keys) -> Keys:
    """Return splitmix64 of each key: a bijection on 64 bits whose values look independent and uniform."""
    z = keys + _GOLDEN  # arrays wrap around without a warning
    z = (z ^ (z >> _30)) * _FIRST
    z = (z ^ (z >> _27)) * _SECOND
    return z ^ (z >> _31)


def distinct_tie_breaks(id_: Keys, seed: int) -> Floats:
    """Return `tie_breaks` (n,) that differ between copies of one key as well.

    For a whole batch from which exact shares must be released, even if inputs repeat.
    """
    return tie_breaks(distinct_keys(id_), seed)


def distinct_keys(id_: Keys) -> Keys:
    """Return keys (n,) that differ between copies, by how many came before; the first copy keeps its key."""
    order = np.argsort(id_, kind="stable")
    ordered = id_[order]
    first = np.ones(len(id_), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    if first.all():
        return id_
    places = np.arange(len(id_))
    copies = np.empty(len(id_), dtype=np.uint64)
    copies[order] = (places - np.maximum.accumulate(np.where(first, places, 0))).astype(np.uint64)
    return np.where(copies > 0, scramble(id_ ^ scramble(copies)), id_)


def row_keys(source: Any, rows: Keys | Integers) -> Keys:
    """Return the keys (n,) of the rows (n,) of a source: anything whose `repr` tells it from other sources."""
    digest = hashlib.blake2b(repr(source).encode(), digest_size=8).digest()
    return scramble(np.frombuffer(digest, dtype=np.uint64) ^ scramble(rows.astype(np.uint64)))


@lru_cache(maxsize=64)
def _offset(seed: int) -> np.uint64:
    offset: np.uint64 = scramble(np.array([seed % 2**64], dtype=np.uint64))[0]
    return offset


def tie_breaks(id_: Keys, seed: int) -> Floats:
    """Return (n,) numbers in [0, 1), uniform over inputs, fixed by each input's key and the seed."""
    return (scramble(id_ ^ _offset(seed)) >> _11).astype(np.float64) * 2.0**-53
