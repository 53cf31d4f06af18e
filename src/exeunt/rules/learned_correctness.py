"""A policy in the manner of EENet (Ilhan et al. 2023), re-derived.

There a small network per exit scores confidences and the agreement of earlier exits, and a distribution over exits is
learned under the budget. Here the score is a logistic regression on the same evidence, and the distribution comes from
line searches.
"""

from __future__ import annotations

from functools import partial

from exeunt.policy.allocation_search import line_search_paths, mean_of_paths
from exeunt.policy.compose import Composition, FitPart, composed
from exeunt.policy.learned_quality import correctness_score


@composed
def learned_correctness(part: FitPart) -> Composition:
    """Answers where the exit is most likely right, as learned from the fit part.

    The rates are searched with the learned score. `score`: the main confidence that is learned from. It also takes the
    arguments of all policies, see `compose`.
    """
    fit, score = part.scored
    rule = correctness_score(fit, score)
    paths = line_search_paths(fit, rule, 3, part.seed)
    return Composition(partial(mean_of_paths, paths), rule)
