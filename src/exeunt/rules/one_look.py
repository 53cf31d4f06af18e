"""One look: an input's exit is chosen at the network's gate, before any exit is run.

Exits on the way are neither run nor scored (docs/explanation/method.md, "One look").
"""

from __future__ import annotations

from functools import partial

import numpy as np

from exeunt._support.arrays import Floats
from exeunt.errors import InputError
from exeunt.policy.allocation_search import RatePath
from exeunt.policy.compose import Composition, FitPart, composed
from exeunt.policy.learned_quality import quality_at_gate
from exeunt.score.confidence import BEFORE_EXITS
from exeunt.score.one_look import OneLook

_PRICES = np.concatenate([[0.0], np.geomspace(1e-3, 10.0, 80)])
"""Quality that the full network's cost is worth, from deep to shallow."""


@partial(composed, own_score=True, one_look=True)
def one_look(part: FitPart) -> Composition:
    """Chooses an input's exit at the network's gate, and runs that exit alone.

    The gate tells features of the input, which are known before any exit is run (`exeunt train --gate`). From these a
    logistic regression predicts the quality of each exit's answer; an input goes to the exit of the highest quality
    less cost, at the price that meets the budget. (The gate of ECO-M2F, Yao et al. 2024, learns the best exit itself.)
    Costs are those of the exit that answers, without the heads before it. It also takes the arguments of all policies,
    see `compose`.

    Raises InputError for a network without a gate.
    """
    fit, cost = part.trace, part.trace.cost
    if BEFORE_EXITS not in fit.features:
        raise InputError(
            "one_look chooses an exit by the features of the network's gate, and this trace has none: train the "
            "network with a gate (--gate STAGE), or take a policy that looks at every exit, such as auto"
        )
    weights = quality_at_gate(fit)
    scores = [OneLook(weights, price * cost.cumulative / cost.full) for price in _PRICES]
    quality = scores[0].quality(fit.features[BEFORE_EXITS])
    path = np.stack([_shares(quality - score.prices) for score in scores])
    nearest = int(np.argmin(np.abs(path @ cost.cumulative - part.budget)))
    return Composition(RatePath.through(path, cost.cumulative), scores[nearest])


def _shares(worth: Floats) -> Floats:
    """Return the share of inputs (m,) whose worth (n, m) is highest at each exit."""
    return np.bincount(worth.argmax(axis=1), minlength=worth.shape[1]) / len(worth)
