"""Thresholds that maximise accuracy on the labelled fit inputs under the budget."""

from __future__ import annotations

from functools import partial
from typing import Any

from exeunt.policies.answering import answering
from exeunt.policies.compose import compose
from exeunt.policies.line_search import line_search_paths
from exeunt.policies.main_confidence import MainConfidence
from exeunt.policies.rate_path import mean_of_paths
from exeunt.policy import Policy
from exeunt.score.kinds import Score
from exeunt.trace import ExitTrace, check_disjoint

__all__ = ["optimised"]


@answering
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
    """Rates found by exact line searches over the thresholds of each exit.

    The best rates on some 3,000 inputs fit their noise. So the search runs on `resamples` bootstrap samples, and the
    rates are averaged. The other options are those of `compose`.
    """
    check_disjoint(fit, calibrate)
    main = MainConfidence.of(fit, score)
    paths = line_search_paths(main.fit, main.name, resamples, seed)
    return compose(
        "optimised", partial(mean_of_paths, paths), fit, calibrate, budget=budget, score=score, seed=seed,
        **options,
    )  # fmt: skip
