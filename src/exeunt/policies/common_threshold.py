"""One confidence threshold for all exits."""

from __future__ import annotations

from typing import Any

import numpy as np

from exeunt._arrays import Floats
from exeunt.policies.answering import answering
from exeunt.policies.compose import compose
from exeunt.policy import Policy
from exeunt.score.kinds import Score
from exeunt.trace import ExitTrace
from exeunt.trace.scoring import score_matrix

__all__ = ["common_threshold"]


@answering
def common_threshold(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    score: str | Score | None = None,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """One confidence threshold for all exits, tuned to the budget on the fit inputs.

    Its shares are then calibrated like any others, so that the thresholds release them exactly and can be
    certified; they agree with the common one up to sampling. Needs no labels.
    """
    scores = score_matrix(score, fit)
    # The most that an input showed up to each exit: with threshold t it leaves where this first reaches t.
    best_so_far = np.maximum.accumulate(scores[:, :-1], axis=1)

    def rates(amount: float) -> Floats:
        return _common_threshold_rates(best_so_far, fit.cost.cumulative, amount)

    return compose(
        "common_threshold", rates, fit, calibrate, budget=budget, score=score, seed=seed, **options
    )


def _common_threshold_rates(best_so_far: Floats, cost: Floats, budget: float) -> Floats:
    """Return the shares of the highest common threshold whose mean cost is within the budget."""
    n, m = len(best_so_far), len(cost)

    def shares(threshold: float) -> Floats:
        reached = (best_so_far >= threshold).sum(axis=0) / n
        leaving: Floats = np.diff(np.concatenate([reached, [1.0]]), prepend=0.0)
        return leaving

    values = np.unique(best_so_far)
    # Mean cost rises with the threshold; find the highest value that is affordable.
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if shares(values[middle]) @ cost <= budget else (low, middle)
    rates = shares(values[low]) if m > 1 and len(values) else np.eye(m)[0]
    if rates @ cost > budget:
        first: Floats = np.eye(m)[0]
        return first
    beyond = shares(values[high]) if high < len(values) else np.eye(m)[m - 1]
    # Mix with the next value up, so that the whole budget is planned.
    gap = (beyond - rates) @ cost
    share = min((budget - rates @ cost) / gap, 1.0) if gap > 0 else 0.0
    mixed: Floats = (1 - share) * rates + share * beyond
    return mixed
