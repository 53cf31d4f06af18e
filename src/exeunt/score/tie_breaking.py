"""Breaking ties between equal scores: one uniform number per input, a seeded hash of its key.

The paper adds uniform noise to the class probabilities (Eq. 4-5) so that scores have no atoms. A hash does
the same without changing a score, and gives an input the same number in calibration, replay and serving, in any batch
or order. Inputs are compared by (score, tie), first by score.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from exeunt._arrays import Floats, Keys

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

    For sets of inputs from which exact shares must be released, even if inputs repeat.
    """
    copies = copy_numbers(id_)
    return tie_breaks(id_ if copies is None else keys_of_copies(id_, copies), seed)


def copy_numbers(id_: Keys) -> Keys | None:
    """Return how many copies of each key came before it, (n,); None if no key occurs twice."""
    order = np.argsort(id_, kind="stable")
    ordered = id_[order]
    first = np.ones(len(id_), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    if first.all():
        return None
    places = np.arange(len(id_))
    copies = np.empty(len(id_), dtype=np.uint64)
    copies[order] = (places - np.maximum.accumulate(np.where(first, places, 0))).astype(np.uint64)
    return copies


def keys_of_copies(id_: Keys, copies: Keys) -> Keys:
    """Return keys (n,) that differ between copies; the first copy, number 0, keeps its key."""
    return np.where(copies > 0, scramble(id_ ^ scramble(copies)), id_)


@lru_cache(maxsize=64)
def _offset(seed: int) -> np.uint64:
    offset: np.uint64 = scramble(np.array([seed % 2**64], dtype=np.uint64))[0]
    return offset


def tie_breaks(id_: Keys, seed: int) -> Floats:
    """Return (n,) numbers in [0, 1), uniform over inputs, fixed by each input's key and the seed."""
    return (scramble(id_ ^ _offset(seed)) >> _11).astype(np.float64) * 2.0**-53
