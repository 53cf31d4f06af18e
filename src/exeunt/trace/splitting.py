"""Random parts of a data set. Inputs with the same key stay together, so no two parts share an input."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from exeunt import _arrays
from exeunt._arrays import Integers, Keys
from exeunt._text import counted
from exeunt.errors import InputError
from exeunt.score.tie_breaking import tie_breaks


def part_rows(id_: Keys, shares: Mapping[str, float], seed: int) -> list[Integers]:
    """Return the rows of disjoint random parts with these shares of all inputs, ascending.

    Raises InputError if a share is not above 0, they add up to more than 1, or a part comes out empty.
    """
    for name, share in shares.items():
        _arrays.check_between(share, name, 0.0, 1.0)
    if sum(shares.values()) > 1 + 1e-9:
        raise InputError(f"the parts add up to {sum(shares.values()):g} of the inputs, more than 1: {shares}")
    n_keys, position = _shuffled(id_, seed)
    ends = np.rint(np.cumsum(list(shares.values())) * n_keys).astype(int)
    parts = [
        np.flatnonzero((position >= a) & (position < b)) for a, b in zip([0, *ends[:-1]], ends, strict=True)
    ]
    for name, part in zip(shares, parts, strict=True):
        if len(part) == 0:
            raise InputError(
                f"the part {name!r} is empty: {shares[name]:g} of {counted(len(id_), 'input')} is none"
            )
    return parts


def folds_of(id_: Keys, folds: int, seed: int) -> list[tuple[Integers, Integers]]:
    """Return (all other rows, its own rows) of each fold, ascending, for cross-validation.

    Raises InputError for fewer than 2 folds, or fewer distinct inputs than folds.
    """
    n_keys, position = _shuffled(id_, seed)
    if folds < 2 or n_keys < folds:
        raise InputError(
            f"cross-validation needs at least 2 folds and as many inputs, got {folds} folds for {n_keys}: give more "
            "labelled inputs to fit"
        )
    fold_of = position % folds
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(folds)]


def shaping_and_testing_rows(id_: Keys, share: float, seed: int) -> tuple[Integers, Integers]:
    """Divide calibration inputs into rows that set thresholds, about `share` of them, and rows that test them.

    Inputs are divided by a hash of their keys and returned in its order, so that copies stay together. The tests bet
    on one input after the other, so the order must not depend on the data: the given rows may be sorted by class.

    Raises InputError if either part is empty.
    """
    hashes = tie_breaks(id_, seed + 1)
    order, n = np.argsort(hashes), int(np.sum(hashes < share))
    if n in (0, len(id_)):
        raise InputError(
            f"{counted(len(id_), 'calibration input is', 'calibration inputs are')} too few to calibrate on some "
            "and test on others"
        )
    return order[:n], order[n:]


def _shuffled(id_: Keys, seed: int) -> tuple[int, Integers]:
    """Return the number of distinct keys, and for each row (n,) the position of its key in a random order of them."""
    distinct, key_of = np.unique(id_, return_inverse=True)
    position: Integers = np.random.default_rng(seed).permutation(len(distinct))[key_of]
    return len(distinct), position
