"""The confidence that a policy learns from: one that the trace holds, or any score that can be computed from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from exeunt.score.confidence import NamedScore
from exeunt.score.kinds import Derived
from exeunt.trace import ExitTrace
from exeunt.trace.cache import cached_on_trace
from exeunt.trace.scoring import as_score, score_matrix

if TYPE_CHECKING:
    from exeunt.score.kinds import Score

__all__ = ["MainConfidence"]


@dataclass(frozen=True, eq=False)
class MainConfidence:
    """The fit part `fit`, which holds the main confidence as `name`. `base` computes it, if the trace given did not."""

    fit: ExitTrace
    name: str
    base: Score | None

    @classmethod
    def of(cls, fit: ExitTrace, score: str | Score | None) -> MainConfidence:
        """Return the score of this name, by default the trace's own, or the values of a score object."""
        rule = as_score(score, fit)
        if isinstance(rule, NamedScore):
            return cls(fit, rule.name, None)
        name = rule.name
        while name in fit.scores:
            name += "'"
        # What is learned is cached by the values: a score may be unhashable, or change between two calls.
        return cls(_holding(fit, name, score_matrix(rule, fit).tobytes()), name, rule)

    def under(self, rule: Score) -> Score:
        """Return a score that was learned from `fit` as one that needs only what the trace given held."""
        return rule if self.base is None else Derived(self.base, self.name, rule)


@cached_on_trace
def _holding(fit: ExitTrace, name: str, values: bytes) -> ExitTrace:
    """Return the trace with one more score: the same one each time, as what is learned is cached on it."""
    matrix = np.frombuffer(values).reshape(fit.n, fit.n_exits)
    return replace(fit, scores={**fit.scores, name: matrix})
