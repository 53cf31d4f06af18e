"""The last useful exit: beyond it, no later one is right where it is wrong, on labels enough to tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from exeunt.costs import CostModel
from exeunt.trace import ExitTrace
from exeunt.trace.cache import cached_on_trace

if TYPE_CHECKING:
    from exeunt._arrays import Floats

__all__ = ["last_useful_exit", "padded", "up_to_exit"]


_ENOUGH = 600
"""Where none of n inputs was mended, later exits mend at most 3 / n of all with 95 % confidence: here half a point."""


def last_useful_exit(fit: ExitTrace) -> int:
    """Return the first exit such that no later one is right on any labelled input that it gets wrong.

    With fewer than 600 inputs it is the last exit: too few to tell that later ones mend nothing.
    """
    if fit.n < _ENOUGH:
        return fit.n_exits - 1
    correct = fit.correct
    later = np.logical_or.accumulate(correct[:, :0:-1], axis=1)[:, ::-1]  # whether any later exit is right
    helps = np.append((later & ~correct[:, :-1]).any(axis=0), False)
    return int(helps.argmin())


@cached_on_trace
def up_to_exit(fit: ExitTrace, last: int) -> ExitTrace:
    """Return the trace of the network that ends at exit `last`: the same one each time, for what is cached on it."""
    kept = slice(0, last + 1)
    cost = CostModel(fit.cost.cumulative[kept], unit=fit.cost.unit, source=fit.cost.source)
    scores = {name: score[:, kept] for name, score in fit.scores.items()}
    return ExitTrace(fit.prediction[:, kept], scores, cost, fit.label, fit.id)


def padded(rates: Floats, n_exits: int) -> Floats:
    """Return rates (k,) of the first exits as rates (n_exits,): nothing is answered at the others."""
    return np.pad(rates, (0, n_exits - len(rates)))
