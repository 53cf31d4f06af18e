"""The last useful exit: beyond it, no later one is right where it is wrong, on labels enough to tell."""

from __future__ import annotations

import numpy as np

from exeunt._arrays import Floats
from exeunt.costs import CostModel
from exeunt.trace import ExitTrace
from exeunt.trace.cache import cached_on_trace

__all__ = ["last_useful_exit", "padded", "up_to_exit"]


_MENDED = 0.004
"""Share of all inputs that later exits may be expected to mend, where they mended none of those that are known."""


def last_useful_exit(fit: ExitTrace) -> int:
    """Return the first exit such that no later one is right on any labelled input that it gets wrong.

    The labels must be enough to tell. Of n inputs w are wrong, and none of them is mended: by Laplace's rule of
    succession (w + 1) / (n + 2) of all inputs are wrong, and 1 / (w + 2) of these mended. That must be at most 0.4 % of
    all inputs. It takes 123 labels where an exit is always right, and up to 248 where it is often wrong.
    """
    correct = fit.correct
    later = np.logical_or.accumulate(correct[:, :0:-1], axis=1)[:, ::-1]  # whether any later exit is right
    wrong = (~correct[:, :-1]).sum(axis=0)
    may_mend = (wrong + 1) / (fit.n + 2) / (wrong + 2) > _MENDED
    helps = np.append((later & ~correct[:, :-1]).any(axis=0) | may_mend, False)
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
