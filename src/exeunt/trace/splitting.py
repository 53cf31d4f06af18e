"""Random parts of a data set, drawn row by row, or group by group.

Rows are independent draws from the inputs to come, whatever contents they share. So copies of an input may lie in
several parts: a part that held all copies of a frequent input, or none, would be no sample of the inputs to come.
Where rows come in groups, groups are the independent draws, and no group lies in two parts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from exeunt._support import arrays
from exeunt._support.arrays import Integers, Keys
from exeunt._support.text import counted
from exeunt.errors import InputError
from exeunt.trace.groups import Groups, n_units

_ORDER = 0x7E57  # keeps the order of tests apart from other random choices of the same seed


def part_rows(
    id_: Keys, shares: Mapping[str, float], seed: int, groups: Groups | None = None
) -> list[Integers]:
    """Return the rows of disjoint random parts with these shares of all inputs, or of all groups, ascending.

    Raises InputError if a share is not above 0, they add up to more than 1, or a part comes out empty.
    """
    for name, share in shares.items():
        arrays.check_between(share, name, 0.0, 1.0)
    if sum(shares.values()) > 1 + 1e-9:
        raise InputError(f"the parts add up to {sum(shares.values()):g} of the inputs, more than 1: {shares}")
    units, kind = _units(id_, groups)
    ends = np.rint(np.cumsum(list(shares.values())) * len(units)).astype(int)
    parts = np.split(_in_random_order(units, seed), ends)[: len(shares)]
    for name, part in zip(shares, parts, strict=True):
        if len(part) == 0:
            raise InputError(
                f"the part {name!r} is empty: {shares[name]:g} of {counted(len(units), kind)} is none"
            )
    return [np.sort(_rows(part, groups)) for part in parts]


def folds_of(
    id_: Keys, folds: int, seed: int, groups: Groups | None = None
) -> list[tuple[Integers, Integers]]:
    """Return (all other rows, its own rows) of each fold, ascending, for cross-validation.

    Raises InputError for fewer than 2 folds, or fewer inputs or groups than folds.
    """
    units, kind = _units(id_, groups)
    if folds < 2 or len(units) < folds:
        raise InputError(
            f"cross-validation needs at least 2 folds and as many {kind}s, got {folds} folds for {len(units)}: give "
            f"more labelled {kind}s to fit"
        )
    order = _in_random_order(units, seed)
    own = [np.sort(_rows(order[fold::folds], groups)) for fold in range(folds)]
    return [(np.delete(np.arange(len(id_)), rows), rows) for rows in own]


def shaping_and_testing_rows(
    n: int, share: float, seed: int, groups: Groups | None = None, *, part: str = "calibration"
) -> tuple[Integers, Integers]:
    """Divide n inputs at random into rows that shape a policy, `share` of them, and rows that test or teach it.

    `part`: the name of the inputs, for messages.

    Both are in random order, with groups group by group: the tests bet on one input or group after the other, and the
    given rows may be sorted, or hold copies side by side.

    Raises InputError if either part is empty.
    """
    size, kind = n_units(n, groups), "input" if groups is None else "group"
    order, shaping = random_order(size, seed), round(share * size)
    if shaping in (0, size):
        raise InputError(
            f"{counted(size, f'{part} {kind} is', f'{part} {kind}s are')} too few: some give thresholds, and others "
            f"{'test' if part == 'calibration' else 'teach'} the policy"
        )
    return _rows(order[:shaping], groups), _rows(order[shaping:], groups)


def rows_to_test(n: int, seed: int, groups: Groups | None = None) -> Integers:
    """Return all n rows in random order, with groups group by group, see `shaping_and_testing_rows`."""
    return _rows(random_order(n_units(n, groups), seed), groups)


def bootstrap_rows(n: int, rng: np.random.Generator, groups: Groups | None = None) -> Integers:
    """Return the rows of a bootstrap sample of n rows, or of their groups: as many, drawn with replacement."""
    size = n_units(n, groups)
    return _rows(rng.integers(0, size, size), groups)


def random_order(n: int, seed: int) -> Integers:
    """Return a random order of n rows or groups to test on, which no other random choice of the same seed shares."""
    return np.random.default_rng([seed, _ORDER]).permutation(n)


def shuffled(keys: Keys, permutation: Integers) -> Integers:
    """Return the rows (n,) with these keys in the order of a random permutation.

    Where all keys differ the result does not depend on the order of the rows. Where some are equal it must not depend
    on the keys: a frequent input would come at the same places in every sample.
    """
    by_key = np.argsort(keys)
    all_differ = (np.diff(keys[by_key]) != 0).all()
    return by_key[permutation] if all_differ else permutation


def _units(id_: Keys, groups: Groups | None) -> tuple[Keys, str]:
    """Return the keys of what is exchangeable, and its name."""
    return (id_, "input") if groups is None else (groups.names, "group")


def _rows(units: Integers, groups: Groups | None) -> Integers:
    return units if groups is None else groups.rows(units)


def _in_random_order(id_: Keys, seed: int) -> Integers:
    return shuffled(id_, np.argsort(np.random.default_rng(seed).permutation(len(id_))))
