"""Labels without their noise: how likely each exit was right, given everything that all exits have shown.

A label says whether an exit was right, with much noise. Where two exits agree, both are right or both wrong. Where
they differ, their confidences and the other exits' votes say a good deal about which one is right. The probability of
being right given all of this has the same mean as the label and a smaller spread, above all for *differences* between
exits, on which stopping and rates depend. It comes from a penalised logistic regression.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from exeunt._arrays import Booleans, Floats
from exeunt.score.learned import Grid
from exeunt.trace import ExitTrace
from exeunt.trace.cache import cached_on_trace

__all__ = ["denoised_correctness", "logistic"]


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


_SHRINK = 0.01


@cached_on_trace
def denoised_correctness(fit: ExitTrace, score: str | None = None) -> Floats:
    """Return the chance (n, m) in [0, 1] that each exit is right, by a logistic regression per exit.

    `score` names the confidence that it is judged by.
    """
    name = fit.default_score if score is None else score
    grid = Grid.of(fit.scores, name)
    rank = np.stack([grid.rank(name, column) for column in fit.scores[name].T], axis=1)
    correct = fit.correct.astype(np.float64)
    chance = np.empty_like(correct)
    for exit_ in range(fit.n_exits):
        x = _evidence(rank, fit.prediction == fit.prediction[:, [exit_]], exit_)
        x /= x.std(axis=0) + 1e-9
        weights = logistic(x, correct[:, exit_], _SHRINK)
        chance[:, exit_] = expit(weights[0] + x @ weights[1:])
    return chance


def _evidence(rank: Floats, agree: Booleans, exit_: int) -> Floats:
    """Return features (n, f) of one exit's answer; `agree` (n, m): which exits give the same one."""
    here, last = rank[:, exit_], rank[:, -1]
    same = agree[:, -1].astype(np.float64)
    return np.stack(
        [
            *_bent(here),
            same,
            (1 - same) * last,
            *(same * bent for bent in _bent(last)),
            agree[:, : exit_ + 1].mean(axis=1),
            agree[:, exit_:].mean(axis=1),
            (rank * agree).mean(axis=1),
            (rank * ~agree).mean(axis=1),
        ],
        axis=1,
    )


def _bent(rank: Floats) -> list[Floats]:
    return [rank, (rank - 0.5).clip(0.0), (rank - 0.8).clip(0.0)]
