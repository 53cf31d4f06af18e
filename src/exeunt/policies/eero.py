"""EERO, the paper's policy: the most confident inputs leave first, at rates by exponential weights."""

from __future__ import annotations

from functools import partial

from exeunt.allocation import Spend, exponential_weights
from exeunt.policy.compose import Composition, FitPart, composed


@composed
def eero(part: FitPart, *, temperature: float = 0.04, spend: Spend = "exactly") -> Composition:
    """The EERO paper's rates: exponential weights on each exit's error; the most confident leave first.

    The labelled fit part gives the errors (Prop. 3.8). `temperature`, `spend`: as for
    `exeunt.allocation.exponential_weights`. It also takes the arguments of all policies, see `compose`; with
    `calibration="marginal"` this is the paper's Algorithm 1.
    """
    return Composition(
        partial(exponential_weights, part.trace.risk, part.trace.cost, temperature=temperature, spend=spend)
    )
