"""Learned correctness: the surest inputs are those most likely to be right, and the exit shares are learned.

In the manner of EENet (Ilhan et al. 2023), re-derived: there a small network per exit scores confidences and
the agreement of earlier exits, and a distribution over exits is learned under the budget. Here the score is
a logistic regression on the same evidence, and the distribution comes from line searches.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from exeunt.policies.answering import answering
from exeunt.policies.compose import compose
from exeunt.policies.denoised_correctness import logistic
from exeunt.policies.line_search import line_search_paths
from exeunt.policies.main_confidence import MainConfidence
from exeunt.policies.rate_path import mean_of_paths
from exeunt.policies.stopping import learned
from exeunt.policy import Policy
from exeunt.score.kinds import Score
from exeunt.score.learned import LearnedScore
from exeunt.trace import ExitTrace, check_disjoint
from exeunt.trace.cache import cached_on_trace

__all__ = ["correctness_score", "learned_correctness"]


@answering
def learned_correctness(
    fit: ExitTrace,
    calibrate: ExitTrace,
    *,
    budget: float | str,
    score: str | Score | None = None,
    shrink: float = 0.01,
    seed: int = 0,
    **options: Any,
) -> Policy:
    """Release the inputs that are most likely right, at rates learned with that score.

    `score`: the main confidence, `shrink` is the ridge on all weights. The other options are those of
    `compose`.
    """
    check_disjoint(fit, calibrate)
    main = MainConfidence.of(fit, score)
    rule = correctness_score(main.fit, main.name, shrink)
    paths = line_search_paths(main.fit, rule, 3, seed)
    return compose(
        "learned_correctness",
        partial(mean_of_paths, paths),
        fit,
        calibrate,
        budget=budget,
        score=main.under(rule),
        seed=seed,
        **options,
    )


@cached_on_trace
def correctness_score(fit: ExitTrace, score: str | None = None, shrink: float = 0.01) -> LearnedScore:
    """Return the log-odds of being right at each exit but the last, by penalised logistic regressions."""
    learner = learned(fit, score)
    spread = np.sqrt(np.mean([c.var(axis=0) for c in learner.columns], axis=0)) + 1e-9
    correct = fit.correct.astype(np.float64)
    rows = [
        logistic(columns / spread, correct[:, exit_], shrink)
        for exit_, columns in enumerate(learner.columns[: fit.n_exits - 1])
    ]
    weights = np.array([row[1:] / spread for row in rows]).reshape(len(rows), len(spread))
    return LearnedScore(
        learner.grid,
        weights[:, : learner.n_main],
        weights[:, learner.n_main :],
        np.array([row[0] for row in rows]),
        learner.history,
        title="correctness",
    )
