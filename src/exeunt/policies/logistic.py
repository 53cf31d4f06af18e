"""Penalised logistic regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

if TYPE_CHECKING:
    from exeunt._arrays import Floats

__all__ = ["logistic"]


def logistic(x: Floats, right: Floats, shrink: float) -> Floats:
    """Return (intercept, weights...) (1 + f,) of the log-odds of `right` (n,) in {0, 1} on x (n, f).

    `shrink`: ridge on the weights, per input; `x` had better be of unit spread.
    """
    centre = x.mean(axis=0)
    z = np.concatenate([np.ones((len(x), 1)), x - centre], axis=1)
    penalty = np.full(z.shape[1], shrink)
    penalty[0] = 1e-6

    def loss(w: Floats) -> tuple[float, Floats]:
        odds = z @ w
        value = np.logaddexp(0.0, odds).mean() - (right * odds).mean() + penalty @ w**2 / 2
        return float(value), z.T @ (expit(odds) - right) / len(z) + penalty * w

    found: Floats = minimize(
        loss, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 40}
    ).x
    found[0] -= centre @ found[1:]
    return found
