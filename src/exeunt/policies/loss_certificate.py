"""The certificate that answering early loses at most so much accuracy, and the p-values that it rests on.

A p-value tests "the mean loss is above the bound". It holds for any distribution of losses in a known range. Reject
at delta, and the mean loss is within the bound with probability at least 1 - delta. The losses are those of inputs
that had no part in making the policy.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import binom

from exeunt import _arrays
from exeunt.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from exeunt._arrays import Floats
    from exeunt.policy import Policy

__all__ = ["LossCertificate", "betting", "hoeffding_bentkus"]

_AIM = 0.05


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


def betting(loss: ArrayLike, bound: float) -> float:
    """Return the betting p-value of n losses in [-1, 1] for H0: mean loss > `bound`.

    A gambler starts with 1 and stakes a share on each loss being below the bound; under H0 the capital
    is a supermartingale, so by Ville's inequality 1 / (highest capital) is a p-value (Waudby-Smith and Ramdas
    2024). The stake, sqrt(2 log(1 / 0.05) / (n variance)) with the variance of the inputs before (their Eq. 26),
    is the one that makes most of n inputs at a level near 0.05, and adapts to losses that vary little. The order
    of the inputs matters, so it must not depend on the losses.
    """
    values = _checked(loss, -1.0)
    n = len(values)
    if n == 0 or bound >= 1:
        return 1.0 if n == 0 else 0.0
    # Mean and variance of what came before each input, started from a guess that counts as one input.
    seen = np.arange(1, n + 1)
    mean = np.cumsum(np.concatenate([[bound / 2], values[:-1]])) / seen
    spread = np.cumsum(np.concatenate([[0.25], (values[:-1] - mean[:-1]) ** 2])) / seen
    # Never stake so much that one loss could bring ruin.
    stake = np.minimum(np.sqrt(2 * math.log(1 / _AIM) / (n * spread)), 0.9 / (1.0 - bound))
    capital = np.cumsum(np.log1p(stake * (bound - values)))
    return float(min(1.0, math.exp(-max(float(capital.max()), 0.0))))


def _checked(loss: ArrayLike, lowest: float) -> Floats:
    values = _arrays.floats(loss, "loss", ndim=1)
    if len(values) and (values.min() < lowest or values.max() > 1):
        raise InputError(
            f"losses must lie in [{lowest:g}, 1], got {values.min():g} to {values.max():g}: rescale them first"
        )
    return values


_NOTE = "loss_certificate"


@dataclass(frozen=True)
class LossCertificate:
    """The promise P(accuracy >= that of the full network - max_loss) >= 1 - delta.

    `reference`: the member that a chain is measured against instead of the full network.

    `p_value` is that of the policy, `bound` the name of the bound it comes from, `loss` the loss of accuracy
    measured on the `n_test` labelled inputs that were tested on.
    """

    max_loss: float
    delta: float
    p_value: float
    bound: str
    loss: float
    n_test: int
    reference: str | None = None

    @classmethod
    def of(cls, policy: Policy) -> LossCertificate | None:
        """Return the certificate that a policy carries in its notes, if any."""
        kept = policy.notes.get(_NOTE)
        return (
            None
            if kept is None
            else cls(**{one.name: kept[one.name] for one in fields(cls) if one.name in kept})
        )

    def on(self, policy: Policy) -> Policy:
        """Return the policy with this certificate."""
        return replace(policy, notes={**policy.notes, _NOTE: {**asdict(self), "text": f"certified: {self}"}})

    def __str__(self) -> str:
        change = f"{100 * abs(self.loss):.2f} points {'gained' if self.loss < 0 else 'lost'}"
        return (
            f"P(accuracy >= that of {self.reference or 'the full network'} - {100 * self.max_loss:.4g} points) >= "
            f"{1 - self.delta:g}: {change} on the {self.n_test} labelled inputs "
            f"tested on, p = {self.p_value:.2g} ({self.bound.replace('_', '-')} bound)"
        )
