"""Bets that a mean is below 0, read as often as one likes: what a promise on live traffic rests on.

Each of several frozen plans is tested on units that had no part in it. A unit brings Z, whose mean is at least 0 if the
promise is false. Four gamblers stake fixed shares of their capital on Z being below 0; the mean of their capitals is
the wealth. Under a false promise it is a nonnegative supermartingale, so it ever reaches 1 / delta with probability
delta at most (Ville's inequality; Waudby-Smith and Ramdas 2024). Stakes never depend on how many units there are.

Units of a period are bet on together, when all of them have closed, and wealth is read between periods only: hours of a
day differ, and units that end early are not like those that end late.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from exeunt._support.arrays import Floats, Integers

STAKES = np.array([0.1, 0.25, 0.5, 0.95])
"""Of the capital, as shares of what a unit can bring at most."""
_WEIGHTS = (0.05, 0.15, 0.25, 0.20, 0.15, 0.10)
TIGHTER = (0.2, 0.4, 0.6, 0.8)
"""Shares of a promised limit that are tested beside it, each with a wealth of its own."""
_POWER = NormalDist().inv_cdf(0.8)
_LARGEST = 700.0
"""The logarithm of a wealth that is as good as any above it, and is a number still."""


def weight(proposal: int) -> float:
    """Return the share of delta that the proposal of this number has, from 1; all of them add up to 1.

    >>> round(sum(weight(k) for k in range(1, 100_000)), 4)
    1.0
    """
    if proposal <= len(_WEIGHTS):
        return _WEIGHTS[proposal - 1]
    later = proposal - len(_WEIGHTS)
    return 0.1 / (later * (later + 1))


def log_factors(values: Floats, highest: float) -> Floats:
    """Return by how much the logarithm of each stake's capital grows over units (u,), as (4,).

    `values`: Z of each unit, at most `highest`, at least about -1. The order of units makes no difference.
    """
    return np.asarray(_growth(values, highest).sum(axis=1))


def units_needed(values: Floats, highest: float, level: float | Floats) -> float:
    """Return about how many units like these it takes until the logarithm of one stake's capital has grown by its
    level, a number or (4,), with a chance of 80%: the fewest of the four; infinite where none grows.
    """
    growth = _growth(values, highest)
    mean, spread, left = growth.mean(axis=1), _POWER * growth.std(axis=1), np.maximum(level, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        units = ((spread + np.sqrt(spread**2 + 4 * mean * left)) / (2 * mean)) ** 2
    return float(np.min(np.where(left == 0, 0.0, units)[mean > 0], initial=math.inf))


def _growth(values: Floats, highest: float) -> Floats:
    """Return by how much the logarithm of each stake's capital grows with each unit, (4, u)."""
    return np.asarray(np.log1p(-STAKES[:, None] * (np.minimum(values, highest) / highest)))


def wealth(logs: Floats) -> float:
    """Return the mean of the stakes' capitals, given the logarithms (4,)."""
    return math.exp(min(float(np.logaddexp.reduce(logs)) - math.log(len(logs)), _LARGEST))


def n_passed(wealths: Sequence[Mapping[str, float]], needed: float) -> int:
    """Return how many plans have passed in a row from the first: a fixed sequence, so that no correction is needed.

    `wealths`: of each plan, in the order of the walk, the highest wealth so far of each promise. A plan passes when all
    of its promises have reached `needed`.
    """
    for place, promises in enumerate(wealths):
        if not promises or not all(each >= needed for each in promises.values()):
            return place
    return len(wealths)


def loss_values(lost: Floats, unit: Integers, n_units: int, limit: float, most_rows: int) -> Floats:
    """Return Z of units for the promise that a request loses at most `limit` on average, (n_units,).

    `lost` (n,): what the first `most_rows` requests of units lose, in [-1, 1]; `unit` (n,): which unit each is of. Over
    all requests, later ones losing nothing, E[Z] >= 0 where the mean loss per request is at least the limit.
    """
    return np.bincount(unit, weights=lost - limit, minlength=n_units) / most_rows


def cost_values(
    cost: Floats, allowed: Floats, unit: Integers, n_units: int, most_rows: int, cap: float
) -> Floats:
    """Return Z of units for the promise that requests cost at most what is allowed on average, (n_units,).

    `cost`, `allowed` (n,): of the first `most_rows` requests of units; `cap`: the most that one can cost.
    """
    return np.bincount(unit, weights=cost - allowed, minlength=n_units) / (most_rows * cap)
