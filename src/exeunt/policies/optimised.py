"""Rates that maximise accuracy on the labelled fit inputs under the budget."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from exeunt.policies.chosen_score import chosen_scores
from exeunt.policies.line_search import price_path
from exeunt.policies.memo import kept_with_trace
from exeunt.policies.rate_path import RatePath, mean_of_paths
from exeunt.presets import compose
from exeunt.trace import check_disjoint

if TYPE_CHECKING:
    from exeunt._arrays import Floats
    from exeunt.policy import Policy
    from exeunt.scores import Score
    from exeunt.trace import ExitTrace

__all__ = ["optimised", "optimised_paths"]


def optimised(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    score: str | Score | None = None,
    resamples: int = 6,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """Rates found by exact line searches over the thresholds of each exit (see `line_search`).

    The rates that are best on some 3,000 inputs chase their noise: here the search runs on `resamples`
    bootstrap samples and the rates are averaged. The other options are those of `compose`.
    """
    check_disjoint(fit, calibrate)
    paths = optimised_paths(fit, score, resamples, seed)
    return compose(
        "optimised", partial(mean_of_paths, paths), fit, calibrate, budget=budget, score=score, seed=seed,
        **options,
    )  # fmt: skip


@kept_with_trace
def optimised_paths(
    fit: ExitTrace, score: str | Score | None = None, resamples: int = 6, seed: int = 0
) -> tuple[RatePath, ...]:
    """Return one path of rates per bootstrap sample: they serve every budget, so they are kept."""
    scores, correct = chosen_scores(score, fit), fit.correct.astype(np.float64)
    rng = np.random.default_rng(seed)

    def path(rows: Any) -> RatePath:
        return price_path(_finite(scores[rows]), correct[rows], fit.cost.cumulative)

    if resamples < 1:
        return (path(slice(None)),)
    return tuple(path(rng.integers(0, fit.n, fit.n)) for _ in range(resamples))


def _finite(scores: Floats) -> Floats:
    """Infinite scores would meet the thresholds "never" and "always"."""
    return np.nan_to_num(scores, posinf=np.finfo(np.float64).max, neginf=np.finfo(np.float64).min)
