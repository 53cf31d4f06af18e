"""Rates that maximise accuracy on the labelled fit inputs under the budget."""

from __future__ import annotations

from functools import partial

from exeunt.policy.compose import Composition, FitPart, composed
from exeunt.rate_search import line_search_paths, mean_of_paths


@composed
def optimised(part: FitPart) -> Composition:
    """Thresholds searched one after the other for the most right answers on the fit part.

    The line searches are exact. The best rates on some 3,000 inputs fit their noise. So the search runs on six
    bootstrap samples, and the rates are averaged. It also takes the arguments of all policies, see `compose`.
    """
    paths = line_search_paths(*part.scored, 6, part.seed)
    return Composition(partial(mean_of_paths, paths))
