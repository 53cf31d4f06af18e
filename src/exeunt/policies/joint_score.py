"""Two learned scores in one: the advantage of answering now, and the odds of being right now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exeunt.learned_score import LearnedScore
from exeunt.policies.correctness import correctness_score
from exeunt.policies.stopping import learned

if TYPE_CHECKING:
    from exeunt.trace import ExitTrace

__all__ = ["joint_score"]


def joint_score(fit: ExitTrace, advantage: LearnedScore, score: str | None = None) -> LearnedScore:
    """Return the mean, exit by exit, of a learned advantage and learned correctness, each of unit spread on `fit`.

    Both rank the inputs of an exit by the same features but err in ways of their own. Only the order within an
    exit counts once the rates are given, so each may be scaled as one likes.
    """
    correctness = correctness_score(fit, score)
    columns = learned(fit, score).columns
    main, further = np.zeros_like(advantage.main), np.zeros_like(advantage.further)
    intercept = np.zeros_like(advantage.intercept)
    for rule in (advantage, correctness):
        for exit_, level in enumerate(rule.intercept):
            weights = np.concatenate([rule.main[exit_], rule.further[exit_]])
            scale = 0.5 / (float((columns[exit_] @ weights).std()) + 1e-9)
            main[exit_] += scale * rule.main[exit_]
            further[exit_] += scale * rule.further[exit_]
            intercept[exit_] += scale * level
    return LearnedScore(advantage.grid, main, further, intercept, advantage.history, title="joint")
