"""How good each exit's answer is, learned from labels or losses by logistic regressions on the outputs so far."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from exeunt._support.arrays import Booleans, Floats, Integers
from exeunt.score.confidence import BEFORE_EXITS, log_softmax
from exeunt.score.gate import Gate, gate_columns, gate_names
from exeunt.score.learned import Grid, LearnedScore, features
from exeunt.trace import ExitTrace
from exeunt.trace.derived import cached_on_trace

_SHRINK = 0.01
"""Ridge on the weights of a logistic regression, per input."""


@dataclass(frozen=True, eq=False)
class Features:
    """Features of inputs at exits, usually all but the last: `columns` (n, f) each, `n_main` of the main score."""

    grid: Grid
    columns: list[Floats]
    n_main: int

    @cached_property
    def spread(self) -> Floats:
        """Standard deviation of each feature, (f,), over inputs and exits."""
        return np.asarray(np.sqrt(np.mean([c.var(axis=0) for c in self.columns], axis=0)) + 1e-9)

    def score(self, weights: Floats, intercept: Floats, name: str = "advantage") -> LearnedScore:
        """Return the score with these weights (m-1, f) and intercepts (m-1,)."""
        main, further = weights[:, : self.n_main], weights[:, self.n_main :]
        return LearnedScore(self.grid, main, further, intercept, history=True, name=name)


@cached_on_trace
def features_of(fit: ExitTrace, score: str | None = None, *, last: bool = False) -> Features:
    """Return the features of a trace, also at the last exit if wanted.

    `score`: the main confidence, by default the trace's own.
    """
    grid = Grid.of(fit.scores, fit.default_score if score is None else score)
    columns: list[Floats] = []
    memory: dict[str, Any] = {}
    n_main = 0
    for exit_ in range(fit.n_exits if last else max(fit.n_exits - 1, 1)):
        main, further, memory = features(grid, fit.evidence(exit_), memory, history=True)
        n_main = len(main)
        columns.append(np.stack([*main, *further], axis=1))
    return Features(grid, columns, n_main)


@cached_on_trace
def correctness_score(fit: ExitTrace, score: str | None = None, *, last: bool = False) -> LearnedScore:
    """Return the log-odds of being right at each exit, usually but the last, by penalised logistic regressions."""
    learned, quality = features_of(fit, score, last=last), fit.quality
    spread = learned.spread
    rows = [
        _logistic(columns / spread, quality[:, exit_])
        for exit_, columns in enumerate(learned.columns[: fit.n_exits - (not last)])
    ]
    weights = np.array([row[1:] / spread for row in rows]).reshape(len(rows), len(spread))
    return learned.score(weights, np.array([row[0] for row in rows]), "correctness")


@cached_on_trace
def denoised_correctness(fit: ExitTrace, score: str | None = None) -> Floats:
    """Return the probability (n, m) that each exit is right, given the outputs of all exits and the labels.

    A label says whether an exit was right, with much noise. Where two exits agree, both are right or both wrong. Where
    they differ, their confidences and the votes of the other exits tell much about which one is right. The probability
    of being right given all of this has the same mean as the label and a smaller spread, above all for *differences*
    between exits, on which stopping and rates depend. It comes from a penalised logistic regression per exit. `score`
    names the confidence that it uses.
    """
    name = fit.default_score if score is None else score
    grid = Grid.of(fit.scores, name)
    rank = np.stack([grid.rank(name, column) for column in fit.scores[name].T], axis=1)
    quality = fit.quality
    chance = np.empty_like(quality)
    for exit_ in range(fit.n_exits):
        x = _evidence(rank, fit.prediction == fit.prediction[:, [exit_]], exit_)
        x /= x.std(axis=0) + 1e-9
        weights = _logistic(x, quality[:, exit_])
        chance[:, exit_] = expit(weights[0] + x @ weights[1:])
    return chance


@cached_on_trace
def quality_at_gate(fit: ExitTrace) -> Floats:
    """Return weights (f + 1, m) of the gate's features and a 1: the log-odds of each exit's quality."""
    columns = fit.features[BEFORE_EXITS].astype(np.float64)
    spread = columns.std(axis=0) + 1e-9
    fitted = [_logistic(columns / spread, quality) for quality in fit.quality.T]
    return np.array([[*weights[1:] / spread, weights[0]] for weights in fitted]).T


@cached_on_trace
def best_depth_gate(fit: ExitTrace, price: float) -> tuple[Gate, Floats]:
    """Return a gate that predicts the best exit of an input, and the share of `fit` that it sends to each exit (m,).

    The best exit has the highest quality less its cost, at a `price` in quality per cost of the full network. A
    penalised multinomial logistic regression on what exit 0 tells learns it, as ECO-M2F's gate does.
    """
    names = gate_names(fit.evidence(0), fit.scores)
    columns = np.stack(gate_columns(fit.evidence(0), names), axis=1)
    centre, spread = columns.mean(axis=0), columns.std(axis=0) + 1e-9
    best = (fit.quality - price * fit.cost.cumulative / fit.cost.full).argmax(axis=1)
    scaled = (columns - centre) / spread
    weights = _multinomial(scaled, best, fit.n_exits)
    chosen = (scaled @ weights[:-1] + weights[-1]).argmax(axis=1)
    return Gate(names, centre, spread, weights), np.bincount(chosen, minlength=fit.n_exits) / fit.n


def _multinomial(z: Floats, kind: Integers, k: int) -> Floats:
    """Return weights (f + 1, k) of the log-odds of each kind (n,) on z (n, f) of unit spread, the intercepts last."""
    x = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    target = np.eye(k)[kind]
    penalty = np.full((x.shape[1], 1), _SHRINK)
    penalty[-1] = 1e-6

    def loss(flat: Floats) -> tuple[float, Floats]:
        w = flat.reshape(-1, k)
        logs = log_softmax(x @ w)
        objective = -(target * logs).sum() / len(x) + (penalty * w**2).sum() / 2
        slope = x.T @ (np.exp(logs) - target) / len(x) + penalty * w
        return float(objective), slope.ravel()

    solution: Floats = minimize(
        loss, np.zeros(x.shape[1] * k), jac=True, method="L-BFGS-B", options={"maxiter": 60}
    ).x
    return solution.reshape(-1, k)


def _logistic(x: Floats, right: Floats) -> Floats:
    """Return (intercept, weights...) (1 + f,) of the log-odds of `right` (n,) in [0, 1] on x (n, f) of unit spread."""
    centre = x.mean(axis=0)
    z = np.concatenate([np.ones((len(x), 1)), x - centre], axis=1)
    penalty = np.full(z.shape[1], _SHRINK)
    penalty[0] = 1e-6

    def loss(w: Floats) -> tuple[float, Floats]:
        odds = z @ w
        objective = np.logaddexp(0.0, odds).mean() - (right * odds).mean() + penalty @ w**2 / 2
        return float(objective), z.T @ (expit(odds) - right) / len(z) + penalty * w

    solution: Floats = minimize(
        loss, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 40}
    ).x
    solution[0] -= centre @ solution[1:]
    return solution


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
