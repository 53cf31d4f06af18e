"""P-values of a mean: they test "the mean loss is above the bound", for any losses in a known range.

Reject at delta, and the mean loss is within the bound with probability at least 1 - delta.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom

from exeunt._support import arrays
from exeunt._support.arrays import Floats
from exeunt.errors import InputError

_quantile = NormalDist().inv_cdf
_AIM = 1.05
"""How far beyond 1 / delta the stakes aim: near the end a gambler may be close to the aim and lack losses to bet on."""
_LEAST = 1e-300
"""Least chance to reach the aim, as a number of its own."""


def hoeffding_bentkus(loss: ArrayLike, bound: float) -> float:
    """Return the Hoeffding-Bentkus p-value of n losses in [0, 1] for H0: mean loss > `bound`.

    The smaller of exp(-n kl(mean, bound)) and e * P(Bin(n, bound) <= ceil(n mean)); Bates et al. 2021, and
    "Learn then Test", Angelopoulos et al. 2021, Prop. 1. Needs nothing of the losses but their range; strong
    where they are 0 or 1. Raises InputError for losses outside [0, 1].
    """
    values = _checked(loss, 0.0)
    n, mean = len(values), float(values.mean()) if len(values) else 1.0
    if n == 0 or mean >= bound:
        return 1.0
    if bound >= 1:
        return 0.0
    kl = (mean * math.log(mean / bound) if mean > 0 else 0.0) + (1 - mean) * math.log(
        (1 - mean) / (1 - bound)
    )
    # A sum that is whole but for rounding must not be counted one up.
    bentkus = math.e * float(binom.cdf(math.ceil(n * mean - 1e-9), n, bound))
    return min(1.0, math.exp(-n * kl), bentkus)


def binomial(loss: ArrayLike, bound: float) -> float:
    """Return the exact p-value of n losses that are 0 or 1, for H0: mean loss > `bound`: P(Bin(n, bound) <= losses).

    Losses equal to `bound` are void, as a bet on them changes nothing: the test is of the others, given how many they
    are. Raises InputError for losses between 0 and 1 other than `bound`.
    """
    values = _checked(loss, 0.0)
    counted = values[values != bound]
    if not np.isin(counted, (0.0, 1.0)).all():
        raise InputError("the binomial law is that of losses of 0 or 1: use betting for losses between")
    return float(binom.cdf(counted.sum(), len(counted), bound))


def betting(loss: ArrayLike, bound: float, *, delta: float = 0.05) -> float:
    """Return the betting p-value of n losses in [-1, 1] for H0: mean loss > `bound`, to be compared with `delta`.

    A gambler starts with 1 and stakes a share of the capital on each loss being below the bound. Under H0 the capital
    is a supermartingale, whatever the stakes, so by Ville's inequality 1 / (highest capital) is a p-value
    (Waudby-Smith and Ramdas 2024). The order of the inputs matters: it must be random, or at least have nothing to do
    with the losses.

    The stakes aim at a capital of 1 / delta after n losses. A capital of p / delta is the price of an option that pays
    1 / delta if the sum of the losses ends low, which it does with chance p. The stake is the one that hedges it,
    phi(z) / (p sd sqrt(losses to come)), with z the normal quantile of p. So the mean that passes lies little more than
    z(delta) sd / sqrt(n) below the bound, as in a normal test, and the p-value is valid for any losses. From 1 / delta
    on the stake is sqrt(2 log(1 / delta) / (n variance)) (their Eq. 26). The variance is that of the earlier losses.
    """
    values = _checked(loss, -1.0)
    n = len(values)
    if n == 0 or bound >= 1:
        return 1.0 if n == 0 else 0.0
    limit = 0.9 / (1.0 - bound)  # never so much that one loss could bring ruin
    count = np.arange(1, n + 1)  # earlier losses, and a guess of mean and variance, which counts as one
    mean = np.cumsum(np.append(bound / 2, values[:-1])) / count
    spread = np.sqrt(np.cumsum(np.append(0.25, (values[:-1] - mean[:-1]) ** 2)) / count)
    hedging = 1 / (spread * np.sqrt(math.tau * count[::-1]))
    further = math.sqrt(2 * math.log(1 / delta) / n) / spread
    capital = highest = 1.0
    for gain, hedge, later in zip((bound - values).tolist(), hedging.tolist(), further.tolist(), strict=True):
        if highest * delta >= 1:
            stake = later
        else:
            p = chance if (chance := capital * delta / _AIM) > _LEAST else _LEAST
            stake = math.exp(_quantile(p) ** 2 / -2) / p * hedge
        capital *= 1 + (stake if stake < limit else limit) * gain  # `min` and `max` are slow in a loop
        if capital > highest:
            highest = capital
    return 1.0 / highest


LOSS_BOUNDS: dict[str, Callable[[Floats, float, float], float]] = {
    "betting": lambda loss, bound, delta: betting(loss, bound, delta=delta),
    # Only what got worse counts here, which is more than the loss of accuracy: still a valid bound on it.
    "hoeffding_bentkus": lambda loss, bound, _: hoeffding_bentkus(np.maximum(loss, 0.0), bound),
    "binomial": lambda loss, bound, _: binomial(loss, bound),
}
"""By name, p-values of n losses in [-1, 1], or of 0 or 1, for H0: mean loss > bound; arguments (loss, bound, delta)."""


def _checked(loss: ArrayLike, lowest: float) -> Floats:
    values = arrays.floats(loss, "loss", ndim=1)
    if len(values) and (values.min() < lowest or values.max() > 1):
        raise InputError(
            f"losses must lie in [{lowest:g}, 1], got {values.min():g} to {values.max():g}: rescale them first"
        )
    return values
